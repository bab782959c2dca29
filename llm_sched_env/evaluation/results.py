"""The result record of an evaluation, and intervals over replications."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from llm_sched_env.evaluation.cache_results import CacheResult
from llm_sched_env.evaluation.deadline_attainment import DeadlineAttainment
from llm_sched_env.plugins.deprecated_names import renamed_attributes, renamed_property
from llm_sched_env.simulation.events.metrics import Latency, plain_latency


@dataclass(frozen=True)
class Estimate:
    """A mean over replications with its 95% interval (Student t); NaN ends if there is none."""

    mean: float
    ci95: tuple[float, float]

    @classmethod
    def of(cls, values: np.ndarray, *, requests_given: bool = False) -> Estimate:
        """Estimate from one value per replication, shape (K,).

        One replication has no interval, nor have equal ones of requests that are given: repeating
        the same run says nothing of sampling error.
        """
        from scipy.stats import t

        mean, n = float(np.mean(values)), len(values)
        if n < 2 or (requests_given and np.ptp(values) == 0.0):
            return cls(mean, (math.nan, math.nan))
        half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
        return cls(mean, (mean - half, mean + half))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``None`` for what is not known."""
        mean, *ends = (v if math.isfinite(v) else None for v in (self.mean, *self.ci95))
        return {"mean": mean, "ci95": ends}


@dataclass(frozen=True)
class SloAttainment:
    """What a service-level objective came to.

    Attributes:
        measured: the indicator at each replication's time averages, in its unit.
        planned: the indicator in the plan that steers the policy.
        limit: the greatest allowed value, or None.
        met: whether the measured mean is within the limit; None without one.
        price: currency per GPU, second and unit, or None.
        penalty: price times measured, currency per GPU and second; 0 without a price.
    """

    measured: Estimate
    planned: float
    limit: float | None
    met: bool | None
    price: float | None
    penalty: Estimate

    kept = renamed_property("kept", "met")

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        estimates = {name: getattr(self, name).to_dict() for name in ("measured", "penalty")}
        return {**asdict(self), **estimates}


@dataclass(frozen=True)
class DecisionTime:
    """How long a Python policy thinks about one action, milliseconds of wall time."""

    median: float
    p99: float

    @classmethod
    def of(cls, seconds: np.ndarray) -> DecisionTime:
        """From the seconds of every decision of all replications."""
        return cls(*(1e3 * np.quantile(seconds, [0.5, 0.99])).tolist())


