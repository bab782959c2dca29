"""The fewest GPUs that meet a requirement, and the highest rate that a cluster sustains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llm_sched_env.errors import ConfigurationError, checked_integer, is_finite_number
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.sizing.bound import Bound, greatest_rate_factor, least_gpus
from llm_sched_env.sizing.case_runs import CaseRuns
from llm_sched_env.sizing.judged import Candidate, GpuKind, Judged, best_of, judge, known
from llm_sched_env.sizing.requirement import Requirement
from llm_sched_env.sizing.served_case import compiled_policy
from llm_sched_env.sizing.workload import Workload

POLICIES = ("fcfs-immediate", "gate-prefill-first", "trunk-reservation", "earliest-deadline-first")
"""Those that are tried by default."""
RATE_TOLERANCE = 0.02


@dataclass(frozen=True)
class KindSize:
    """The fewest GPUs of a kind.

    Attributes:
        kind: of GPU.
        bound: below its number no scheduler can.
        requirement: what was searched for: what was asked, or where no number of GPUs can give
            it the highest whole percent that some number gives.
        best: the fewest that meet it, under the best policy; None: none was found.
        rows: all that was judged, by size and policy.
    """

    kind: GpuKind
    bound: Bound
    requirement: Requirement
    best: Judged | None
    rows: tuple[Judged, ...]

    @property
    def possible(self) -> bool:
        """Whether accounting leaves it open that some number of GPUs gives what was asked."""
        return math.isfinite(self.bound.n_gpus)

    @property
    def as_measured(self) -> Judged | None:
        """The fewest GPUs that met the requirement on these very requests, sure or not."""
        share = self.requirement.share
        found = [row for row in self.rows if row.judged.mean >= share(row.rate)]
        least = min((row.n_gpus for row in found), default=0)
        return best_of([row for row in found if row.n_gpus == least]) if found else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        bound = {
            name: known(v) if isinstance(v, float) else v
            for name, v in self.bound._asdict().items()
        }
        measured = self.as_measured
        return {
            "gpu": self.kind.name,
            "price_per_hour": self.kind.price,
            "possible": self.possible,
            "bound": bound,
            "level": self.requirement.level,
            "n_gpus": None if self.best is None else self.best.n_gpus,
            "n_gpus_as_measured": None if measured is None else measured.n_gpus,
            "best": None if self.best is None else self.best.to_dict(),
            "rows": [row.to_dict() for row in self.rows],
        }


@dataclass(frozen=True)
class Sizing:
    """What :func:`size` finds.

    Attributes:
        workload: its name.
        rate: arrivals per second.
        requests: that were counted.
        requirement: what was asked.
        asked: the same in words.
        kinds: the fewest GPUs of each kind.
    """

    workload: str
    rate: float
    requests: int
    requirement: Requirement
    asked: str
    kinds: tuple[KindSize, ...]

    @property
    def cheapest(self) -> KindSize | None:
        """The kind whose fewest GPUs cost least, at equal cost with the most good requests."""
        found = [k for k in self.kinds if k.best is not None and k.possible]
        return min(found, key=_cost, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        cheapest = self.cheapest
        return {
            "workload": self.workload,
            "rate": self.rate,
            "requests": self.requests,
            "asked": self.asked,
            "measure": self.requirement.measure,
            "level": self.requirement.level,
            "confidence": self.requirement.confidence,
            "answer": None if cheapest is None else cheapest.to_dict()["best"],
            "kinds": [kind.to_dict() for kind in self.kinds],
        }


def size(
    workload: Workload,
    kinds: Sequence[GpuKind],
    requirement: Requirement | None = None,
    *,
    policies: Sequence[Any] = POLICIES,
    most_gpus: int = 1024,
    seed: int = 0,
    runs: CaseRuns | None = None,
) -> Sizing:
    """The fewest GPUs of each kind at which a workload gets what is required.

    For every kind the search starts at the size below which no scheduler can (:mod:`.bound`),
    doubles its steps until some policy meets the requirement with the confidence asked for, and
    halves the bracket. All sizes and policies serve the same requests. That more GPUs are never
    worse is assumed between the sizes that were tried, not below the bound, which is proved.

    Args:
        workload: :func:`.trace_workload` or :func:`.instance_workload`.
        kinds: GPUs that can be had; each cluster is of one kind.
        requirement: default: 99% of first tokens, and of the others, by their deadlines.
        policies: compiled rules: names or :class:`DispatchRule`; the best of them counts, and
            each is judged with 1 - (1 - confidence) / their number.
        most_gpus: no more are tried.
        seed: of patience and routing.
        runs: where cases run and are kept.

    Raises:
        ConfigurationError: for an argument that is not allowed.

    Example:
        >>> from llm_sched_env.model.deadlines import Deadlines
        >>> from llm_sched_env.presets import base
        >>> from llm_sched_env.sizing.workload import instance_workload
        >>> chats = instance_workload(
        ...     "base", 4.0, Deadlines(ttft_seconds=5.0), horizon=60.0, warmup=20.0
        ... )
        >>> gpu = GpuKind("A100", base().hardware, price=2.0)
        >>> found = size(chats, [gpu], Requirement("share", 0.8), policies=["fcfs-immediate"])
        >>> found.kinds[0].bound.n_gpus <= found.cheapest.best.n_gpus <= 16
        True
    """
    requirement = requirement or Requirement()
    runs = runs or CaseRuns()
    rules = checked_policies(policies)
    most_gpus = checked_integer("most_gpus", most_gpus)
    if not kinds:
        raise ConfigurationError("kinds", list(kinds), "at least one kind of GPU")
    requirement.share(workload.rate)
    found = [
        _fewest_of_kind(_Search(workload, kind, requirement, rules, most_gpus, seed, runs))
        for kind in kinds
    ]
    return Sizing(
        workload.name,
        workload.rate,
        workload.n_counted,
        requirement,
        requirement.text(workload.limits),
        tuple(found),
    )


# Whole percents below the most that is possible that are tried where what was asked is not.
_LOWER_PERCENTS = 5


def _fewest_of_kind(search: _Search) -> KindSize:
    """The fewest GPUs; of the highest whole percent that can be had, if what was asked cannot."""
    asked = search.requirement
    bound = least_gpus(search.workload, search.kind.hardware, asked)
    if math.isfinite(bound.n_gpus) or asked.measure == "goodput":
        return search.fewest(bound)
    found = KindSize(search.kind, bound, asked, None, ())
    most = math.floor(100.0 * bound.possible_share)
    for percent in range(most, max(most - _LOWER_PERCENTS, 0), -1):
        level = float(percent) if asked.measure == "percentile" else percent / 100.0
        lower = replace(search, requirement=replace(asked, level=level), rows={})
        size = lower.fewest(least_gpus(lower.workload, lower.kind.hardware, lower.requirement))
        found = replace(size, bound=bound)
        if found.best is not None:
            break
    return found


@dataclass
class _Search:
    """The search for the fewest GPUs of one kind."""

    workload: Workload
    kind: GpuKind
    requirement: Requirement
    policies: list[tuple[str, DispatchRule]]
    most_gpus: int
    seed: int
    runs: CaseRuns
    rows: dict[int, list[Judged]] = field(default_factory=dict)

    def fewest(self, bound: Bound) -> KindSize:
        """From the bound up, in doubling steps, then by halves."""
        if bound.n_gpus > self.most_gpus:
            return self._found(bound, None)
        least = int(bound.n_gpus)
        low, high, step = least - 1, least, 1
        while not self._best(high).met:
            if high == self.most_gpus:
                return self._found(bound, None)
            low, high, step = high, min(high + step, self.most_gpus), 2 * step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._best(middle).met else (middle, high)
        for beside in {high + 1, high + max(2, high // 2)}:  # what more GPUs bring
            if beside <= self.most_gpus:
                self._best(beside)
        return self._found(bound, self._best(high))

    def _best(self, n: int) -> Judged:
        if n not in self.rows:
            self.rows[n] = judge(
                self.workload,
                [Candidate(self.kind, n, *policy) for policy in self.policies],
                self.requirement,
                self.runs,
                self.seed,
                comparisons=len(self.policies),
            )
        return best_of(self.rows[n])

    def _found(self, bound: Bound, best: Judged | None) -> KindSize:
        rows = tuple(row for _, rows in sorted(self.rows.items()) for row in rows)
        return KindSize(self.kind, bound, self.requirement, best, rows)


@dataclass(frozen=True)
class MaxRate:
    """What :func:`max_rate` finds.

    Attributes:
        kind: of GPU.
        n_gpus: cluster size n.
        asked: of the requests, in words.
        bound: requests per second above which no scheduler can.
        best: at the highest rate that meets the requirement; None: none was found.
        missed: the lowest rate that does not, among those tried and the bound, likewise.
        rows: all that was judged, by rate and policy.
    """

    kind: GpuKind
    n_gpus: int
    asked: str
    bound: float
    best: Judged | None
    missed: float
    rows: tuple[Judged, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "gpu": self.kind.name,
            "n_gpus": self.n_gpus,
            "asked": self.asked,
            "bound": known(self.bound),
            "rate": None if self.best is None else self.best.rate,
            "missed": known(self.missed),
            "best": None if self.best is None else self.best.to_dict(),
            "rows": [row.to_dict() for row in self.rows],
        }


def max_rate(
    workload: Workload,
    kind: GpuKind,
    n_gpus: int,
    requirement: Requirement | None = None,
    *,
    policies: Sequence[Any] = POLICIES,
    tolerance: float = RATE_TOLERANCE,
    seed: int = 0,
    runs: CaseRuns | None = None,
) -> MaxRate:
    """The highest arrival rate at which a cluster gives a workload what is required.

    The requests stay the same and come faster or slower. Queues must be stable, too: where they
    grow by more than 1% of the arrivals, the requirement counts as missed.

    Args:
        workload: of any rate.
        kind: of GPU.
        n_gpus: cluster size n.
        requirement: as in :func:`size`, but no goodput.
        policies: as in :func:`size`.
        tolerance: the bracket is halved until its ends differ by less than this share.
        seed: of patience and routing.
        runs: where cases run and are kept.

    Raises:
        ConfigurationError: for an argument that is not allowed.
    """
    requirement = requirement or Requirement()
    runs = runs or CaseRuns()
    rules = checked_policies(policies)
    n_gpus = checked_integer("n_gpus", n_gpus)
    if requirement.measure == "goodput":
        raise ConfigurationError(
            "A goodput is not asked of a highest rate, which would make it a share; give a "
            "percentile or a share."
        )
    if not is_finite_number(tolerance, positive=True) or tolerance >= 1.0:
        raise ConfigurationError("tolerance", tolerance, "a share in (0, 1)")
    most = greatest_rate_factor(workload, kind.hardware, n_gpus, requirement)
    rows: dict[float, list[Judged]] = {}

    def best(factor: float) -> Judged:
        rows[factor] = judge(
            workload.at_rate(factor),
            [Candidate(kind, n_gpus, *rule) for rule in rules],
            requirement,
            runs,
            seed,
            comparisons=len(rules),
            stable=True,
        )
        return best_of(rows[factor])

    _, high, found = _bracket(best, most, tolerance)
    return MaxRate(
        kind=kind,
        n_gpus=n_gpus,
        asked=requirement.text(workload.limits),
        bound=most * workload.counted_rate,
        best=found,
        missed=high * workload.counted_rate,
        rows=tuple(row for _, of_rate in sorted(rows.items()) for row in of_rate),
    )


# So many rates are tried at most.
_MOST_RATES = 16


def _bracket(
    best: Callable[[float], Judged], most: float, tolerance: float
) -> tuple[float, float, Judged | None]:
    """The highest factor that was met, the lowest above it that was not, and the former's row."""
    low, high, found = 0.0, most, None
    for _ in range(_MOST_RATES):
        if high <= low * (1.0 + tolerance):
            break
        if math.isinf(high):
            middle = max(1.0, 2.0 * low)
        else:
            middle = math.sqrt(low * high) if low else high / 2.0
        row = best(middle)
        if row.met:
            low, found = middle, row
        else:
            high = middle
    return low, high, found


def checked_policies(policies: Sequence[Any]) -> list[tuple[str, DispatchRule]]:
    """Labels and rules of compiled policies, each once.

    Raises:
        ConfigurationError: for others, none, or two names of one policy.
    """
    rules = [compiled_policy(policy) for policy in policies]
    labels = [label for label, _ in rules]
    if not rules or len(set(labels)) < len(labels):
        raise ConfigurationError("policies", labels, "at least one, each once")
    return rules


def _cost(kind: KindSize) -> tuple[float, float]:
    assert kind.best is not None
    return kind.best.cost_per_hour, -kind.best.good.mean
