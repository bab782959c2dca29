"""How fast the engine runs, beside a plain ``heapq`` loop of the same model in the same run."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.benchmarks.heapq_loop import run_heapq
from llm_sched_env.instance import Instance
from llm_sched_env.planning import plan
from llm_sched_env.simulation.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation

GATE_AND_ROUTE = DispatchRule(gate="occupancy", router="solo-first", pools="static")
# Events per measured run, enough for a second or so each.
_ENGINE_EVENTS, _HEAPQ_EVENTS = 4_000_000, 150_000
_WARMUP_SECONDS = 30.0


@dataclass(frozen=True)
class SpeedRow:
    """Median, least and greatest events per second of one contender at one cluster size."""

    contender: str
    n_gpus: int
    runs: int
    median: float
    least: float
    greatest: float


def measure(
    instance: Instance,
    sizes: Sequence[int],
    runs: int = 5,
    seed: int = 0,
    on_run: Callable[[str], None] | None = None,
) -> list[SpeedRow]:
    """Events per second on one core under gate-and-route, engine and yardstick in turn.

    An event is an arrival, a completion of a prefill or decode, or an abandonment. Compilation
    and the first 30 simulated seconds are not timed.
    """
    rows = []
    for n_gpus in sizes:
        speeds: dict[str, list[float]] = {"llm-sched-env": [], "heapq loop": []}
        for k in range(runs):
            speeds["llm-sched-env"].append(_engine_speed(instance, n_gpus, seed + k))
            speeds["heapq loop"].append(_heapq_speed(instance, n_gpus, seed + k))
            if on_run is not None:
                on_run(f"n = {n_gpus}, run {k + 1} of {runs}")
        for contender, values in speeds.items():
            rows.append(
                SpeedRow(
                    contender, n_gpus, runs, statistics.median(values), min(values), max(values)
                )
            )
    return rows


def _engine_speed(instance: Instance, n_gpus: int, seed: int) -> float:
    controls = plan(instance).controls(n_gpus)
    simulation = Simulation(
        instance, GATE_AND_ROUTE, controls, n_gpus, np.random.SeedSequence(seed)
    )
    simulation.run(_WARMUP_SECONDS)
    before = simulation.metrics().events
    # Three events per request: arrival and two completions.
    rate = 3 * n_gpus * float(instance.arrival_rates.sum())
    started = time.perf_counter()
    simulation.run(_WARMUP_SECONDS + _ENGINE_EVENTS / rate)
    seconds = time.perf_counter() - started
    return (simulation.metrics().events - before) / seconds


def _heapq_speed(instance: Instance, n_gpus: int, seed: int) -> float:
    fluid_plan = plan(instance)
    rate = 3 * n_gpus * float(instance.arrival_rates.sum())
    started = time.perf_counter()
    result = run_heapq(instance, fluid_plan, n_gpus, _HEAPQ_EVENTS / rate, seed=seed)
    return result.events / (time.perf_counter() - started)


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    import numba

    return {
        "python": platform.python_version(),
        "numba": numba.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "system": platform.system(),
    }
