"""The table of a report's results: a row a policy, or a policy and class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llm_sched_env.evaluation.results import ClassResult, Evaluation
from llm_sched_env.reports.fairness import class_share, fairness_of
from llm_sched_env.reports.page import Cell, Table
from llm_sched_env.simulation.events.metrics import Latency

_COLUMNS = (
    *(
        "instance",
        "GPUs",
        "policy",
        "class",
        "% of R*",
        "from",
        "to",
        "revenue",
        "good, %",
        "fairness",
    ),
    *("TTFT p50, s", "TTFT p99, s", "TPOT p99, ms", "e2e p99, s", "abandoned, %"),
)
_OF_ROWS = {
    "instance": "instance",
    "n_gpus": "GPUs",
    "policy": "policy",
    "score": "% of R*",
    "score_low": "from",
    "score_high": "to",
    "ttft_p50": "TTFT p50, s",
    "ttft_p99": "TTFT p99, s",
    "tpot_p99": "TPOT p99, ms",
    "abandoned_share": "abandoned, %",
}
_FACTORS = {"score": 100.0, "score_low": 100.0, "score_high": 100.0, "tpot_p99": 1e3}


def results_table(results: Sequence[tuple[str, Evaluation]], *, classes: bool) -> Table:
    """All results; with ``classes`` a further row for each class."""
    rows = []
    for label, result in results:
        rows.append(_of_all(label, result))
        if classes and len(result.classes) > 1:
            rows += [_of_class(label, result, own) for own in result.classes]
    caption = (
        "A row is a policy on an instance at a cluster size; from and to are the ends of the 95% "
        "interval of the score; good is the share of requests that met their deadlines, or were "
        "completed where there are none; fairness is Jain's index of these shares by class."
    )
    return Table(_COLUMNS, rows, caption)


def table_of_rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Of rows of ``results.csv``."""
    cells = [
        [
            Cell(str(row[name])) if name in {"instance", "policy"} else _scaled(name, row[name])
            for name in _OF_ROWS
        ]
        for row in rows
    ]
    caption = (
        "A row is a policy on an instance at a cluster size; from and to are the ends of the 95% "
        "interval of the score."
    )
    return Table(list(_OF_ROWS.values()), cells, caption)


def number(value: float | None, form: str = ".4g") -> Cell:
    """A number; a dash for what is not known."""
    if value is None or math.isnan(value):
        return Cell("-", math.nan)
    return Cell(format(value, form) if math.isfinite(value) else "never", value)


def percent(share: float | None) -> Cell:
    """A share in percent, two decimals."""
    known = share is not None and math.isfinite(share)
    return number(100.0 * share if known and share is not None else None, ".2f")


def _scaled(name: str, value: Any) -> Cell:
    if value in (None, ""):
        return number(None)
    if name == "abandoned_share":
        return percent(float(value))
    factor = _FACTORS.get(name, 1.0)
    return number(factor * float(value), ".2f" if name.startswith("score") else ".4g")


def _of_all(label: str, result: Evaluation) -> list[Cell]:
    deadlines = result.deadlines
    done = result.requests
    decided = done["completed"] + done["abandoned"] + done["rejected"]
    good = deadlines.attainment if deadlines else done["completed"] / decided if decided else None
    score = result.score
    scores = [percent(v) for v in (score.mean, *score.ci95)]
    return [
        *(Cell(result.instance), number(result.n_gpus, "d"), Cell(label), Cell("all")),
        *(*scores, number(result.revenue_rate.mean), percent(good)),
        *(number(fairness_of(result), ".3f"), *_latencies(result.ttft, result.tpot, result.e2e)),
        percent(result.abandoned["share"]),
    ]


def _of_class(label: str, result: Evaluation, own: ClassResult) -> list[Cell]:
    lost = own.abandoned_prefill + own.abandoned_decode
    return [
        *(Cell(result.instance), number(result.n_gpus, "d"), Cell(label), Cell(own.name)),
        *(number(None), number(None), number(None), number(own.revenue_rate)),
        *(percent(class_share(own)), number(None)),
        *(
            *_latencies(own.ttft, own.tpot, own.e2e),
            percent(lost / own.arrived if own.arrived else None),
        ),
    ]


def _latencies(ttft: Latency, tpot: Latency, e2e: Latency) -> list[Cell]:
    return [number(ttft.p50), number(ttft.p99), number(1e3 * tpot.p99), number(e2e.p99)]
