"""Write the measured rows: CSV for programs, Markdown for readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_sched_env.benchmarks.cost_per_event import CostRow
from llm_sched_env.benchmarks.engine_speed import WARMUP_SECONDS, SpeedRow
from llm_sched_env.benchmarks.peak_memory import MemoryUse
from llm_sched_env.benchmarks.rounds import Spread
from llm_sched_env.benchmarks.vector_speed import VectorRow
from llm_sched_env.files.atomic import write_rows, write_whole

SPEED_HEADER = ("n", "simulator", "model", "events/s", "least", "greatest", "engine / it")
VECTOR_HEADER = ("environment", "env steps/s", "least", "greatest", "it / SyncVectorEnv")
DECISION_HEADER = ("environment", "decisions/s", *VECTOR_HEADER[2:])
COST_HEADER = ("n", "ns per event", "least", "greatest", "floors")

_COST_CAPTION = (
    "*What to see: how little an event costs more on many GPUs than on few; where lines rise, the "
    "state no longer fits into the caches of the processor.*"
)


def write_csv(rows: Sequence[Any], path: Path) -> None:
    """Dataclass rows with their fields as the header; numbers in full precision."""
    plain = [asdict(row) for row in rows]
    write_rows(path, list(plain[0]), plain)


def speed_cells(rows: Sequence[SpeedRow]) -> list[tuple[str, ...]]:
    """Rows under :data:`SPEED_HEADER`."""
    return [(f"{row.n_gpus:,}", row.simulator, row.model, *_numbers(row)) for row in rows]


def vector_cells(rows: Sequence[VectorRow]) -> list[tuple[str, ...]]:
    """Rows under :data:`VECTOR_HEADER`."""
    return [(row.environment, *_numbers(row)) for row in rows]


def cost_cells(rows: Sequence[CostRow]) -> list[tuple[str, ...]]:
    """Rows under :data:`COST_HEADER`."""
    return [
        (
            f"{row.n_gpus:,}",
            *(f"{value:.0f}" for value in (row.median, row.least, row.greatest)),
            f"{row.median / row.floor:.1f}",
        )
        for row in rows
    ]


def memory_line(memory: MemoryUse) -> str:
    """Peak memory in a sentence."""
    peak = memory.peak_bytes
    shown = "not told by this system" if peak is None else f"{peak / 1e9:.2f} GB"
    return f"Peak resident memory of a run at n = {memory.n_gpus:,}: {shown}."


def api_overhead_line(step: Spread, num_envs: int) -> str:
    """The API's share of a vector step in a sentence."""
    return (
        f"Of a vector step of {num_envs} environments, {step.median:.0f} us "
        f"({step.least:.0f} to {step.greatest:.0f}) are spent outside compiled code (1 thread)."
    )


def machine_line(machine: Mapping[str, str]) -> str:
    """CPU, system and versions in a line."""
    return ", ".join(f"{key} {value}" for key, value in machine.items())


def write_speed_page(
    rows: Sequence[SpeedRow],
    costs: Sequence[CostRow],
    memory: MemoryUse | None,
    notes: Sequence[str],
    path: Path,
) -> None:
    """``speed.md``: the table of simulators and, if measured, the cost per event."""
    lines = ["# Speed of the simulation", "", *_markdown(SPEED_HEADER, speed_cells(rows), 3), ""]
    lines.append(
        "Events (arrivals, completions of prefills and decodes, abandonments) per second of "
        f"gate-and-route on one CPU, median of {rows[0].runs} runs. Every simulator runs in each "
        "round, in rotating order; the last column is the ratio of medians with the range of "
        f"ratios within a round. Clusters start empty; the first {WARMUP_SECONDS:.0f} simulated "
        "seconds are not timed, the runs are consecutive parts of what follows."
    )
    if costs:
        lines += ["", "## Cost per event", "", *_markdown(COST_HEADER, cost_cells(costs), 0), ""]
        lines += ["![nanoseconds per event against the number of GPUs](cost_per_event.png)"]
        lines += [_COST_CAPTION, ""]
        lines += ["Clusters start near the fluid plan; the last column is in events of the floor."]
    if memory is not None:
        lines += ["", memory_line(memory)]
    write_whole(path, "\n".join([*lines, *_notes(notes)]) + "\n")


def write_vector_page(
    rows: Sequence[VectorRow],
    api_overhead: Spread,
    decisions: Sequence[VectorRow],
    notes: Sequence[str],
    path: Path,
) -> None:
    """``vector.md``: native vector environment and Gymnasium's."""
    lines = ["# Speed of the vector environment", ""]
    lines += [*_markdown(VECTOR_HEADER, vector_cells(rows), 1), ""]
    lines.append(
        f"Interval steps per second, {rows[0].num_envs} environments of {rows[0].n_gpus} GPUs "
        f"under the fluid plan, episode resets included, median of {rows[0].runs} runs; the last "
        "column is the ratio of medians with the range of ratios within a round."
    )
    lines += ["", api_overhead_line(api_overhead, rows[0].num_envs), "", "## Event control", ""]
    lines += [*_markdown(DECISION_HEADER, vector_cells(decisions), 1), ""]
    lines.append(
        f"Decisions per second on one CPU, {decisions[0].num_envs} environments of "
        f"{decisions[0].n_gpus} GPUs, as above; an agent that takes the first possible action."
    )
    write_whole(path, "\n".join([*lines, *_notes(notes)]) + "\n")


def _numbers(row: SpeedRow | VectorRow) -> tuple[str, ...]:
    """Speed with its range, ratio with its range; or why there is none."""
    if row.median is None:
        return (row.note, "", "", "")
    speeds = [f"{value:,.0f}" for value in (row.median, row.least, row.greatest)]
    ratio, least, greatest = map(_ratio, (row.ratio, row.ratio_least, row.ratio_greatest))
    return (*speeds, f"{ratio} ({least}-{greatest})")


def _ratio(value: float | None) -> str:
    """Three digits, without an exponent."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> list[str]:
    """A Markdown table; columns after the first texts are numbers."""
    rule = ["---" if k < text_columns else "---:" for k in range(len(header))]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]


def _notes(notes: Sequence[str]) -> list[str]:
    return [line for note in notes for line in ("", note)]
