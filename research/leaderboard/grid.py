"""The leaderboard's grid: instances, sizes and durations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_sched_env.model.instance import Instance
from llm_sched_env.presets import resolve_instance
from research.framework.study import seeds
from research.setups.random_instances import random_instance, slowest_decode

SEED = 2026
"""Of the random instances and of all requests: held out, no agent may train on either."""
PRESETS = ("base", "overload", "dolly15k")
CLASSES = (2, 2, 2, 2, 2, 3, 4, 6, 8, 16)
"""Of random instance 0, 1, ..."""
SIZES = (5, 20, 50, 200, 500, 2000)


@dataclass(frozen=True)
class Case:
    """A row of the leaderboard: an instance at one size, with the requests that all face.

    Attributes:
        instance: with its name on the leaderboard.
        n_gpus: cluster size.
        seed: of its requests; cases share none, so they are independent of each other.
        horizon: simulated seconds, warm-up included.
        warmup: seconds that are not measured.
        replications: independent runs.
    """

    instance: Instance
    n_gpus: int
    seed: int
    horizon: float
    warmup: float
    replications: int


@dataclass(frozen=True)
class _Lengths:
    """How long and how often is simulated, by size or for all sizes.

    Attributes:
        decodes: warm-up in mean durations of the slowest decode.
        least_warmup: in seconds.
        measured: seconds after the warm-up.
        replications: on presets.
        random_replications: on random instances, whose warm-ups are longer.
    """

    decodes: float
    least_warmup: float
    measured: Mapping[int, float]
    replications: Mapping[int, int]
    random_replications: int

    def case(self, instance: Instance, n_gpus: int, seed: int, *, drawn: bool) -> Case:
        """Times are whole tens of seconds, so that policies may act at any usual interval."""
        warmup = max(self.least_warmup, self.decodes * slowest_decode(instance))
        warmup = 10.0 * math.ceil(warmup / 10.0)
        runs = self.random_replications if drawn else self.replications[n_gpus]
        return Case(instance, n_gpus, seed, warmup + self.measured[n_gpus], warmup, runs)


_FULL = _Lengths(
    2.0,
    200.0,
    {5: 500.0, 20: 400.0, 50: 300.0, 200: 200.0, 500: 150.0, 2000: 100.0},
    {5: 6, 20: 6, 50: 4, 200: 3, 500: 3, 2000: 3},
    3,
)
_QUICK = _Lengths(1.0, 50.0, {5: 100.0, 20: 50.0}, {5: 2, 20: 2}, 2)


def leaderboard_cases(*, quick: bool = False) -> list[Case]:
    """All rows of the leaderboard, by instance, then size; quick: a few, short."""
    if quick:
        return _cases(("overload",), (0, 6), (5, 20), _QUICK)
    return _cases(PRESETS, range(len(CLASSES)), SIZES, _FULL)


def is_random(name: str) -> bool:
    """Whether an instance of the leaderboard, by its name, is one of the random ones."""
    return name.startswith("random-")


def _cases(
    presets: Sequence[str], numbers: Sequence[int], sizes: Sequence[int], lengths: _Lengths
) -> list[Case]:
    instances = [(resolve_instance(name), False) for name in presets]
    instances += [(random_instance(k, SEED, CLASSES[k]), True) for k in numbers]
    rows = [(*chosen, n_gpus) for chosen in instances for n_gpus in sizes]
    return [
        lengths.case(instance, n_gpus, own_seed, drawn=drawn)
        for (instance, drawn, n_gpus), own_seed in zip(rows, seeds(SEED, len(rows)), strict=True)
    ]
