"""Queues, occupancy and KV caches over one run, against the fluid plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from llm_sched_env.reports.charts import Curve, Level, over_time
from llm_sched_env.reports.details import Detailed
from llm_sched_env.reports.page import Chart, Section
from llm_sched_env.reports.run_over_time import PlanLevels, RunOverTime, plan_levels

_TITLES = {
    "q_prefill": "Waiting for a prefill, requests per GPU",
    "x": "In prefill, requests per GPU",
    "q_decode": "Prefilled, waiting for a slot, requests per GPU",
    "decodes": "In decode, requests per GPU",
}
LEAD = "Means over short steps. Dashed: the fluid plan, which reckons with mean rates."
_SEE = {
    "q_prefill": "a line that rises all the time is a queue that the cluster cannot serve",
    "x": "how near to the plan prefills are kept; more of them slow the decodes down",
    "q_decode": "whether prefills run ahead of the slots that their decodes need",
    "decodes": "whether the slots are used as the plan uses them",
}


def dynamics_section(found: Detailed) -> Section | None:
    """A chart a quantity; None where no run was looked at."""
    if not found.runs:
        return None
    first = next(iter(found.results.values()))
    levels = plan_levels(found.cluster)
    start = [Level(first.warmup, upright=True)] if first.warmup > 0 else []
    if found.by_class:
        (run,) = found.runs.values()
        charts = charts_by_class(run, found.class_names, levels, start)
        legend = found.legend
    else:
        charts = _charts_by_policy(found.runs, found.numbers, levels, start)
        legend = [(found.numbers[label], label) for label in found.runs]
    lead = f"{LEAD} The upright line ends the warm-up." if start else LEAD
    return Section(f"Over time: {found.name}", f"{found.how} {lead}", charts, legend)


def charts_by_class(
    run: RunOverTime, names: Sequence[str], levels: PlanLevels, marks: Sequence[Level] = ()
) -> list[Chart]:
    """Of one run, a line a class, and one of the KV tokens of all.

    Args:
        run: what is drawn.
        names: of the classes.
        levels: of the plan.
        marks: upright lines.
    """
    charts = []
    for quantity, title in _TITLES.items():
        values = run.counts[quantity]
        planned = [
            Level(float(level), "", i)
            for i, level in enumerate(levels.counts[quantity])
            if np.isfinite(level)
        ]
        curves = [
            Curve(i, name, run.times.tolist(), values[:, i].tolist())
            for i, name in enumerate(names)
        ]
        if _shows_something(curves, planned):
            charts.append(over_time(title, curves, _caption(quantity), levels=[*planned, *marks]))
    total = Curve(len(names), "all classes", run.times.tolist(), run.kv_tokens.tolist())
    charts.append(_kv_chart([total], levels, marks))
    return charts


def _charts_by_policy(
    runs: Mapping[str, RunOverTime],
    numbers: Mapping[str, int],
    levels: PlanLevels,
    marks: Sequence[Level],
) -> list[Chart]:
    charts = []
    for quantity, title in _TITLES.items():
        level = float(levels.counts[quantity].sum())
        planned = [Level(level, "plan")] if np.isfinite(level) else []
        curves = [
            Curve(
                numbers[label], label, run.times.tolist(), run.counts[quantity].sum(axis=1).tolist()
            )
            for label, run in runs.items()
        ]
        if _shows_something(curves, planned):
            charts.append(over_time(title, curves, _caption(quantity), levels=[*planned, *marks]))
    curves = [
        Curve(numbers[label], label, run.times.tolist(), run.kv_tokens.tolist())
        for label, run in runs.items()
    ]
    charts.append(_kv_chart(curves, levels, marks))
    return charts


def _kv_chart(curves: Sequence[Curve], levels: PlanLevels, marks: Sequence[Level]) -> Chart:
    lines = [Level(levels.kv_tokens, "plan")]
    see = "the memory that the requests in service need"
    if np.isfinite(levels.kv_limit):
        lines.append(Level(levels.kv_limit, "limit"))
        see += ", and how near to the limit it comes"
    caption = f"What to see: {see}."
    return over_time("KV cache in use, tokens per GPU", curves, caption, levels=[*lines, *marks])


def _caption(quantity: str) -> str:
    return f"What to see: {_SEE[quantity]}."


def _shows_something(curves: Sequence[Curve], planned: Sequence[Level]) -> bool:
    """Whether anybody was there, or would be under the plan."""
    return any(max(c.y) > 0 for c in curves) or any(level.at > 1e-9 for level in planned)
