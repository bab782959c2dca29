"""docs/reuse.md is what its rows give, and the rows are what runs give."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_sched_env.workloads.locations import data_folders
from research.pages import update_reuse
from research.pages.result_rows import read_results
from research.setups import reuse_runs


def test_the_page_is_what_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (update_reuse.DOCS / "reuse.md").read_text(encoding="utf-8")
    monkeypatch.setattr(update_reuse, "DOCS", tmp_path)
    update_reuse.main()
    assert (tmp_path / "reuse.md").read_text(encoding="utf-8") == kept


@pytest.mark.skipif(
    not any((folder / reuse_runs.TRACE).is_file() for folder in data_folders()),
    reason="needs the Mooncake trace",
)
def test_rows_are_what_runs_give() -> None:
    rows = read_results(reuse_runs.RESULTS)
    alone = next(r for r in rows if (r["part"], r["policy"]) == ("alone", "earliest-finish"))
    found = [
        reuse_runs.prefill_alone("earliest-finish", int(alone["blocks"]), seed)
        for seed in range(reuse_runs.SEEDS)
    ]
    mean = sum(run["ttft"] for run in found) / len(found)
    assert float(alone["ttft"]) == pytest.approx(mean, rel=1e-9)
    busy = next(r for r in rows if (r["part"], r["policy"]) == ("recorded", "reuse-bid"))
    own = reuse_runs.served("reuse-bid", int(busy["n_gpus"]), int(busy["blocks"]), 1.0, 0)
    assert own["ttft"] == pytest.approx(float(busy["ttft"]), rel=0.05)
    assert own["score"] <= 1.0
