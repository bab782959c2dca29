"""Scenario: the requests an evaluation serves, and what its policy knows of them.

The requests are generated or come from a trace. A scenario resolves the arguments of
:func:`llm_sched_env.evaluate` once. Given the times of a run it says
which instance the policy plans for and which one bounds what is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.measurement import (
    Measurement,
    checked_times,
    common_period,
    measured_arrivals,
    measured_sample,
    measured_trace,
)
from llm_sched_env.model.catalog import PATIENCE_RATE
from llm_sched_env.model.drawn_conversations import with_turns
from llm_sched_env.model.instance import Instance, RequestClass
from llm_sched_env.planning import ServiceLevel
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.simulation.state.layout import RequestStream
from llm_sched_env.workloads.traces import (
    Trace,
    given_patience_rates,
    instance_from_trace,
    load_traces,
)

InstanceLike = Instance | str | Path | dict[str, Any] | None
TraceLike = Trace | str | Path | Sequence[str | Path] | None


@dataclass(frozen=True)
class GeneratedRequests:
    """Requests drawn from the arrival rates and lengths of an instance, which the policy knows."""

    cluster: Cluster

    def measured(
        self, horizon: float | None, warmup: float | None, interval: float | None
    ) -> Measurement:
        """What a run of these times measures; raises ConfigurationError."""
        period = common_period(self.cluster.instance)
        times = checked_times(horizon, warmup, trace=None, period=period, interval=interval)
        return measured_arrivals(self.cluster.instance, *times)

    def planned(self, measured: Measurement) -> Cluster:
        """What the policy plans for."""
        del measured
        return self.cluster

    def stream(self, horizon: float) -> RequestStream | None:
        """What is replayed: nothing."""
        del horizon
        return None


@dataclass(frozen=True)
class GeneratedConversations(GeneratedRequests):
    """Requests that share prefixes, drawn for each replication; planned for by all their turns.

    Attributes:
        conversations: the instance as given.
    """

    conversations: Instance


@dataclass(frozen=True)
class ReplayedTrace:
    """Recorded requests on a cluster.

    Attributes:
        trace: what is replayed.
        cluster: whose instance gives hardware, prices and patience for the trace's classes.
        name: of the trace's instance.
        known: what the policy plans for in place of the measured requests; or None.
    """

    trace: Trace
    cluster: Cluster
    name: str
    known: Trace | None

    def measured(
        self, horizon: float | None, warmup: float | None, interval: float | None
    ) -> Measurement:
        """What a run of these times measures; raises ConfigurationError."""
        seconds = _times(self.trace, horizon, warmup, interval)
        bounded = self._instance_of(self.trace, (seconds[1], seconds[0]))
        return measured_trace(self.trace, bounded, *seconds)

    def planned(self, measured: Measurement) -> Cluster:
        """What the policy plans for."""
        known = measured.bounded if self.known is None else self._instance_of(self.known, None)
        return dataclasses.replace(self.cluster, instance=known)

    def stream(self, horizon: float) -> RequestStream | None:
        """The requests that arrive within the horizon."""
        return self.trace.until(horizon).stream

    def _instance_of(self, trace: Trace, seconds: tuple[float, float] | None) -> Instance:
        """The instance of a trace's requests, on the cluster's hardware and at its prices.

        Classes that are the cluster's, by name or in their order, have its patience and deadlines;
        if the trace gives the patience of its requests, rates follow from these.
        """
        given, patience = self.cluster.instance, np.array([PATIENCE_RATE])
        own = list[RequestClass]()
        by_name = {c.name: c for c in given.classes}
        if by_name.keys() >= set(trace.class_names):
            own = [by_name[name] for name in trace.class_names]
        elif given.n_classes == len(trace.class_names):
            own = list(given.classes)
        if own:
            patience = np.array([c.patience_rate for c in own])
        if (rates := given_patience_rates(trace, trace.duration)) is not None:
            patience = np.array(rates)
        matched = instance_from_trace(
            trace,
            self.cluster.n_gpus,
            patience.tolist(),
            given.hardware,
            given.prices,
            seconds=seconds,
        )
        if own:
            pairs = zip(matched.classes, own, strict=True)
            classes = tuple(dataclasses.replace(c, deadlines=o.deadlines) for c, o in pairs)
            matched = dataclasses.replace(matched, classes=classes)
        return dataclasses.replace(matched, name=self.name)


@dataclass(frozen=True)
class ReplayedSample(GeneratedRequests):
    """Recorded requests that are taken for a sample of an instance, which is planned for.

    Attributes:
        trace: what is replayed, with the classes of the instance.
    """

    trace: Trace

    def measured(
        self, horizon: float | None, warmup: float | None, interval: float | None
    ) -> Measurement:
        """What a run of these times measures; raises ConfigurationError."""
        times = _times(self.trace, horizon, warmup, interval)
        return measured_sample(self.trace, self.cluster, *times)

    def stream(self, horizon: float) -> RequestStream | None:
        """The requests that arrive within the horizon."""
        return self.trace.until(horizon).stream


Scenario = GeneratedRequests | ReplayedTrace


def scenario(
    instance: InstanceLike,
    n_gpus: int,
    pricing: str,
    slos: Sequence[ServiceLevel | str | Mapping[str, Any]],
    *,
    trace: TraceLike = None,
    speed: float = 1.0,
    match_trace: bool = True,
    planned_on: Trace | None = None,
    billing: str | None = None,
) -> Scenario:
    """The scenario of the arguments of :func:`llm_sched_env.evaluate`, where they are explained.

    Raises:
        ConfigurationError: for arguments that do not go together.
    """
    # Nothing but rates and lengths tells azure2023 from base: those of its trace, if one is given.
    replayed_azure = trace is not None and instance == "azure2023"
    given = "base" if instance is None or replayed_azure else instance
    cluster = Cluster.of(given, n_gpus, pricing, slos)
    if trace is None:
        _require_no_trace(speed, match_trace=match_trace, planned_on=planned_on)
        if cluster.instance.shares_prefixes:
            turns = dataclasses.replace(cluster, instance=with_turns(cluster.instance))
            return GeneratedConversations(turns, cluster.instance)
        return GeneratedRequests(cluster)
    recorded = (trace if isinstance(trace, Trace) else load_traces(trace)).at_speed(speed)
    if planned_on is not None:
        _check_planned_on(match_trace=match_trace, billing=billing)
        planned_on = planned_on.at_speed(speed)
        recorded = recorded.with_classes(planned_on.class_names)
    if match_trace:
        name = "trace" if instance is None else f"{cluster.instance.name} (trace)"
        return ReplayedTrace(recorded, cluster, "azure2023" if replayed_azure else name, planned_on)
    if instance is None or replayed_azure:
        raise ConfigurationError(
            "instance", instance, "an instance to plan for, since match_trace is False"
        )
    names = [c.name for c in cluster.instance.classes]
    return ReplayedSample(cluster, recorded.with_classes(names))


def _times(
    trace: Trace, horizon: float | None, warmup: float | None, interval: float | None
) -> tuple[float, float]:
    return checked_times(horizon, warmup, trace=trace, period=None, interval=interval)


def _require_no_trace(speed: float, *, match_trace: bool, planned_on: Trace | None) -> None:
    if speed != 1.0:
        raise ConfigurationError("`speed` needs a trace; give `trace`.")
    if planned_on is not None:
        raise ConfigurationError("`planned_on` needs a trace; give `trace`.")
    if not match_trace:
        raise ConfigurationError("`match_trace=False` needs a trace; give `trace`.")


def _check_planned_on(*, match_trace: bool, billing: str | None) -> None:
    if not match_trace:
        raise ConfigurationError(
            "`planned_on` cannot be combined with `match_trace=False`, which plans for `instance`."
        )
    if billing == "class-means":
        raise ConfigurationError(
            "billing='class-means' cannot be combined with `planned_on`, since the class means of "
            "the two traces differ; use billing='own-tokens'."
        )
