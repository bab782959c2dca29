"""docs/groups.md is what its rows give, and the rows are what runs give."""

from __future__ import annotations

from pathlib import Path

import pytest

import llm_sched_env as lse
from research.pages import update_groups
from research.pages.result_rows import read_results
from research.setups.fleet_runs import (
    HORIZON,
    RESULTS,
    RUNS,
    SEED,
    SERVING,
    SIZES,
    WARMUP,
    instances,
    policies,
)


def test_the_page_is_what_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (update_groups.DOCS / "groups.md").read_text(encoding="utf-8")
    monkeypatch.setattr(update_groups, "DOCS", tmp_path)
    update_groups.main()
    assert (tmp_path / "groups.md").read_text(encoding="utf-8") == kept


def test_every_policy_has_its_rows() -> None:
    found = {(r["instance"], r["policy"], r["n_gpus"]) for r in read_results(RESULTS)}
    wanted = {(i, p, str(n)) for i in instances() for p in policies(i) for n in SIZES}
    assert found == wanted


@pytest.mark.parametrize("policy", ["token-bucket-static", "least-loaded"])
def test_a_row_is_what_a_run_gives(policy: str) -> None:
    wanted = ("mixed-fleet", policy, "5")
    (row,) = (
        r for r in read_results(RESULTS) if (r["instance"], r["policy"], r["n_gpus"]) == wanted
    )
    result = lse.evaluate(
        policy, "mixed-fleet", 5, horizon=HORIZON, warmup=WARMUP, replications=RUNS, seed=SEED
    )
    assert float(row["score"]) == pytest.approx(result.score.mean, rel=1e-9)


@pytest.mark.parametrize("name", ["mixed-fleet", "disaggregated"])
def test_the_best_rule_keeps_its_promise_on_the_presets(name: str) -> None:
    rows = [r for r in read_results(RESULTS) if (r["instance"], r["n_gpus"]) == (name, "20")]
    scores = {r["policy"]: float(r["score"]) for r in rows}
    best = max(scores.values())
    assert best >= 0.97
    assert best > max(scores[policy] for policy in SERVING if policy in scores)
