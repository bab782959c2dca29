"""The report of ``tune``: the settings that no other one beats, and the chosen one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm_sched_env.evaluation.versions import versions
from llm_sched_env.reports.charts import Level, Points, scatter
from llm_sched_env.reports.comparison_page import versions_text
from llm_sched_env.reports.page import Cell, Chart, Report, Section, Table, write_report
from llm_sched_env.reports.results_table import number, percent
from llm_sched_env.reports.sized_runs import case_sections
from llm_sched_env.sizing.tune import Tuned, Tuning
from llm_sched_env.sizing.workload import Workload

_COLUMNS = (
    *("GPU", "GPUs", "slots", "chunk", "policy", "pool", "reserve", "front", "verdict"),
    *("in time, %", "at least, %", "good/s", "TTFT p99, s", "TPOT p99, ms", "cost an hour"),
)


def write_tuning_page(
    found: Tuning,
    workload: Workload,
    lines: Sequence[str],
    notes: Sequence[str],
    command: str,
    seed: int,
    path: Path,
) -> None:
    """Write the report of a tuning.

    Args:
        found: what :func:`llm_sched_env.sizing.tune.tune` returned.
        workload: that it was asked about.
        lines: the answer in sentences.
        notes: what a reader must know.
        command: that made it.
        seed: of patience and routing.
        path: of the page.
    """
    policies = list(dict.fromkeys(t.setting.policy for t in found.finalists))
    sizes = sorted({t.setting.n_gpus for t in found.finalists})
    charts = [_front(found, workload, policies, n) for n in sizes]
    lead = (
        "The settings that were judged on all requests. Filled: no other setting beats it in "
        "goodput, TTFT, TPOT and cost; ringed: the chosen one."
    )
    chosen = found.chosen.setting
    title = f"the chosen setting, {chosen.n_gpus} {chosen.kind.name} under {chosen.policy}"
    sections = [
        Section("Settings", lead, [c for c in charts if c is not None], list(enumerate(policies))),
        *case_sections(workload, chosen.candidate, seed, title),
    ]
    caption = "A row is a setting that was judged on all requests; front: no other one beats it."
    table = Table(_COLUMNS, [_cells(t) for t in found.finalists], caption)
    facts = [
        ("Command", command),
        ("Asked for", found.asked),
        ("Seed", f"{seed}, of patience and routing; all settings serve the same requests"),
        ("Versions", versions_text(versions())),
    ]
    hardware = chosen.kind.hardware
    short = (
        f"Take {hardware.batch_slots} batch slots and chunks of {hardware.chunk_tokens} tokens "
        f"under {chosen.policy}, on {chosen.n_gpus} GPU{'s' if chosen.n_gpus > 1 else ''}."
    )
    write_report(
        Report(f"Settings for {found.workload}", [short, *lines], sections, table, facts, notes),
        path,
    )


def _front(found: Tuning, workload: Workload, policies: Sequence[str], n: int) -> Chart | None:
    """TTFT against TPOT at the 99th percentile on n GPUs, with the tightest deadlines."""
    own = [t for t in found.finalists if t.setting.n_gpus == n and _is_finite(t)]
    if not own:
        return None
    points = []
    for k, policy in enumerate(policies):
        for on_front in (True, False):
            some = [t for t in own if (t.setting.policy, t.on_front) == (policy, on_front)]
            places = [(t.judged.tpot[-1], t.judged.ttft[-1]) for t in some]
            name = f"{policy}, {'on the front' if on_front else 'beaten'}"
            points.append(Points(k, name, [x for x, _ in places], [y for _, y in places], on_front))
    ttft, tpot = (float(limit) for limit in np.min(workload.limits, axis=1))
    levels = [Level(ttft, "deadline"), Level(tpot, "deadline", upright=True)]
    chosen = found.chosen
    ring = None
    if chosen.setting.n_gpus == n and _is_finite(chosen):
        ring = (chosen.judged.tpot[-1], chosen.judged.ttft[-1])
    caption = (
        "What to see: settings below and left of the dashed deadlines keep both; the nearer to the "
        "corner, the more time to spare."
    )
    title = f"TTFT, 99th percentile, on {n} GPU{'s' if n > 1 else ''}"
    return scatter(
        title, points, caption, x_label="TPOT, 99th percentile", chosen=ring, levels=levels
    )


def _is_finite(tuned: Tuned) -> bool:
    return math.isfinite(tuned.judged.ttft[-1]) and math.isfinite(tuned.judged.tpot[-1])


def _cells(tuned: Tuned) -> list[Cell]:
    setting, row = tuned.setting, tuned.judged
    hardware = setting.kind.hardware
    return [
        *(Cell(setting.kind.name), number(setting.n_gpus, "d"), number(hardware.batch_slots, "d")),
        *(number(hardware.chunk_tokens, "d"), Cell(setting.policy), number(setting.pool_scale)),
        *(number(setting.reserve_scale), Cell("yes" if tuned.on_front else "no")),
        *(Cell(row.verdict), percent(row.judged.mean), percent(row.judged.low)),
        *(number(row.good_rate), number(row.ttft[-1]), number(1e3 * row.tpot[-1])),
        number(row.cost_per_hour),
    ]