@dataclass(frozen=True)
class ClassResult:
    """What happened to one class; counts are sums over replications, after the warm-up.

    initial + arrived = completed + rejected + abandoned_prefill + abandoned_decode + inside, where
    ``initial`` counts the requests present when the warm-up ended and ``rejected`` those that
    need more KV tokens than a GPU has. ``deadlines`` says how many were good, and why the others
    were not; None where no class of the instance has deadlines. ``cached_token_share`` is the share
    of its prompt tokens that needed no prefill; None without caches.
    """

    name: str
    initial: int
    arrived: int
    rejected: int
    admitted: int
    prefilled: int
    completed: int
    abandoned_prefill: int
    abandoned_decode: int
    inside: int
    throughput: float  # completions per GPU and second
    revenue_rate: float  # per GPU and second
    ttft: Latency
    tpot: Latency
    e2e: Latency
    deadlines: DeadlineAttainment | None = None
    cached_token_share: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``deadlines`` and ``cached_token_share`` only where there are any."""
        plain = asdict(self)
        plain.pop("deadlines")
        if self.cached_token_share is None:
            plain.pop("cached_token_share")
        if self.deadlines is not None:
            plain["deadlines"] = self.deadlines.to_dict()
        for name in ("ttft", "tpot", "e2e"):
            plain[name] = plain_latency(getattr(self, name))
        return plain


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A policy's result on an instance; rates per GPU and second, occupancies per GPU.

    Attributes:
        policy: its name.
        instance: the instance's name.
        n_gpus: cluster size.
        pricing: ``bundled`` or ``separate``, of ``revenue_rate``, ``score`` and ``bound``.
        revenue: which requests are paid for in ``revenue_rate``, ``score`` and ``objective``:
            ``all``, or ``goodput``: good ones, at completion under either pricing.
        bound: R* of the requests and seconds that are measured.
        bound_of: which these are, in words that follow "R* of".
        requests_given: whether all replications have the same requests, those of a trace.
        score: revenue rate / R*.
        revenue_rate: in the pricing asked for, of the requests of ``bound_of``.
        objective: revenue rate less the penalties of the service levels.
        bundled_revenue_rate: equation (22).
        separate_revenue_rate: equation (23).
        goodput_rate: revenue of the good requests; without deadlines all completed ones are.
        occupancy: time averages by station, each of shape (I,).
        occupancy_standard_error: their standard errors over replications.
        slos: what each service-level objective came to, by name.
        classes: results by class.
        ttft: time to first token, from arrival to the end of the prefill, s.
        tpot: time per output token, from the first token to completion over tokens, s.
        decode_tpot: seconds in decode slots per output token, without the wait for a slot that is
            in ``tpot``; :class:`TPOT` is a mean over slots, all full, and so a little more.
        e2e: arrival to completion, s.
        events: arrivals, completions and abandonments of all replications, warm-up included.
        wall_seconds: duration of the whole evaluation, with planning, loading and compiling.
        simulation_seconds: wall time in which at least one replication ran, from its first event
            to its last, decisions of a Python policy included: no planning, loading or compiling.
        decision_milliseconds: cost of a decision of a Python policy; None for a compiled rule.
        caches: what prefix caches were good for; None where no GPU has one.
        latency_quantiles: the distributions of ``ttft``, ``tpot`` and ``e2e`` by class, and last of
            all, s: :func:`.latency_quantiles`.
        note: what a reader must know, such as an overloaded plan without abandonment.

    Example:
        >>> import llm_sched_env as lse
        >>> result = lse.evaluate("token-bucket", "base", n_gpus=2, horizon=20.0, warmup=0.0)
        >>> result.requests["arrived"] >= result.requests["completed"]
        True
    """

    policy: str
    instance: str
    n_gpus: int
    pricing: str
    horizon: float
    warmup: float
    replications: int
    seed: int
    bound: float
    bound_of: str
    requests_given: bool
    score: Estimate
    revenue_rate: Estimate
    bundled_revenue_rate: Estimate
    separate_revenue_rate: Estimate
    objective: Estimate
    decode_tpot: Estimate
    slos: dict[str, SloAttainment]
    scores: tuple[float, ...]
    occupancy: dict[str, np.ndarray]
    occupancy_standard_error: dict[str, np.ndarray]
    classes: tuple[ClassResult, ...]
    ttft: Latency
    tpot: Latency
    e2e: Latency
    events: int
    wall_seconds: float
    simulation_seconds: float
    versions: dict[str, str]
    note: str = ""
    decision_milliseconds: DecisionTime | None = None
    revenue: str = "all"
    goodput_rate: Estimate | None = None
    caches: CacheResult | None = None
    latency_quantiles: dict[str, np.ndarray] = field(default_factory=dict)

    slis = renamed_property("slis", "slos")
    token_time = renamed_property("token_time", "decode_tpot")

    @property
    def interval_of(self) -> str:
        """What differs between replications, so what intervals over them cover."""
        if self.requests_given:
            return "patience and routing; the requests are given"
        return "requests, patience and routing"

    @property
    def coverage(self) -> str:
        """What R* and the interval of the score cover, in a line."""
        line = f"R* of {self.bound_of}"
        if self.replications < 2 or not self.requests_given:
            return line
        if math.isfinite(self.score.ci95[0]):
            return f"{line}; the interval is of {self.interval_of}"
        return f"{line}; no interval: the requests are given and every run is the same"

    @property
    def events_per_second(self) -> float:
        """Events of all replications per second of :attr:`simulation_seconds`.

        Replications that run at the same time count together.
        """
        return self.events / self.simulation_seconds

    @property
    def abandoned(self) -> dict[str, Any]:
        """Requests that abandoned, by queue, and their share of the arrivals."""
        prefill = sum(c.abandoned_prefill for c in self.classes)
        decode = sum(c.abandoned_decode for c in self.classes)
        arrived = sum(c.arrived for c in self.classes)
        share = (prefill + decode) / arrived if arrived else None
        return {"prefill_queue": prefill, "decode_queue": decode, "share": share}

    @property
    def deadlines(self) -> DeadlineAttainment | None:
        """How many requests of all classes were good; None without deadlines."""
        found = [c.deadlines for c in self.classes if c.deadlines is not None]
        return DeadlineAttainment.together(found) if found else None

    @property
    def paid_for(self) -> str:
        """What is paid for, in words: the pricing, or goodput and the pricing of R*."""
        return self.pricing if self.revenue == "all" else f"goodput, R* {self.pricing}"

    @property
    def requests(self) -> dict[str, int]:
        """The account of every request: arrived, completed, rejected, abandoned, inside."""
        names = ("initial", "arrived", "completed", "rejected", "inside")
        counts = {name: sum(getattr(c, name) for c in self.classes) for name in names}
        lost = self.abandoned
        return {**counts, "abandoned": lost["prefill_queue"] + lost["decode_queue"]}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, one JSON object; what deadlines add only where there are any."""
        estimates = (
            "score",
            "revenue_rate",
            "bundled_revenue_rate",
            "separate_revenue_rate",
            "objective",
            "decode_tpot",
        )
        return {
            "policy": self.policy,
            "instance": self.instance,
            "n_gpus": self.n_gpus,
            "pricing": self.pricing,
            "horizon": self.horizon,
            "warmup": self.warmup,
            "replications": self.replications,
            "seed": self.seed,
            "bound": self.bound,
            "bound_of": self.bound_of,
            "interval_of": self.interval_of,
            **{name: getattr(self, name).to_dict() for name in estimates},
            "slos": {name: level.to_dict() for name, level in self.slos.items()},
            "scores": list(self.scores),
            "occupancy": {k: v.tolist() for k, v in self.occupancy.items()},
            "occupancy_standard_error": {
                k: [x if math.isfinite(x) else None for x in v.tolist()]
                for k, v in self.occupancy_standard_error.items()
            },
            "classes": [c.to_dict() for c in self.classes],
            **{name: plain_latency(getattr(self, name)) for name in ("ttft", "tpot", "e2e")},
            "requests": self.requests,
            "abandoned": self.abandoned,
            "events": self.events,
            "events_per_second": self.events_per_second,
            "wall_seconds": self.wall_seconds,
            "decision_milliseconds": (
                asdict(self.decision_milliseconds) if self.decision_milliseconds else None
            ),
            "versions": self.versions,
            "note": self.note,
            **self._deadline_entries(),
        }

    def _deadline_entries(self) -> dict[str, Any]:
        """What deadlines, being paid for goodput, and caches add to the plain data."""
        entries: dict[str, Any] = {}
        if self.deadlines is not None or self.revenue != "all":
            entries["revenue"] = self.revenue
        if self.deadlines is not None and self.goodput_rate is not None:
            entries["goodput_rate"] = self.goodput_rate.to_dict()
            entries["deadlines"] = self.deadlines.to_dict()
        if self.caches is not None:
            entries["caches"] = self.caches.to_dict()
        return entries


__getattr__ = renamed_attributes(globals(), MeasuredLevel="SloAttainment")
