"""The report of ``size``: attainment, latencies and cost over sizes, or over rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from llm_sched_env.evaluation.versions import versions
from llm_sched_env.reports.charts import Curve, Level, curves_over_sizes
from llm_sched_env.reports.comparison_page import versions_text
from llm_sched_env.reports.page import Cell, Chart, Report, Section, Table, write_report
from llm_sched_env.reports.results_table import number, percent
from llm_sched_env.reports.sized_runs import case_sections
from llm_sched_env.sizing.judged import Candidate, GpuKind, Judged
from llm_sched_env.sizing.report import best_rows
from llm_sched_env.sizing.served_case import compiled_policy
from llm_sched_env.sizing.size import MaxRate, Sizing
from llm_sched_env.sizing.workload import Workload

COLUMNS = (
    *("GPU", "GPUs", "policy", "requests/s", "verdict", "in time, %", "at least, %", "good, %"),
    *("TTFT p50, s", "TTFT p99, s", "TPOT p99, ms", "cost an hour", "cost per 1M tokens"),
)
_CAPTION = (
    "A row is a policy on so many GPUs at a rate. In time: the share that the verdict is on; at "
    "least: its lower limit at the confidence that was asked for."
)
_SEE_SHARE = (
    "What to see: where a line, with its confidence limits, stays above the dashed level of what "
    "was asked. Dashed uprights are bounds: below that size, or above that rate, no scheduler can."
)


def write_sizing(
    found: Sizing,
    workload: Workload,
    lines: Sequence[str],
    notes: Sequence[str],
    command: str,
    seed: int,
    path: Path,
) -> None:
    """Write the report of a sizing.

    Args:
        found: what :func:`llm_sched_env.sizing.size.size` returned.
        workload: that it was asked about.
        lines: the answer in sentences.
        notes: what a reader must know.
        command: that made it.
        seed: of patience and routing.
        path: of the page.
    """
    kinds = [(k, size) for k, size in enumerate(found.kinds) if size.rows]
    best = {k: best_rows(size.rows) for k, size in kinds}
    required = found.requirement.share(found.rate)
    bounds = [Level(size.bound.n_gpus, "", k, upright=True) for k, size in kinds if size.possible]
    asked = Level(required, "asked for")
    named = [(k, size.kind.name) for k, size in kinds]
    charts = [
        _share_chart(
            "Requests in time", [(k, name, best[k]) for k, name in named], [asked, *bounds]
        ),
        *_value_charts([(k, name, best[k]) for k, name in named], workload, _priced(found)),
    ]
    lead = "The best policy at each size. Shading: limits at the confidence that was asked for."
    sections = [Section("Attainment and cost over sizes", lead, charts, named)]
    sections.append(_policies([(size.kind.name, size.rows) for _, size in kinds], [asked]))
    cheapest = found.cheapest
    if cheapest is not None and cheapest.best is not None:
        sections += _chosen(workload, cheapest.kind, cheapest.best, seed)
    rows = [row for size in found.kinds for row in size.rows]
    facts = [*_facts(command, seed), ("Asked for", found.asked)]
    title, answer = f"GPUs for {found.workload}", [_headline(found), *lines]
    write_report(Report(title, answer, sections, judged_table(rows), facts, notes), path)


def _headline(found: Sizing) -> str:
    """The answer in few words."""
    cheapest = found.cheapest
    if cheapest is None or cheapest.best is None:
        return "No number of GPUs that was tried is enough."
    best = cheapest.best
    return f"Take {best.n_gpus} {cheapest.kind.name} under {best.policy}."


def write_max_rate(
    found: MaxRate,
    workload: Workload,
    required: float,
    lines: Sequence[str],
    notes: Sequence[str],
    command: str,
    seed: int,
    path: Path,
) -> None:
    """Write the report of a highest rate; arguments as in :func:`write_sizing`."""
    bound = [Level(found.bound, "no scheduler sustains more", upright=True)]
    levels = [Level(required, "asked for"), *(bound if math.isfinite(found.bound) else [])]
    cluster = (f"{found.n_gpus} {found.kind.name}", found.rows)
    sections = [_policies([cluster], levels, by_rate=True)]
    if found.best is not None:
        factor = found.best.rate / workload.counted_rate
        sections += _chosen(workload.at_rate(factor), found.kind, found.best, seed)
    facts = [*_facts(command, seed), ("Asked for", found.asked)]
    title = f"The highest rate of {found.n_gpus} {found.kind.name}"
    short = "No rate that was tried is sustained."
    if found.best is not None:
        short = f"{found.best.rate:.4g} requests/s, under {found.best.policy}."
    answer = [short, *lines]
    write_report(Report(title, answer, sections, judged_table(found.rows), facts, notes), path)


def judged_table(rows: Sequence[Judged]) -> Table:
    """All that was judged."""
    return Table(COLUMNS, [judged_cells(row) for row in rows], _CAPTION)


def judged_cells(row: Judged) -> list[Cell]:
    """A row of it."""
    return [
        *(Cell(row.kind), number(row.n_gpus, "d"), Cell(row.policy), number(row.rate)),
        *(Cell(row.verdict), percent(row.judged.mean), percent(row.judged.low)),
        *(percent(row.good.mean), number(row.ttft[0]), number(row.ttft[-1])),
        *(number(1e3 * row.tpot[-1]), number(row.cost_per_hour)),
        number(row.cost_per_million_tokens),
    ]


def _chosen(workload: Workload, kind: GpuKind, row: Judged, seed: int) -> list[Section]:
    candidate = Candidate(kind, row.n_gpus, *compiled_policy(row.policy))
    title = f"{row.n_gpus} {kind.name} under {row.policy}"
    return case_sections(workload, candidate, seed, title)


def _policies(
    clusters: Sequence[tuple[str, Sequence[Judged]]],
    levels: Sequence[Level],
    *,
    by_rate: bool = False,
) -> Section:
    """Every policy's share in time, over sizes or rates, a chart a kind of GPU."""
    labels = list(dict.fromkeys(row.policy for _, rows in clusters for row in rows))
    charts = []
    for name, rows in clusters:
        groups = [(k, of, [r for r in rows if r.policy == of]) for k, of in enumerate(labels)]
        charts.append(_share_chart(f"{name}: requests in time", groups, levels, by_rate=by_rate))
    lead = "Every policy that was tried, on the same requests."
    return Section("Policies", lead, charts, list(enumerate(labels)))


