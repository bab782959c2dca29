"""A policy on a number of GPUs, judged by a requirement over all samples of the workload."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.hardware_source import HardwareSource
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.sizing.case_runs import CaseRuns
from llm_sched_env.sizing.requirement import MET, Requirement, Share, share_of, verdict_of
from llm_sched_env.sizing.served_case import Case, CaseResult
from llm_sched_env.sizing.workload import Workload

_HOUR = 3600.0


@dataclass(frozen=True)
class GpuKind:
    """GPUs that can be had.

    Args:
        name: of the kind, such as that of a hardware preset.
        hardware: of each.
        price: currency per GPU and hour; None: cost is counted in GPU hours.
        source: where the hardware was measured.

    Raises:
        ConfigurationError: for a price that is not a number > 0.
    """

    name: str
    hardware: Hardware
    price: float | None = None
    source: HardwareSource | None = None

    def __post_init__(self) -> None:
        if self.price is not None and not is_finite_number(self.price, positive=True):
            raise ConfigurationError(f"price of {self.name}", self.price, "a number > 0 per hour")


@dataclass(frozen=True)
class Judged:
    """What a policy on n GPUs of a kind comes to; latencies are means over samples.

    Attributes:
        kind: name of the GPUs.
        n_gpus: cluster size n.
        policy: its label.
        rate: arrivals per second.
        verdict: ``met``, ``missed`` or, where neither is sure, ``open``.
        judged: the least of the shares that must be enough.
        good: share of the counted requests that is within all deadlines.
        first_in_time: share with the first token in time.
        tokens_in_time: share whose other tokens are.
        ttft: s at 50, 90, 95 and 99%, of all counted requests; inf where these got none.
        tpot: s per token, likewise.
        falls_behind: requests by which the queue grows, as a share of those that arrive.
        good_rate: good requests per second.
        cost_per_hour: of all GPUs.
        cost_per_million_tokens: prompt and output, of good requests.
    """

    kind: str
    n_gpus: int
    policy: str
    rate: float
    verdict: str
    judged: Share
    good: Share
    first_in_time: Share
    tokens_in_time: Share
    ttft: tuple[float, ...]
    tpot: tuple[float, ...]
    falls_behind: float
    good_rate: float
    cost_per_hour: float
    cost_per_million_tokens: float

    @property
    def met(self) -> bool:
        """Whether it is met with the confidence that was asked for."""
        return self.verdict == MET

    def to_dict(self) -> dict[str, Any]:
        """Plain data; None for what is infinite or unknown."""
        shares = ("judged", "good", "first_in_time", "tokens_in_time")
        numbers = ("rate", "falls_behind", "good_rate", "cost_per_hour", "cost_per_million_tokens")
        percentiles = ("p50", "p90", "p95", "p99")
        return {
            "gpu": self.kind,
            "n_gpus": self.n_gpus,
            "policy": self.policy,
            "verdict": self.verdict,
            **{name: getattr(self, name)._asdict() for name in shares},
            **{name: known(getattr(self, name)) for name in numbers},
            "ttft": dict(zip(percentiles, map(known, self.ttft), strict=True)),
            "tpot": dict(zip(percentiles, map(known, self.tpot), strict=True)),
        }


def known(value: float) -> float | None:
    """A number as JSON has it: None where it is infinite or unknown."""
    return value if math.isfinite(value) else None


class Candidate(NamedTuple):
    """A policy on a number of GPUs, as it is to be judged.

    Attributes:
        kind: of GPU.
        n_gpus: cluster size n.
        policy: its label.
        rule: the policy.
        pool_scale: as :class:`.Case` has it.
        reserve_scale: likewise.
    """

    kind: GpuKind
    n_gpus: int
    policy: str
    rule: DispatchRule
    pool_scale: float = 1.0
    reserve_scale: float = 1.0

    def case(self, sample: int, seed: int) -> Case:
        """Its run of a sample."""
        scales = (self.pool_scale, self.reserve_scale)
        return Case(self.policy, self.rule, self.kind.hardware, self.n_gpus, sample, seed, *scales)


def judge(
    workload: Workload,
    candidates: Sequence[Candidate],
    requirement: Requirement,
    runs: CaseRuns,
    seed: int,
    *,
    comparisons: int = 1,
    stable: bool = False,
) -> list[Judged]:
    """Every candidate on the same requests.

    Args:
        workload: what is served.
        candidates: in the order of the results.
        requirement: what is asked.
        runs: runs the cases.
        seed: of patience and routing.
        comparisons: among how many the best is looked for (:func:`.share_of`).
        stable: whether queues that grow, too, miss the requirement.
    """
    samples = len(workload.samples)
    cases = [candidate.case(k, seed) for candidate in candidates for k in range(samples)]
    found = runs.results(workload, cases)
    parts = [found[k : k + samples] for k in range(0, len(found), samples)]
    return [
        _judged(workload, candidate, results, requirement, comparisons, stable=stable)
        for candidate, results in zip(candidates, parts, strict=True)
    ]


# The number of requests by which a stable queue may grow, as a share of the arrivals.
_MOST_BEHIND = 0.01


def _judged(
    workload: Workload,
    candidate: Candidate,
    results: Sequence[CaseResult],
    requirement: Requirement,
    comparisons: int,
    *,
    stable: bool,
) -> Judged:
    counted = np.concatenate([r.counted for r in results])
    kind, n_gpus = candidate.kind, candidate.n_gpus

    def share(name: str) -> Share:
        counts = np.concatenate([getattr(r, name) for r in results])
        return share_of(counts, counted, requirement.confidence, comparisons)

    good, first, tokens = (share(name) for name in ("good", "first_in_time", "tokens_in_time"))
    asked = [first, tokens] if requirement.of_each_latency else [good]
    verdict = verdict_of(asked, requirement.share(workload.rate))
    seconds = workload.counted_seconds
    rate = workload.counted_rate
    growth = float(np.mean([r.waiting[2] - r.waiting[0] for r in results])) * len(results)
    behind = growth / (rate * seconds * 2.0 / 3.0)
    if stable and behind > _MOST_BEHIND:
        verdict = "missed"
    price = 1.0 if kind.price is None else kind.price
    tokens_per_hour = sum(r.prompt_tokens + r.output_tokens for r in results) / seconds * _HOUR
    cost = n_gpus * price
    return Judged(
        kind=kind.name,
        n_gpus=n_gpus,
        policy=candidate.policy,
        rate=rate,
        verdict=verdict,
        judged=min(asked, key=lambda s: s.low),
        good=good,
        first_in_time=first,
        tokens_in_time=tokens,
        ttft=_mean([r.ttft for r in results]),
        tpot=_mean([r.tpot for r in results]),
        falls_behind=behind,
        good_rate=good.mean * rate,
        cost_per_hour=cost,
        cost_per_million_tokens=cost / tokens_per_hour * 1e6 if tokens_per_hour else math.inf,
    )


def _mean(rows: list[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(float(v) for v in np.mean(rows, axis=0))


def best_of(found: Sequence[Judged]) -> Judged:
    """The one that is surest to be enough; of equal ones the one of more good requests."""
    return max(found, key=lambda j: (j.met, j.judged.low, j.good.mean))
