"""docs/deadlines.md is what its rows give, and the rows are what runs give."""

from __future__ import annotations

from pathlib import Path

import pytest

import llm_sched_env as lse
from llm_sched_env.policies.registry import registered_policies
from research.pages import update_deadlines
from research.pages.result_rows import read_results
from research.setups.deadline_runs import (
    HORIZON,
    INSTANCE,
    OTHERS,
    POLICIES,
    RESULTS,
    RUNS,
    SEED,
    SIZES,
    WARMUP,
)


def test_the_page_is_what_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (update_deadlines.DOCS / "deadlines.md").read_text(encoding="utf-8")
    monkeypatch.setattr(update_deadlines, "DOCS", tmp_path)
    update_deadlines.main()
    assert (tmp_path / "deadlines.md").read_text(encoding="utf-8") == kept


def test_every_registered_policy_has_its_rows() -> None:
    found = {(row["instance"], row["policy"], row["n_gpus"]) for row in read_results(RESULTS)}
    wanted = {(INSTANCE, name, str(n)) for name in registered_policies() for n in SIZES}
    assert found == wanted | {(i, p, str(n)) for i in OTHERS for p in POLICIES for n in SIZES}


@pytest.mark.parametrize(
    ("instance", "policy"),
    [
        (INSTANCE, "earliest-deadline-first"),
        (INSTANCE, "fcfs-immediate"),
        ("deadlines-bursts", "slo-reserve"),
    ],
)
def test_a_row_is_what_a_run_gives(instance: str, policy: str) -> None:
    wanted = (instance, policy, "5", "all")
    (row,) = (
        r
        for r in read_results(RESULTS)
        if (r["instance"], r["policy"], r["n_gpus"], r["class"]) == wanted
    )
    result = lse.evaluate(
        policy,
        instance,
        5,
        revenue="goodput",
        horizon=HORIZON,
        warmup=WARMUP,
        replications=RUNS,
        seed=SEED,
    )
    assert float(row["goodput"]) == pytest.approx(result.score.mean, rel=1e-9)
    assert result.deadlines is not None
    assert float(row["good"]) == pytest.approx(result.deadlines.attainment, rel=1e-9)