def _share_chart(
    title: str,
    groups: Sequence[tuple[int, str, Sequence[Judged]]],
    levels: Sequence[Level],
    *,
    by_rate: bool = False,
) -> Chart:
    def place(row: Judged) -> float:
        return row.rate if by_rate else row.n_gpus

    curves = [
        Curve(
            k,
            name,
            [place(row) for row in rows],
            [row.judged.mean for row in rows],
            [row.judged.low for row in rows],
            [row.judged.high for row in rows],
        )
        for k, name, rows in groups
    ]
    label = "requests/s" if by_rate else "GPUs"
    return curves_over_sizes(title, curves, _SEE_SHARE, x_label=label, levels=levels)


def _value_charts(
    groups: Sequence[tuple[int, str, Sequence[Judged]]], workload: Workload, unit: str
) -> list[Chart]:
    """The 99th percentiles against their tightest deadlines, and the cost."""

    def curves(value: Callable[[Judged], float]) -> list[Curve]:
        return [
            Curve(k, name, [r.n_gpus for r in rows], [_finite(value(r)) for r in rows])
            for k, name, rows in groups
        ]

    charts = []
    ttft, tpot = np.min(workload.limits, axis=1)
    for title, limit, value in (
        ("TTFT, 99th percentile", ttft, lambda r: r.ttft[-1]),
        ("TPOT, 99th percentile", tpot, lambda r: r.tpot[-1]),
    ):
        found = curves(value)
        if not any(math.isfinite(y) for curve in found for y in curve.y):
            continue
        levels = [Level(float(limit), "deadline")] if math.isfinite(limit) else []
        caption = (
            "What to see: the size from which the line is below the deadline. Where it is missing, "
            "some requests were never served."
        )
        charts.append(curves_over_sizes(title, found, caption, levels=levels, seconds=True))
    caption = "What to see: what each further GPU costs once all requests are in time."
    charts.append(
        curves_over_sizes(
            f"Cost, {unit} per million good tokens",
            curves(lambda r: r.cost_per_million_tokens),
            caption,
            shares=False,
        )
    )
    return charts


def _priced(found: Sizing) -> str:
    return "GPU hours" if found.kinds[0].kind.price is None else "currency"


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _facts(command: str, seed: int) -> list[tuple[str, str]]:
    return [
        ("Command", command),
        (
            "Seed",
            f"{seed}, of patience and routing; all sizes and policies serve the same requests",
        ),
        ("Versions", versions_text(versions())),
    ]
