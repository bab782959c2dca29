"""docs/constraints.md is what the measured rows say, and rows are what runs say."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from research.pages import update_constraints
from research.pages.result_rows import read_results
from research.setups import constraint_runs as runs


def test_the_page_is_written_from_the_rows(tmp_path, monkeypatch):
    kept = (update_constraints.DOCS / "constraints.md").read_text(encoding="utf-8")
    monkeypatch.setattr(update_constraints, "DOCS", tmp_path)
    update_constraints.main()
    assert (tmp_path / "constraints.md").read_text(encoding="utf-8") == kept


def test_every_entrant_has_a_row_for_each_budget():
    rows = read_results(runs.RESULTS)
    for budget in runs.BUDGETS:
        own = [row["entrant"] for row in rows if row["budget"] == str(budget)]
        assert own == ["bound", *runs.RULES, *["ppo-lagrangian"] * runs.TRAININGS]
    free = [row["entrant"] for row in rows if not row["budget"]]
    assert free == ["bound", *runs.RULES, *["ppo"] * runs.TRAININGS]


def test_nothing_that_keeps_a_budget_earns_more_than_the_bound():
    rows = read_results(runs.RESULTS)
    for budget in runs.BUDGETS:
        bound, *others = (row for row in rows if row["budget"] == str(budget))
        assert float(bound["cost"]) == pytest.approx(budget)
        for row in others:
            if update_constraints.verdict(row, budget) == "below":
                assert float(row["score_low"]) <= float(bound["score"])


def test_a_row_is_what_a_run_says():
    rows = read_results(runs.RESULTS)
    rule, budget = "token-bucket", runs.BUDGETS[1]
    kept = next(r for r in rows if (r["entrant"], r["budget"]) == (rule, str(budget)))
    measured = runs._rule(rule, budget)
    for name in ("score", "score_high", "cost", "cost_high"):
        assert float(kept[name]) == pytest.approx(measured[name], rel=1e-9)
    assert runs._bound(budget)["score"] == pytest.approx(
        next(float(r["score"]) for r in rows if r["budget"] == str(budget)), rel=1e-9
    )
