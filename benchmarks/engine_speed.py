"""Measure events per second of the engine and of the baselines in the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from llm_sched_env.benchmarks.rounds import Spread, Work, pinned, ratio_spread, speeds
from llm_sched_env.benchmarks.simulators import ENGINE, SIMULATORS, Simulator
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import plan

WARMUP_SECONDS = 30.0
RUN_SECONDS = 0.5
_FIRST_EVENTS = 100


@dataclass(frozen=True)
class SpeedRow:
    """Events per second of one simulator at one cluster size; what was not measured is None.

    Attributes:
        simulator: its name.
        model: what it simulates.
        n_gpus: cluster size.
        runs: how many.
        median: events per second.
        least: of the runs.
        greatest: of the runs.
        ratio: the engine's median over this one.
        ratio_least: the least ratio within a round.
        ratio_greatest: the greatest.
        note: why there is no number.
    """

    simulator: str
    model: str
    n_gpus: int
    runs: int
    median: float | None = None
    least: float | None = None
    greatest: float | None = None
    ratio: float | None = None
    ratio_least: float | None = None
    ratio_greatest: float | None = None
    note: str = ""


def measure(
    instance: Instance,
    sizes: Sequence[int],
    runs: int = 5,
    seed: int = 0,
    simulators: Sequence[Simulator] = SIMULATORS,
    seconds: float = RUN_SECONDS,
    on_run: Callable[[str], None] | None = None,
) -> list[SpeedRow]:
    """Events per second on one CPU under gate-and-route.

    Every simulator simulates one cluster per size, empty at first. The first 30 simulated
    seconds are not timed (nor is compilation); the runs are consecutive parts of what follows.

    Args:
        instance: what is simulated.
        sizes: numbers of GPUs.
        runs: of each simulator, one per round.
        seed: of all random draws.
        simulators: the engine and others.
        seconds: of a run, about.
        on_run: told where the measurement is.
    """
    with pinned():
        return [
            row
            for n_gpus in sizes
            for row in _measure_size(instance, n_gpus, runs, seed, simulators, seconds, on_run)
        ]


def _measure_size(
    instance: Instance,
    n_gpus: int,
    runs: int,
    seed: int,
    simulators: Sequence[Simulator],
    seconds: float,
    on_run: Callable[[str], None] | None,
) -> list[SpeedRow]:
    def report(text: str) -> None:
        if on_run is not None:
            on_run(f"n = {n_gpus}, {text}")

    fluid_plan = plan(instance)
    works: dict[str, Work] = {}
    for simulator in simulators:
        if not simulator.obstacle(n_gpus):
            report(f"warm-up of {simulator.name}")
            works[simulator.name] = simulator.prepare(
                instance, fluid_plan, n_gpus, seed, WARMUP_SECONDS
            )
    # Three events per request: arrival and two completions.
    first_seconds = _FIRST_EVENTS / (3 * n_gpus * float(instance.arrival_rates.sum()))
    measured = speeds(works, runs, seconds, first_seconds, report)
    return [_row(simulator, n_gpus, runs, measured) for simulator in simulators]


def _row(
    simulator: Simulator, n_gpus: int, runs: int, measured: dict[str, tuple[float, ...]]
) -> SpeedRow:
    if simulator.name not in measured:
        note = simulator.obstacle(n_gpus)
        return SpeedRow(simulator.name, simulator.model, n_gpus, runs, note=note)
    speed = Spread.of(measured[simulator.name])
    ratio = ratio_spread(measured[ENGINE.name], measured[simulator.name])
    return SpeedRow(
        simulator.name,
        simulator.model,
        n_gpus,
        runs,
        *astuple(speed),
        *astuple(ratio),
    )
