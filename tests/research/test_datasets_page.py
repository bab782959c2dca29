"""docs/datasets.md is what the measured rows say, and rows are what episodes say."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("minari")

from research.pages import update_datasets
from research.pages.result_rows import read_results
from research.setups import offline_runs as runs


def test_the_page_is_written_from_the_rows(tmp_path, monkeypatch):
    kept = (update_datasets.DOCS / "datasets.md").read_text(encoding="utf-8")
    monkeypatch.setattr(update_datasets, "DOCS", tmp_path)
    update_datasets.main()
    assert (tmp_path / "datasets.md").read_text(encoding="utf-8") == kept


def test_every_source_has_its_learners():
    rows = read_results(runs.RESULTS)
    for source in runs.SOURCES:
        own = [(row["learner"], row["training"]) for row in rows if row["data"] == source]
        seeds = [str(seed) for seed in range(runs.TRAININGS)]
        assert own == [("data", ""), *((m, seed) for m in runs.METHODS for seed in seeds)]


def test_a_row_is_what_episodes_say():
    rows = read_results(runs.RESULTS)
    for source in ("random", "best"):
        kept = next(r for r in rows if (r["learner"], r["data"]) == ("data", source))
        scores = runs._scores(*runs._acting(runs.RULE, runs.SOURCES[source]))
        assert float(kept["score"]) == pytest.approx(scores.mean(), rel=1e-9)
