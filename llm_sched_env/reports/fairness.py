"""How the classes fare beside each other: their shares in time, and an index of fairness."""

from __future__ import annotations

import math

import numpy as np

from llm_sched_env.evaluation.deadline_attainment import REASONS
from llm_sched_env.evaluation.results import ClassResult, Evaluation
from llm_sched_env.reports.charts import Dots, dots_by_row, stacked_shares
from llm_sched_env.reports.details import Detailed
from llm_sched_env.reports.page import Chart, Section


def class_share(result: ClassResult) -> float:
    """Good requests of a class as a share of the decided ones; without deadlines, completed ones.

    NaN where none was decided.
    """
    if result.deadlines is not None:
        return result.deadlines.attainment
    decided = result.completed + result.abandoned_prefill + result.abandoned_decode
    decided += result.rejected
    return result.completed / decided if decided else math.nan


def jain_index(shares: list[float]) -> float:
    """Jain's index of fairness of the classes' shares: 1 where all are equal, 1 / I at worst.

    (sum of shares)^2 / (I sum of squares), after Jain, Chiu and Hawe (1984); classes without any
    decided request are left out, NaN without any.

    Example:
        >>> jain_index([0.5, 0.5]), jain_index([1.0, 0.0])
        (1.0, 0.5)
    """
    known = np.array([share for share in shares if math.isfinite(share)])
    squares = float((known**2).sum())
    return float(known.sum()) ** 2 / (len(known) * squares) if squares > 0 else math.nan


def fairness_of(result: Evaluation) -> float:
    """Jain's index of a result's classes."""
    return jain_index([class_share(own) for own in result.classes])


def class_section(found: Detailed) -> Section:
    """Shares by class, a dot a policy; of one policy also why requests were not good."""
    results = found.results
    good = next(iter(results.values())).deadlines is not None
    what = "within their deadlines" if good else "completed"
    dots = [
        Dots(found.numbers[label], label, [class_share(c) for c in result.classes])
        for label, result in results.items()
    ]
    caption = (
        "What to see: dots of one colour far apart are a policy that serves one class at the cost "
        "of another."
    )
    title = f"Requests {what}, by class"
    charts = [dots_by_row(title, found.class_names, dots, caption)] if not found.by_class else []
    indices = ", ".join(f"{label} {fairness_of(r):.3f}" for label, r in results.items())
    if found.by_class:
        charts.append(_outcomes(found, next(iter(results.values()))))
    lead = (
        f"Shares of the requests that were {what}, among those completed, abandoned or rejected. "
        f"Jain's index of fairness (1: all classes fare alike): {indices}."
    )
    legend = [] if found.by_class else found.legend
    return Section(f"Classes: {found.name}", lead, charts, legend)


def _outcomes(found: Detailed, result: Evaluation) -> Chart:
    """What became of the requests of each class, with names in the caption."""
    if result.deadlines is not None:
        names: tuple[str, ...] = ("good", *REASONS)
        shares = [
            [math.nan if c.deadlines is None else c.deadlines.share(name) for c in result.classes]
            for name in names
        ]
    else:
        names = ("completed", "abandoned_prefill", "abandoned_decode", "rejected")
        decided = [max(1, sum(getattr(c, name) for name in names)) for c in result.classes]
        shares = [
            [getattr(c, name) / all_ for c, all_ in zip(result.classes, decided, strict=True)]
            for name in names
        ]
    # Green for what went well; each further part in another colour.
    numbers = (2, 5, 1, 3, 6, 7)
    parts = [
        (numbers[k], name.replace("_", " "), values)
        for k, (name, values) in enumerate(zip(names, shares, strict=True))
        if max(values) > 0
    ]
    caption = "What to see: what most of the requests that were not served well were lost to."
    return stacked_shares("What became of the requests", found.class_names, parts, caption)
