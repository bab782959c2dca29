"""Scenario: the requests an evaluation serves, and what its policy knows of them.

The requests are generated or come from a trace. A scenario resolves the arguments of
:func:`llm_sched_env.evaluate` once. Given the times of a run it says
which instance the policy plans for and which one bounds what is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
from llm_sched_env.model.catalog import PAPER_PRICES, PATIENCE_RATE, QWEN_8B_A100
from llm_sched_env.model.instance import Instance, RequestClass
from llm_sched_env.presets import resolve_instance
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

    instance: Instance

    def measured(
        self, horizon: float | None, warmup: float | None, interval: float | None
    ) -> Measurement:
        """What a run of these times measures; raises ConfigurationError."""
        period = common_period(self.instance)
        times = checked_times(horizon, warmup, trace=None, period=period, interval=interval)
        return measured_arrivals(self.instance, *times)

    def planned(self, measured: Measurement) -> Instance:
        """What the policy plans for."""
        del measured
        return self.instance

    def stream(self, horizon: float) -> RequestStream | None:
        """What is replayed: nothing."""
        del horizon
        return None


@dataclass(frozen=True)
class ReplayedTrace:
    """Recorded requests on ``n_gpus`` GPUs.

    Attributes:
        trace: what is replayed.
        n_gpus: cluster size n.
        instance: hardware, prices and patience for the trace's classes.
        known: what the policy plans for in place of the measured requests; or None.
    """

    trace: Trace
    n_gpus: int
    instance: InstanceLike
    known: Trace | None

    def measured(
        self, horizon: float | None, warmup: float | None, interval: float | None
    ) -> Measurement:
        """What a run of these times measures; raises ConfigurationError."""
        seconds = _times(self.trace, horizon, warmup, interval)
        bounded = _matched(self.instance, self.trace, self.n_gpus, (seconds[1], seconds[0]))
        return measured_trace(self.trace, bounded, *seconds)

    def planned(self, measured: Measurement) -> Instance:
        """What the policy plans for."""
        if self.known is None:
            return measured.bounded
        return _matched(self.instance, self.known, self.n_gpus, None)

    def stream(self, horizon: float) -> RequestStream | None:
        """The requests that arrive within the horizon."""
        return self.trace.until(horizon).stream


@dataclass(frozen=True)
class ReplayedSample(GeneratedRequests):
    """Recorded requests that are taken for a sample of an instance, which is planned for.

    Attributes:
        trace: what is replayed, with the classes of the instance.
        n_gpus: cluster size n.
    """

    trace: Trace
    n_gpus: int

    def measured(
        self, horizon: float | None, warmup: float | None, interval: float | None
    ) -> Measurement:
        """What a run of these times measures; raises ConfigurationError."""
        times = _times(self.trace, horizon, warmup, interval)
        return measured_sample(self.trace, self.n_gpus, self.instance, *times)

    def stream(self, horizon: float) -> RequestStream | None:
        """The requests that arrive within the horizon."""
        return self.trace.until(horizon).stream


Scenario = GeneratedRequests | ReplayedTrace


def scenario(
    instance: InstanceLike,
    n_gpus: int,
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
    if trace is None:
        _require_no_trace(speed, match_trace=match_trace, planned_on=planned_on)
        return GeneratedRequests(resolve_instance("base" if instance is None else instance))
    recorded = (trace if isinstance(trace, Trace) else load_traces(trace)).at_speed(speed)
    if planned_on is not None:
        _check_planned_on(match_trace=match_trace, billing=billing)
        planned_on = planned_on.at_speed(speed)
        recorded = recorded.with_classes(planned_on.class_names)
    if match_trace:
        return ReplayedTrace(recorded, n_gpus, instance, planned_on)
    if instance is None or instance == "azure2023":
        raise ConfigurationError(
            "instance", instance, "an instance to plan for, since match_trace is False"
        )
    kept = resolve_instance(instance)
    return ReplayedSample(kept, recorded.with_classes([c.name for c in kept.classes]), n_gpus)


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


def _matched(
    instance: InstanceLike, trace: Trace, n_gpus: int, seconds: tuple[float, float] | None
) -> Instance:
    """The instance of a trace's requests, with hardware, prices, patience and deadlines of another.

    If the trace gives the patience of its requests, rates follow from these.
    """
    hardware, prices, patience = QWEN_8B_A100, PAPER_PRICES, np.array([PATIENCE_RATE])
    name, own = "trace", list[RequestClass]()
    if instance == "azure2023":
        name = "azure2023"
    elif instance is not None:
        given = resolve_instance(instance)
        hardware, prices, name = given.hardware, given.prices, f"{given.name} (trace)"
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
        trace, n_gpus, patience.tolist(), hardware, prices, seconds=seconds
    )
    if own:
        pairs = zip(matched.classes, own, strict=True)
        classes = tuple(dataclasses.replace(c, deadlines=o.deadlines) for c, o in pairs)
        matched = dataclasses.replace(matched, classes=classes)
    return dataclasses.replace(matched, name=name)
