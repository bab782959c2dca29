"""Compare numbers that are known only between a lower and an upper bound."""

from __future__ import annotations

from collections.abc import Sequence

from llm_sched_env.evaluation.results import Estimate
from research.framework.claims import Claim, Criterion
from research.framework.row_selection import selected
from research.framework.study import Row


def systems(rows: list[Row]) -> list[list[Row]]:
    """The rows of each system, in their order."""
    names = dict.fromkeys(row["system"] for row in rows)
    return [selected(rows, system=name) for name in names]


def middle(row: Row) -> float:
    """Halfway between the ends."""
    return float(row["lower"] + row["upper"]) / 2.0


def ratio(row: Row, other: Row) -> Estimate:
    """What a row earns of another one, by the outermost ends of both."""
    mean = middle(row) / middle(other)
    return Estimate(mean, (row["lower"] / other["upper"], row["upper"] / other["lower"]))


def part_of_gap(bound: float, best: Row, rule: Row) -> Estimate:
    """What part of a rule's gap to a bound the optimum has too, by the outermost ends of both."""
    mean = (bound - middle(best)) / (bound - middle(rule))
    least = (bound - best["upper"]) / (bound - rule["lower"])
    most = (bound - best["lower"]) / (bound - rule["upper"])
    return Estimate(mean, (least, most))


def gap_claim(statement: str, parts: Sequence[Estimate], least: float) -> Claim:
    """That the optimum has at least so much of a rule's gap to R*, on every system."""
    return Claim(
        statement,
        "this project",
        f"least part of its gap that the optimum has too, of {len(parts)} systems",
        min(parts, key=lambda part: part.mean),
        Criterion(low=least),
        shown=".3f",
    )


def simulator_claim(
    statement: str, rule: str, ratios: Sequence[Estimate], tolerance: float
) -> Claim:
    """That what a rule earns in simulations over what it earns exactly is 1 on every system."""
    return Claim(
        statement,
        "this project",
        f"{rule}, simulated over exact: the farthest from 1 of {len(ratios)} systems",
        max(ratios, key=lambda ratio: abs(ratio.mean - 1.0)),
        Criterion(1.0 - tolerance, 1.0 + tolerance),
    )
