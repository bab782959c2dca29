"""Write docs/constraints.md from the measured rows (``make constraints`` measures them first)."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from statistics import fmean

from llm_sched_env.files.atomic import write_whole
from research.framework.paper_page import table_lines
from research.pages.result_rows import read_results, write_results
from research.setups.constraint_runs import (
    BUDGETS,
    HORIZON,
    INSTANCE,
    N_GPUS,
    RESULTS,
    RUNS,
    STEPS,
    TRAININGS,
    WARMUP,
    measure,
)

DOCS = Path(__file__).parents[2] / "docs"
_MILLI = 1000.0
_ROUNDING = 1e-9

Rows = list[dict[str, str]]


def main(folder: str | None = None) -> None:
    """Write the page; with a folder for trainings, measure first."""
    if folder is not None:
        write_results(measure(Path(folder)), RESULTS)
    rows = read_results(RESULTS)
    template = (Path(__file__).parent / "constraints_page.md").read_text(encoding="utf-8")
    page = template.format(
        instance=INSTANCE,
        n_gpus=N_GPUS,
        budgets=" and ".join(f"{_MILLI * budget:g} ms" for budget in BUDGETS),
        steps=f"{STEPS:,}",
        trainings=TRAININGS,
        runs=RUNS,
        horizon=f"{HORIZON:g}",
        warmup=f"{WARMUP:g}",
        tables="\n\n".join(_part(rows, budget) for budget in BUDGETS),
        free="\n".join(table_lines([_line(row, None) for row in _of(rows, None)])),
    )
    write_whole(DOCS / "constraints.md", page)


def _of(rows: Rows, budget: float | None) -> Rows:
    """Entrants that know a budget; trainings of one entrant are one row, their means."""
    told = "" if budget is None else str(budget)
    own = [row for row in rows if row["budget"] == told]
    merged = [row for row in own if not row["training"]]
    for entrant in dict.fromkeys(row["entrant"] for row in own if row["training"]):
        several = [row for row in own if row["entrant"] == entrant]
        numbers = [name for name in several[0] if name.startswith(("score", "cost"))]
        means = {name: str(fmean(float(row[name]) for row in several)) for name in numbers}
        merged.append({"entrant": entrant, "trainings": _range(several), **means})
    bound, *others = merged
    return [bound, *sorted(others, key=lambda row: -float(row["score"]))]


def _range(rows: Rows) -> str:
    scores = [100 * float(row["score"]) for row in rows]
    costs = [_MILLI * float(row["cost"]) for row in rows]
    return f"{min(scores):.2f} to {max(scores):.2f}; {min(costs):.3f} to {max(costs):.3f}"


def _line(row: dict[str, str], budget: float | None) -> dict[str, str]:
    line = {
        "entrant": f"`{row['entrant']}`" if row["entrant"] != "bound" else "bound (plan)",
        "% of R*": _interval(row, "score", 100.0, 2),
        "TPOT, ms": _interval(row, "cost", _MILLI, 3),
    }
    if budget is not None:
        line["budget"] = verdict(row, budget)
    line["trainings: score; TPOT"] = row.get("trainings", "")
    return line


def verdict(row: dict[str, str], budget: float) -> str:
    """Where the 95% interval of the cost lies: below the budget, at it, or above it."""
    if float(row["cost_high"]) < budget * (1 - _ROUNDING):
        return "below"
    return "above" if float(row["cost_low"]) > budget * (1 + _ROUNDING) else "at it"


def _place(row: dict[str, str], budget: float) -> str:
    place = verdict(row, budget)
    return "at the budget" if place == "at it" else f"{place} the budget"


def _interval(row: dict[str, str], name: str, scale: float, digits: int) -> str:
    mean, high = float(row[name]), float(row[f"{name}_high"])
    half = f"±{scale * (high - mean):.{digits}f}" if high > mean else ""
    return f"{scale * mean:.{digits}f}{half}"


def _part(rows: Rows, budget: float) -> str:
    own = _of(rows, budget)
    bound, *others = own
    keeping = [row for row in others if verdict(row, budget) != "above"]
    agent = next(row for row in others if row["entrant"] == "ppo-lagrangian")
    rules = [row for row in keeping if row["entrant"] != "ppo-lagrangian"]
    share = f"{float(bound['score']):.1%}"
    text = f"The bound is {share} of R*. "
    if rules:
        best = rules[0]
        text += (
            f"Of the rules that are not above the budget `{best['entrant']}` earns the most, "
            f"{float(best['score']):.1%}; it is {_place(best, budget)}. "
        )
    else:
        text += "All rules are above the budget. "
    text += (
        f"PPO-Lagrangian earns {float(agent['score']):.1%} with a TPOT of "
        f"{_MILLI * float(agent['cost']):.2f} ms; it is {_place(agent, budget)}."
    )
    lines = table_lines([_line(row, budget) for row in own])
    title = f"### A budget of {_MILLI * budget:g} ms"
    return "\n\n".join([title, textwrap.fill(text, 118), "\n".join(lines)])


if __name__ == "__main__":
    main(*sys.argv[1:])
