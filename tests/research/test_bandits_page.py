"""docs/bandits.md is what its rows give, and the rows are what runs give."""

from __future__ import annotations

from pathlib import Path

import pytest

from research.pages import update_bandits
from research.studies.biased_offline_data import CASES, MARKS, POLICIES, ROUNDS, RUNS


def test_the_page_is_what_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (update_bandits.DOCS / "bandits.md").read_text(encoding="utf-8")
    monkeypatch.setattr(update_bandits, "DOCS", tmp_path)
    update_bandits.main()
    assert (tmp_path / "bandits.md").read_text(encoding="utf-8") == kept


def test_every_policy_has_its_rows() -> None:
    rows = update_bandits.read_rows()
    found = {(r["policy"], r["direction"], r["bias"], r["rounds"]) for r in rows}
    expected = {(p, *case, mark) for p in POLICIES for case in CASES for mark in MARKS}
    assert found == expected
    assert len(rows) == RUNS * len(expected)


def test_rows_are_what_a_run_gives() -> None:
    cell = update_bandits.STUDY.cells(quick=False, seed=update_bandits.SEED)[RUNS]
    assert cell["rounds"] == ROUNDS
    computed = update_bandits.STUDY.compute(cell)
    shared = ("direction", "bias", "seed", "policy", "rounds")
    kept = {tuple(row[key] for key in shared): row for row in update_bandits.read_rows()}
    for row in computed:
        assert kept[tuple(row[key] for key in shared)]["regret"] == pytest.approx(row["regret"])
