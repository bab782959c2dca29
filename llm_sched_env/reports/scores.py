"""Scores as shares of R*: over cluster sizes with the bound, or policy by policy at one size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llm_sched_env.reports.charts import Curve, Dots, Level, curves_over_sizes, dots_by_row
from llm_sched_env.reports.page import Chart, Section

Rows = Sequence[Mapping[str, Any]]
"""Rows of ``results.csv``: instance, n_gpus, policy, score, score_low, score_high."""
_BOUND = Level(1.0, "bound R*")


def policies_of(rows: Rows) -> list[str]:
    """Labels of the policies in their order; their numbers are those of the series."""
    return list(dict.fromkeys(row["policy"] for row in rows))


def score_section(rows: Rows) -> Section:
    """A chart an instance: each policy's share of R*, with 95% intervals, and the bound."""
    labels = policies_of(rows)
    instances = list(dict.fromkeys(row["instance"] for row in rows))
    charts = [
        _chart(instance, [row for row in rows if row["instance"] == instance], labels)
        for instance in instances
    ]
    lead = (
        "Revenue as a share of R*, the most that any scheduler can earn in the long run on a "
        "cluster of any size."
    )
    if _has_intervals(rows):
        lead += " Shading, or a bar, is a 95% interval over replications."
    return Section("Scores", lead, charts, list(enumerate(labels)) if len(labels) > 1 else [])


def _chart(instance: str, rows: Rows, labels: list[str]) -> Chart:
    title = f"{instance}: share of R*"
    if len({row["n_gpus"] for row in rows}) == 1:
        return _by_policy(f"{title}, n = {rows[0]['n_gpus']}", rows, labels)
    curves = []
    for k, label in enumerate(labels):
        own = sorted((r for r in rows if r["policy"] == label), key=lambda r: int(r["n_gpus"]))
        if own:
            mean, low, high = (
                [_number(row[name]) for row in own] for name in ("score", "score_low", "score_high")
            )
            curves.append(Curve(k, label, [row["n_gpus"] for row in own], mean, low, high))
    caption = (
        "What to see: which policy is nearest to the dashed bound, and how many GPUs the others "
        "need to come as near."
    )
    return curves_over_sizes(title, curves, caption, levels=[_BOUND])


def _by_policy(title: str, rows: Rows, labels: list[str]) -> Chart:
    names = [row["policy"] for row in rows]
    dots = []
    for place, row in enumerate(rows):
        at = [math.nan] * len(rows)
        columns = {}
        for name in ("score", "score_low", "score_high"):
            columns[name] = [*at[:place], _number(row[name]), *at[place + 1 :]]
        k = labels.index(row["policy"])
        dots.append(Dots(k, row["policy"], *columns.values()))
    caption = "What to see: how far each policy stays from the dashed bound"
    caption += "; bars are 95% intervals." if _has_intervals(rows) else "."
    return dots_by_row(title, names, dots, caption, levels=[Level(1.0, "bound R*", upright=True)])


def _has_intervals(rows: Rows) -> bool:
    """Whether any score has one: a single run has not."""
    return any(math.isfinite(_number(row["score_low"])) for row in rows)


def _number(value: Any) -> float:
    return math.nan if value in (None, "") else float(value)
