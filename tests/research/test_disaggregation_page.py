"""docs/disaggregation.md is what its rows give, and the rows are what runs give."""

from __future__ import annotations

from pathlib import Path

import pytest

import llm_sched_env as lse
from research.pages import update_disaggregation
from research.pages.result_rows import read_results
from research.setups.disaggregation_runs import (
    COLOCATED,
    HORIZON,
    N_GPUS,
    POLICIES,
    RESULTS,
    RUNS,
    SEED,
    WARMUP,
    instances,
    split,
)


def test_the_page_is_what_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (update_disaggregation.DOCS / "disaggregation.md").read_text(encoding="utf-8")
    monkeypatch.setattr(update_disaggregation, "DOCS", tmp_path)
    update_disaggregation.main()
    assert (tmp_path / "disaggregation.md").read_text(encoding="utf-8") == kept
    assert (tmp_path / "disaggregation.png").stat().st_size > 10_000


def test_every_split_and_policy_has_its_row() -> None:
    found = {
        (r["workload"], r["link"], r["prefill_gpus"], r["policy"]) for r in read_results(RESULTS)
    }
    assert found == {(*key, policy) for key in instances() for policy in POLICIES}


@pytest.mark.parametrize(("policy", "prefill_gpus"), [("token-bucket", 6), ("fcfs-and-route", 13)])
def test_a_row_is_what_a_run_gives(policy: str, prefill_gpus: int) -> None:
    wanted = ("chat", "25 Gbit/s", str(prefill_gpus), policy)
    (row,) = (
        r
        for r in read_results(RESULTS)
        if (r["workload"], r["link"], r["prefill_gpus"], r["policy"]) == wanted
    )
    result = lse.evaluate(
        policy, split("chat", "25 Gbit/s", prefill_gpus), N_GPUS,
        horizon=HORIZON, warmup=WARMUP, replications=RUNS, seed=SEED,
    )  # fmt: skip
    assert float(row["score"]) == pytest.approx(result.score.mean, rel=1e-9)
    assert float(row["goodput_share"]) == pytest.approx(
        result.goodput_rate.mean / result.bound, rel=1e-9
    )


def test_no_score_is_above_the_bound() -> None:
    for row in read_results(RESULTS):
        error = (float(row["score_high"]) - float(row["score"])) / 3.18  # of 3 degrees of freedom
        assert float(row["score"]) < 1.0 + 4.0 * max(error, 1e-4), row


def test_the_caption_says_what_the_rows_say() -> None:
    """A split always loses revenue; one wins goodput, where prompts are long and the link fast."""
    rows = read_results(RESULTS)
    wins = set()
    for workload in {row["workload"] for row in rows}:
        own = [row for row in rows if row["workload"] == workload]
        together = [row for row in own if row["prefill_gpus"] == COLOCATED]
        most = {
            name: max(float(row[name]) * float(row["bound"]) for row in together)
            for name in ("score", "goodput_share")
        }
        for row in own:
            if row["prefill_gpus"] != COLOCATED:
                assert float(row["score"]) * float(row["bound"]) < most["score"]
                if float(row["goodput_share"]) * float(row["bound"]) > most["goodput_share"]:
                    wins.add((workload, row["link"]))
    assert wins == {("reading", "400 Gbit/s")}
