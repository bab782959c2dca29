"""Fair timing: every simulator runs in each round, in rotating order, on one CPU."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Work = Callable[[float], float]
"""Does an amount of work and returns how many units it counted."""

_FASTEST_GROWTH = 10.0
# A trial this long predicts well how much work fills a run.
_LONG_ENOUGH = 0.2


@dataclass(frozen=True)
class Spread:
    """A number measured once per round: the middle of it and its range."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Median, least and greatest of the values."""
        return cls(statistics.median(values), min(values), max(values))


def ratio_spread(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """The ratio of two medians, with the range of the ratios within a round."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    ratio = statistics.median(numerators) / statistics.median(denominators)
    return Spread(ratio, min(ratios), max(ratios))


def speeds(
    works: Mapping[str, Work],
    rounds: int,
    seconds: float,
    first_amount: float,
    on_round: Callable[[str], None] | None = None,
) -> dict[str, tuple[float, ...]]:
    """Units per second of each work, one value per round.

    The amount of work of a run is found for each simulator before the first round and then
    stays, so that a run takes about ``seconds``.

    Args:
        works: by name; each continues where its last run ended.
        rounds: runs of each.
        seconds: of a run, about.
        first_amount: a small amount of work to begin the search with.
        on_round: told where the measurement is.
    """
    names = list(works)
    measured: dict[str, list[float]] = {name: [] for name in names}
    amounts = {name: _fitting_amount(works[name], seconds, first_amount) for name in names}
    with _prepared_objects_frozen():
        for k in range(rounds):
            if on_round is not None:
                on_round(f"run {k + 1} of {rounds}")
            turn = k % len(names)
            for name in names[turn:] + names[:turn]:
                units, elapsed = _timed(works[name], amounts[name])
                measured[name].append(units / elapsed)
    return {name: tuple(values) for name, values in measured.items()}


def _timed(work: Work, amount: float) -> tuple[float, float]:
    """Units counted and seconds taken."""
    started = time.perf_counter()
    units = work(amount)
    return units, time.perf_counter() - started


def _fitting_amount(work: Work, seconds: float, amount: float) -> float:
    """How much work fills this many seconds, found by growing trials."""
    while True:
        _, elapsed = _timed(work, amount)
        if elapsed >= _LONG_ENOUGH * seconds:
            return amount * seconds / elapsed
        amount *= min(_FASTEST_GROWTH, seconds / max(elapsed, 1e-9))


@contextmanager
def _prepared_objects_frozen() -> Iterator[None]:
    """Keep the garbage collector from scanning one simulator's objects in another's run."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def pinned(n_cpus: int = 1) -> Iterator[bool]:
    """Keep this thread, and those it starts, on so many CPUs; False where the OS cannot."""
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    allowed = os.sched_getaffinity(0)
    # The last ones: the first often serve interrupts.
    os.sched_setaffinity(0, sorted(allowed)[-n_cpus:])
    try:
        yield True
    finally:
        os.sched_setaffinity(0, allowed)
