"""Distributions of TTFT, TPOT and end-to-end latency, with the deadlines of the classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llm_sched_env.evaluation.latency_distribution import LEVELS
from llm_sched_env.model.instance import Instance
from llm_sched_env.reports.charts import Curve, Level, distribution
from llm_sched_env.reports.details import Detailed
from llm_sched_env.reports.page import Chart, Section

LATENCIES = {"ttft": "Time to first token", "tpot": "Time per output token", "e2e": "End to end"}
# Of more classes all requests together are shown.
_MOST_CLASSES = 3
LEAD = (
    "The share of requests that took longer than the time below: 50% is the median, 1% the 99th "
    "percentile. Further left is faster."
)


def latency_section(found: Detailed) -> Section:
    """A chart a latency: a line a class; of several policies a line each, class by class."""
    charts = _of_one(found) if found.by_class else _of_several(found)
    return Section(f"Latencies: {found.name}", LEAD, charts, found.legend)


def _of_one(found: Detailed) -> list[Chart]:
    (result,) = found.results.values()
    rows = {name: result.latency_quantiles[name] for name in LATENCIES}
    return charts_by_class(found.class_names, rows, found.cluster.instance)


def charts_by_class(
    names: list[str], quantiles: Mapping[str, np.ndarray], instance: Instance
) -> list[Chart]:
    """A chart a latency, a line a class.

    Args:
        names: of the classes.
        quantiles: by latency, a row a class at least.
        instance: whose deadlines are drawn.
    """
    charts = []
    for latency, title in LATENCIES.items():
        curves = [tail(i, name, quantiles[latency][i]) for i, name in enumerate(names)]
        levels = deadlines(instance, latency)
        charts.append(distribution(title, curves, caption(levels, "class"), deadlines=levels))
    return charts


def _of_several(found: Detailed) -> list[Chart]:
    names = found.class_names
    apart: list[tuple[int, str]] = [(i, f", {name}") for i, name in enumerate(names)]
    if len(names) == 1:
        apart = [(0, "")]
    elif len(names) > _MOST_CLASSES:
        apart = [(len(names), ", all classes")]
    charts = []
    for latency, title in LATENCIES.items():
        every = deadlines(found.cluster.instance, latency)
        for row, of in apart:
            curves = [
                tail(found.numbers[label], label, result.latency_quantiles[latency][row])
                for label, result in found.results.items()
            ]
            own = [d for d in every if row == len(names) or d.series in (None, row)]
            levels = [
                Level(d.at, d.name if len(own) > 1 else "deadline", upright=True) for d in own
            ]
            charts.append(
                distribution(f"{title}{of}", curves, caption(levels, "policy"), deadlines=levels)
            )
    return charts


def tail(series: int, name: str, quantiles: np.ndarray) -> Curve:
    """The share of requests that took longer than each quantile."""
    return Curve(series, name, quantiles.tolist(), (1.0 - LEVELS).tolist())


def deadlines(instance: Instance, latency: str) -> list[Level]:
    """Upright lines at the deadlines of the classes; equal ones of all classes are one line."""
    if latency == "e2e":
        return []
    limits = instance.deadlines[0 if latency == "ttft" else 1]
    if len(set(limits.tolist())) == 1:
        return [Level(float(limits[0]), "deadline", upright=True)] if np.isfinite(limits[0]) else []
    names = [c.name for c in instance.classes]
    return [
        Level(float(limit), names[i], i, upright=True)
        for i, limit in enumerate(limits)
        if np.isfinite(limit)
    ]


def caption(levels: list[Level], what: str) -> str:
    """What to see, with deadlines or without."""
    if levels:
        return (
            "What to see: the height at which a line crosses its dashed deadline is the share of "
            "the requests that are late."
        )
    return f"What to see: which {what} has the longer tail, that is the line further right at 1%."
