"""Measure events per second of the engine and of the baselines in the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from llm_sched_env.benchmarks.contenders import CONTENDERS, ENGINE, Contender
from llm_sched_env.benchmarks.rounds import Spread, Work, pinned, ratio_spread, speeds
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import plan

WARMUP_SECONDS = 30.0
RUN_SECONDS = 0.5
_FIRST_EVENTS = 100


@dataclass(frozen=True)
class SpeedRow:
    """Events per second of one contender at one cluster size; what was not measured is None.

    Attributes:
        contender: its name.
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

    contender: str
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
    contenders: Sequence[Contender] = CONTENDERS,
    seconds: float = RUN_SECONDS,
    on_run: Callable[[str], None] | None = None,
) -> list[SpeedRow]:
    """Events per second on one CPU under gate-and-route.

    Every contender simulates one cluster per size, empty at first. The first 30 simulated
    seconds are not timed (nor is compilation); the runs are consecutive parts of what follows.

    Args:
        instance: what is simulated.
        sizes: numbers of GPUs.
        runs: of each contender, one per round.
        seed: of all random draws.
        contenders: the engine and others.
        seconds: of a run, about.
        on_run: told where the measurement is.
    """
    with pinned():
        return [
            row
            for n_gpus in sizes
            for row in _measure_size(instance, n_gpus, runs, seed, contenders, seconds, on_run)
        ]


def _measure_size(
    instance: Instance,
    n_gpus: int,
    runs: int,
    seed: int,
    contenders: Sequence[Contender],
    seconds: float,
    on_run: Callable[[str], None] | None,
) -> list[SpeedRow]:
    def report(text: str) -> None:
        if on_run is not None:
            on_run(f"n = {n_gpus}, {text}")

    fluid_plan = plan(instance)
    works: dict[str, Work] = {}
    for contender in contenders:
        if not contender.obstacle(n_gpus):
            report(f"warm-up of {contender.name}")
            works[contender.name] = contender.prepare(
                instance, fluid_plan, n_gpus, seed, WARMUP_SECONDS
            )
    # Three events per request: arrival and two completions.
    first_seconds = _FIRST_EVENTS / (3 * n_gpus * float(instance.arrival_rates.sum()))
    measured = speeds(works, runs, seconds, first_seconds, report)
    return [_row(contender, n_gpus, runs, measured) for contender in contenders]


def _row(
    contender: Contender, n_gpus: int, runs: int, measured: dict[str, tuple[float, ...]]
) -> SpeedRow:
    if contender.name not in measured:
        note = contender.obstacle(n_gpus)
        return SpeedRow(contender.name, contender.model, n_gpus, runs, note=note)
    speed = Spread.of(measured[contender.name])
    ratio = ratio_spread(measured[ENGINE.name], measured[contender.name])
    return SpeedRow(
        contender.name,
        contender.model,
        n_gpus,
        runs,
        *astuple(speed),
        *astuple(ratio),
    )
