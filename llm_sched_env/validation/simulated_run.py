"""Replay what arrived in a measured run, and read from the event log what became of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.instance import Prices
from llm_sched_env.planning import plan
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.policies.rolling_horizon import (
    plan_changes,
    planned_simulation,
    run_under_plans,
)
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.state import layout
from llm_sched_env.validation.served_run import ABANDONED, COMPLETED, INSIDE, ServedRun
from llm_sched_env.workloads.traces import given_patience_rates, instance_from_trace

_EVENTS_PER_REQUEST = 6  # arrival, prefill and decode with their ends, and one to spare


def simulated_run(
    measured: ServedRun,
    hardware: Hardware,
    n_gpus: int,
    policy: Any,
    horizon: float,
    prices: Prices,
    seed: int,
) -> ServedRun:
    """Serve the same requests, with the same patience, in the simulator.

    Args:
        measured: what arrived.
        hardware: of each GPU.
        n_gpus: cluster size n.
        policy: a registered name of a compiled rule, or a :class:`DispatchRule`. Its plan is that
            of the measured lengths and rates.
        horizon: seconds.
        prices: that the plan reckons with.
        seed: of what the rule draws at random, such as the GPU of a prefill.

    Raises:
        ConfigurationError: for a policy that is not compiled.
    """
    name, rule = resolve_policy(policy)
    if not isinstance(rule, DispatchRule):
        raise ConfigurationError(
            "policy", name, "a compiled rule", "`llmsched policies` lists what is registered"
        )
    trace = measured.trace
    patience = given_patience_rates(trace, horizon)
    assert patience is not None
    instance = instance_from_trace(
        trace, n_gpus, patience, hardware, prices, seconds=(0.0, horizon)
    )
    fluid_plan = plan(instance)
    simulation = planned_simulation(
        instance,
        rule,
        fluid_plan,
        n_gpus,
        replication_seed(seed, 0),
        stream=trace.stream,
        log_events=_EVENTS_PER_REQUEST * len(trace),
    )
    run_under_plans(simulation.batch, plan_changes(rule, fluid_plan, n_gpus, horizon), 0.0, horizon)
    return _told_by(simulation.events(), measured)


def _told_by(events: np.ndarray, measured: ServedRun) -> ServedRun:
    """The run that an event log tells; requests are numbered in order of arrival."""
    count = len(measured)
    times = np.full((layout.REJECT + 1, count), np.nan)
    times[events["kind"], events["index"]] = events["time"]
    left = np.fmax(times[layout.LEAVE_PREFILL], times[layout.LEAVE_DECODE])
    completed, abandoned = ~np.isnan(times[layout.DECODE_END]), ~np.isnan(left)
    return ServedRun(
        measured.class_names,
        measured.arrival_time,
        measured.request_class,
        measured.prompt_tokens,
        measured.output_tokens,
        measured.patience_seconds,
        np.where(completed, COMPLETED, np.where(abandoned, ABANDONED, INSIDE)),
        times[layout.PREFILL_START],
        times[layout.PREFILL_END],
        np.where(completed, times[layout.DECODE_END], left),
    )
