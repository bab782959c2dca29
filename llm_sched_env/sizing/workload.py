"""The requests that sizes are compared on: a trace, or samples of an instance, at any rate.

Every size, policy and setting meets the same requests (common random numbers): only the time
between arrivals shrinks as traffic grows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, TraceError, checked_integer, is_finite_number
from llm_sched_env.evaluation.scenario import scenario
from llm_sched_env.model.catalog import PAPER_PRICES
from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.instance import Instance, Prices, RequestClass
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.presets import resolve_instance
from llm_sched_env.workloads.generated import requests_of_run
from llm_sched_env.workloads.trace import Trace
from llm_sched_env.workloads.traces import load_traces

TRACE_BLOCKS = 20
"""Equal parts of a trace's time: their differences say how far a share is known."""
# A request without a deadline may take this long before the run ends: s, and s per token.
_LONGEST_TTFT, _LONGEST_TPOT = 60.0, 1.0


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests for a whole cluster, with deadlines, and what a policy knows of them.

    Attributes:
        name: for messages.
        template: classes with patience, deadlines and prices; of its hardware nothing is used.
        samples: independent runs' requests; one for a recorded trace.
        recorded: whether the policy plans for the sample's own rows, as in a replay, or for the
            classes of the template.
        warmup: seconds at the start whose arrivals are not counted.
    """

    name: str
    template: Instance
    samples: tuple[Trace, ...]
    recorded: bool
    warmup: float = 0.0

    @property
    def rate(self) -> float:
        """Mean arrivals per second for the whole cluster."""
        return sum(len(s) for s in self.samples) / sum(s.duration for s in self.samples)

    @property
    def limits(self) -> np.ndarray:
        """Greatest good TTFT and TPOT by class, inf without a bound; shape (2, I)."""
        return self.template.deadlines

    @cached_property
    def counted(self) -> tuple[np.ndarray, ...]:
        """Of each sample, which requests count: those after the warm-up; bool, shape (K,)."""
        return tuple(sample.arrival_time >= self.warmup for sample in self.samples)

    @property
    def n_counted(self) -> int:
        """Requests that count, of all samples."""
        return sum(int(rows.sum()) for rows in self.counted)

    @property
    def counted_seconds(self) -> float:
        """Seconds in which those arrive, of all samples."""
        return sum(sample.duration - self.warmup for sample in self.samples)

    @property
    def counted_rate(self) -> float:
        """Mean arrivals per second among those: what a judged row has as its rate."""
        return self.n_counted / self.counted_seconds

    def drain_seconds(self, sample: Trace) -> float:
        """How long a run goes on after the last arrival.

        What arrives last and is not done then has missed a deadline. Where a class has none, its
        requests get 60 s to their first token and 1 s per output token.
        """
        ttft = np.where(np.isinf(self.limits[0]), _LONGEST_TTFT, self.limits[0])
        tpot = np.where(np.isinf(self.limits[1]), _LONGEST_TPOT, self.limits[1])
        own = sample.request_class
        return float((ttft[own] + tpot[own] * np.maximum(sample.output_tokens, 1.0)).max())

    def at_rate(self, factor: float) -> Workload:
        """The same requests arriving ``factor`` times as fast."""
        samples = tuple(sample.at_speed(factor) for sample in self.samples)
        template = self.template.scaled(factor, self.template.name)
        return dataclasses.replace(
            self, samples=samples, template=template, warmup=self.warmup / factor
        )

    def part(self, share: float) -> Workload:
        """A share of the requests: some of the samples, or the busiest stretch of a trace.

        Args:
            share: in (0, 1); of the samples at least one, of a trace's time.
        """
        if len(self.samples) > 1:
            count = max(1, round(share * len(self.samples)))
            return dataclasses.replace(self, samples=self.samples[:count])
        sample = self.samples[0].window(self.warmup)
        seconds = share * sample.duration
        last = np.searchsorted(sample.arrival_time, sample.arrival_time + seconds)
        tokens = np.concatenate([[0.0], np.cumsum(sample.prompt_tokens + sample.output_tokens)])
        start = float(sample.arrival_time[np.argmax(tokens[last] - tokens[:-1])])
        start = max(0.0, min(start, sample.duration - seconds))
        busiest = sample.window(start, start + seconds)
        if self.recorded and len(np.unique(busiest.request_class)) < len(busiest.class_names):
            return self  # a stretch without a class has no plan
        return dataclasses.replace(self, samples=(busiest,), warmup=0.0)

    def cluster(self, hardware: Hardware, n_gpus: int, sample: int) -> Cluster:
        """What a policy plans for on n GPUs of a kind; its requests are those of a sample."""
        given = dataclasses.replace(self.template, hardware=hardware)
        if not self.recorded:
            return Cluster(given.scaled(1.0 / n_gpus, given.name), n_gpus)
        served = scenario(given, n_gpus, "bundled", (), trace=self.samples[sample])
        return served.planned(served.measured(None, None, None))


def trace_workload(
    trace: Trace | str | Path | Sequence[str | Path],
    deadlines: Deadlines | None = None,
    *,
    instance: Instance | str | Path | None = None,
    patience_seconds: float | None = None,
    prices: Prices = PAPER_PRICES,
) -> Workload:
    """The workload of recorded requests, all of which count.

    Args:
        trace: recorded requests, or their files.
        deadlines: of every class; default: those of ``instance``.
        instance: gives the classes' patience, deadlines and prices, by name or in their order.
        patience_seconds: mean patience in each queue, in place of the instance's; default without
            an instance: no request leaves.
        prices: that a plan weighs requests by, without an instance.

    Raises:
        ConfigurationError: without any deadline, or for an argument that is not allowed.
        TraceError: for files that are no trace.

    Example:
        >>> trace = Trace(("chat",), [0.0, 1.0, 4.0], [0, 0, 0], [300, 80, 99], [50, 40, 20])
        >>> trace_workload(trace, Deadlines(ttft_seconds=2.0)).at_rate(2.0).rate
        1.5
    """
    recorded = trace if isinstance(trace, Trace) else load_traces(trace)
    recorded.positive_duration()
    if instance is None:
        # Means and rates are the trace's: those here are never read.
        classes = tuple(RequestClass(c, 1.0, 1.0, 1.0, 0.0) for c in recorded.class_names)
        given = Instance("trace", classes, _ANY_HARDWARE, prices)
    else:
        given = resolve_instance(instance)
        if given.n_classes != len(recorded.class_names):
            recorded = recorded.with_classes([c.name for c in given.classes])
    template = _with_terms(given, deadlines, patience_seconds)
    return Workload(", ".join(recorded.class_names), template, (recorded,), recorded=True)


def instance_workload(
    instance: Instance | str | Path | dict[str, Any],
    rate: float,
    deadlines: Deadlines | None = None,
    *,
    patience_seconds: float | None = None,
    horizon: float = 900.0,
    warmup: float = 300.0,
    replications: int = 4,
    seed: int = 0,
) -> Workload:
    """The workload of an instance's classes at a rate for the whole cluster, in samples.

    Args:
        instance: preset name, instance file, plain data or :class:`Instance`.
        rate: requests per second of all classes together, in the instance's proportions.
        deadlines: of every class; default: the instance's.
        patience_seconds: mean patience in each queue of every class; default: the instance's.
        horizon: seconds of arrivals in a sample.
        warmup: seconds at the start that are not counted.
        replications: samples.
        seed: of their arrivals and lengths.

    Raises:
        ConfigurationError: without any deadline, or for an argument that is not allowed.

    Example:
        >>> chats = instance_workload("chat-deadlines", rate=40.0, horizon=60.0, warmup=20.0)
        >>> len(chats.samples), 30 < chats.rate < 50
        (4, True)
    """
    if not is_finite_number(rate, positive=True):
        raise ConfigurationError("rate", rate, "a finite number of requests per second > 0")
    if not is_finite_number(horizon, positive=True):
        raise ConfigurationError("horizon", horizon, "a finite number of seconds > 0")
    if not is_finite_number(warmup) or warmup >= horizon:
        raise ConfigurationError("warmup", warmup, f"seconds >= 0 and less than {horizon:g}")
    given = _with_terms(resolve_instance(instance), deadlines, patience_seconds)
    template = given.scaled(rate / float(given.arrival_rates.sum()), given.name)
    count = checked_integer("replications", replications)
    try:
        samples = tuple(requests_of_run(template, 1, horizon, seed, k) for k in range(count))
    except TraceError:  # there is none at all
        samples = ()
    if not samples or any(sample.arrival_time[-1] < warmup for sample in samples):
        raise ConfigurationError(
            "rate",
            rate,
            f"a request after the warm-up of {warmup:g} s in every sample",
            "raise it or the horizon",
        )
    return Workload(given.name, template, samples, recorded=False, warmup=warmup)


def _with_terms(
    given: Instance, deadlines: Deadlines | None, patience_seconds: float | None
) -> Instance:
    """The instance with these deadlines and this patience in place of its own."""
    changes: dict[str, Any] = {} if deadlines is None else {"deadlines": deadlines}
    if patience_seconds is not None:
        if not is_finite_number(patience_seconds, positive=True):
            raise ConfigurationError("patience_seconds", patience_seconds, "seconds > 0")
        changes["patience_rate"] = 1.0 / patience_seconds
    classes = tuple(dataclasses.replace(c, **changes) for c in given.classes)
    found = dataclasses.replace(given, classes=classes)
    if not found.has_deadlines:
        raise ConfigurationError(
            "deadlines", "none", "a TTFT, a TPOT or both", "give them, or an instance with them"
        )
    return found


_ANY_HARDWARE = Hardware(alpha=0.0, beta=1e-5, gamma=100.0, chunk_tokens=256, batch_slots=2)
