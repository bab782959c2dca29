"""Settings that no other one beats in goodput, TTFT, TPOT and cost, by successive halving."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.sizing.case_runs import CaseRuns
from llm_sched_env.sizing.judged import Judged, judge
from llm_sched_env.sizing.requirement import Requirement
from llm_sched_env.sizing.settings import Setting
from llm_sched_env.sizing.workload import Workload

RUNGS = (0.125, 0.25, 0.5)
"""Shares of the requests on which settings are compared before all of them."""
_LEAST_KEPT = 4  # of each cost
# Shares of good requests that differ by less than this are equal.
_TIE = 0.002


@dataclass(frozen=True)
class Tuned:
    """A setting and what it comes to on all requests.

    Attributes:
        setting: of the cluster.
        judged: over the whole workload.
        on_front: whether no other setting is at least as good in everything and better in one; of
            equal ones the first.
    """

    setting: Setting
    judged: Judged
    on_front: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.judged.to_dict(), **self.setting.to_dict(), "on_front": self.on_front}


@dataclass(frozen=True)
class Tuning:
    """What :func:`tune` finds.

    Attributes:
        workload: its name.
        rate: arrivals per second.
        asked: of the requests, in words.
        tried: settings.
        rungs: how many of them were compared on which share of the requests.
        finalists: those that were judged on all requests.
        chosen: of the cheapest that meet what was asked the one of most good requests, at equal
            shares with the most time to spare; where none does, the surest.
    """

    workload: str
    rate: float
    asked: str
    tried: int
    rungs: tuple[tuple[float, int], ...]
    finalists: tuple[Tuned, ...]
    chosen: Tuned

    @property
    def front(self) -> tuple[Tuned, ...]:
        """The finalists that no other one beats."""
        return tuple(t for t in self.finalists if t.on_front)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "workload": self.workload,
            "rate": self.rate,
            "asked": self.asked,
            "tried": self.tried,
            "rungs": [list(rung) for rung in self.rungs],
            "chosen": self.chosen.to_dict(),
            "finalists": [t.to_dict() for t in self.finalists],
        }


def tune(
    workload: Workload,
    settings: Sequence[Setting],
    requirement: Requirement | None = None,
    *,
    seed: int = 0,
    runs: CaseRuns | None = None,
) -> Tuning:
    """Compare settings on more and more of the requests, and keep the better half each time.

    Better is a lower rank of non-dominated sorting in four numbers: goodput (more), 99th
    percentiles of TTFT and TPOT, and cost an hour (less); in a rank those with the greater share
    of requests in time stay, and of those that do the same the first. Settings are halved among
    those of equal cost, which is known before: otherwise the dearer ones, which are better in all
    else, would crowd out the others. A part of the requests is some samples of an instance, or the
    busiest stretch of a trace, where settings differ most; what is left is judged on everything.

    Args:
        workload: what is served; all settings meet the same requests.
        settings: :func:`.settings_of`, of one kind of GPU or several.
        requirement: by which one is chosen; default: that of :func:`.size`.
        seed: of patience and routing.
        runs: where cases run and are kept.

    Raises:
        ConfigurationError: without any setting.

    Example:
        >>> from llm_sched_env.model.hardware import HardwareFile
        >>> from llm_sched_env.sizing.judged import GpuKind
        >>> from llm_sched_env.sizing.served_case import compiled_policy
        >>> from llm_sched_env.sizing.settings import settings_of
        >>> from llm_sched_env.sizing.workload import instance_workload
        >>> chats = instance_workload("chat-deadlines", 8.0, horizon=40.0, warmup=10.0)
        >>> gpu = GpuKind("b128", HardwareFile.load("h100-llama3-8b-b128").hardware)
        >>> ways = settings_of(gpu, [1], [compiled_policy("EDF")], slots=[16, 64], chunks=[512])
        >>> tune(chats, ways).chosen.setting.n_gpus
        1
    """
    if not settings:
        raise ConfigurationError("settings", list(settings), "at least one")
    requirement, runs = requirement or Requirement(), runs or CaseRuns()
    left, rungs = list(settings), []
    for share in RUNGS:
        if not any(_kept(count) < count for count in Counter(map(_cost, left)).values()):
            break
        rows = _judged(workload.part(share), left, requirement, runs, seed)
        rungs.append((share, len(left)))
        left = _better_halves(left, rows)
    rows = _judged(workload, left, requirement, runs, seed)
    objectives = _objectives(rows)
    # Of settings that do the same, such as slots that are never filled, the first one stands.
    _, first = np.unique(objectives, axis=0, return_index=True)
    ranks = front_ranks(objectives)
    finalists = tuple(
        Tuned(setting, row, bool(ranks[k] == 0 and k in first))
        for k, (setting, row) in enumerate(zip(left, rows, strict=True))
    )
    return Tuning(
        workload.name,
        workload.rate,
        requirement.text(workload.limits),
        len(settings),
        (*rungs, (1.0, len(left))),
        finalists,
        _chosen(finalists, workload),
    )


def _judged(
    workload: Workload,
    settings: Sequence[Setting],
    requirement: Requirement,
    runs: CaseRuns,
    seed: int,
) -> list[Judged]:
    candidates = [setting.candidate for setting in settings]
    return judge(workload, candidates, requirement, runs, seed, comparisons=len(candidates))


def _objectives(rows: Sequence[Judged]) -> np.ndarray:
    """What is to be small, a row a setting: goodput with its sign changed, TTFT, TPOT, cost."""
    return np.array([(-r.good_rate, r.ttft[-1], r.tpot[-1], r.cost_per_hour) for r in rows])


def front_ranks(objectives: np.ndarray) -> np.ndarray:
    """Ranks of non-dominated sorting: 0 where no row is at least as small, and smaller once.

    Args:
        objectives: all to be small, shape (settings, objectives); may be infinite.

    Example:
        >>> front_ranks(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
        [0, 0, 1]
    """
    one, other = objectives[:, None], objectives[None]
    beats = np.all(one <= other, axis=2) & np.any(one < other, axis=2)
    ranks = np.full(len(objectives), -1)
    left = np.ones(len(objectives), bool)
    rank = 0
    while left.any():
        first = left & ~np.any(beats[left], axis=0)
        ranks[first], left = rank, left & ~first
        rank += 1
    return ranks


def _cost(setting: Setting) -> float:
    """Of all GPUs, an hour: known before anything has run."""
    return setting.n_gpus * (1.0 if setting.kind.price is None else setting.kind.price)


def _kept(count: int) -> int:
    return min(count, max(_LEAST_KEPT, (count + 1) // 2))


def _better_halves(settings: list[Setting], rows: list[Judged]) -> list[Setting]:
    """Of the settings of each cost half, or a few, by rank and then by the share in time."""
    kept: list[int] = []
    for cost, count in Counter(map(_cost, settings)).items():
        own = [k for k, setting in enumerate(settings) if _cost(setting) == cost]
        order = _best_first([rows[k] for k in own])
        kept += [own[k] for k in order[: _kept(count)]]
    return [settings[k] for k in sorted(kept)]


def _best_first(rows: list[Judged]) -> list[int]:
    """Numbers of rows by rank, then by the share in time; those that repeat another last."""
    objectives = _objectives(rows)
    _, first = np.unique(objectives, axis=0, return_index=True)
    repeats = ~np.isin(np.arange(len(rows)), first)
    shares = np.array([-row.judged.mean for row in rows])
    order: list[int] = np.lexsort((shares, front_ranks(objectives), repeats)).tolist()
    return order


def _chosen(finalists: Sequence[Tuned], workload: Workload) -> Tuned:
    """Of the cheapest that meet the requirement the best, by good requests, then by time to spare.

    Where none meets it, the surest.
    """
    met = [t for t in finalists if t.judged.met]
    met = [t for t in met if t.on_front] or met
    if not met:
        return max(finalists, key=lambda t: (t.judged.judged.low, t.judged.good.mean))
    least = min(t.judged.cost_per_hour for t in met)
    cheapest = [t for t in met if t.judged.cost_per_hour == least]
    most = max(t.judged.good.mean for t in cheapest)
    as_good = [t for t in cheapest if t.judged.good.mean >= most - _TIE]
    return min(as_good, key=lambda t: _time_used(t.judged, workload))


def _time_used(row: Judged, workload: Workload) -> float:
    """The 99th percentiles as shares of the tightest deadlines, the greater one."""
    used = [
        latency / float(limit.min())
        for latency, limit in zip((row.ttft[-1], row.tpot[-1]), workload.limits, strict=True)
    ]
    return max(u for u in used if not math.isnan(u))
