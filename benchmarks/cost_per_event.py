"""Measure the cost per event as the cluster grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_sched_env.benchmarks.engine_cluster import EngineCluster
from llm_sched_env.benchmarks.rounds import Spread, pinned, speeds
from llm_sched_env.benchmarks.simulators import FLOOR
from llm_sched_env.files.atomic import save_figure
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import plan

# Near the plan from the start: the largest clusters would take minutes to fill.
WARMUP_SECONDS = 2.0
_FIRST_EVENTS = 100
_NANOSECONDS = 1e9


@dataclass(frozen=True)
class CostRow:
    """Nanoseconds per event at one cluster size: of the engine, and of the floor."""

    n_gpus: int
    median: float
    least: float
    greatest: float
    floor: float


def log_grid(largest: int) -> list[int]:
    """1, 3, 10, 30, ... up to ``largest``, which ends the grid."""
    steps = (m * 10**k for k in range(len(str(largest))) for m in (1, 3))
    return [*(n for n in steps if n < largest), largest]


def measure_costs(
    instance: Instance,
    sizes: Sequence[int],
    runs: int = 5,
    seed: int = 0,
    seconds: float = 0.5,
    on_run: Callable[[str], None] | None = None,
) -> list[CostRow]:
    """Nanoseconds per event on one CPU under gate-and-route, for each number of GPUs.

    Clusters start near the plan; the first 2 simulated seconds are not timed.
    """
    fluid_plan = plan(instance)
    rows = []
    with pinned():
        for n_gpus in sizes:
            if on_run is not None:
                on_run(f"cost per event, n = {n_gpus}")
            cluster = EngineCluster(instance, fluid_plan, n_gpus, seed, at_plan=True)
            cluster.advance(WARMUP_SECONDS)
            works = {
                "engine": cluster.advance,
                "floor": FLOOR.prepare(instance, fluid_plan, n_gpus, seed, WARMUP_SECONDS),
            }
            first_seconds = _FIRST_EVENTS / (3 * n_gpus * float(instance.arrival_rates.sum()))
            measured = speeds(works, runs, seconds, first_seconds)
            engine, floor = (
                Spread.of([_NANOSECONDS / speed for speed in measured[name]]) for name in works
            )
            rows.append(CostRow(n_gpus, engine.median, engine.least, engine.greatest, floor.median))
    return rows


def write_cost_figure(rows: Sequence[CostRow], path: Path) -> None:
    """Cost per event against cluster size, both axes logarithmic (extra ``report``)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axis = figure.subplots()
    sizes = [row.n_gpus for row in rows]
    medians = [row.median for row in rows]
    below = [row.median - row.least for row in rows]
    above = [row.greatest - row.median for row in rows]
    axis.errorbar(sizes, medians, yerr=[below, above], marker="o", capsize=2, label="llm-sched-env")
    axis.plot(sizes, [row.floor for row in rows], color="0.5", linestyle="--", label=FLOOR.model)
    axis.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="nanoseconds per event")
    axis.grid(visible=True, which="both", color="0.9", linewidth=0.6)
    axis.legend()
    save_figure(figure, path, dpi=150)
