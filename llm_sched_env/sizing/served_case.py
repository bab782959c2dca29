"""One case: a sample of the workload served by a policy on n GPUs, request by request."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.planning import FluidPlan
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.policies.loaded_code import load_engine
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.policies.rolling_horizon import (
    PlanChange,
    parameters_of_plan,
    plan_changes,
    planned_simulation,
    run_under_plans,
)
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.state import layout
from llm_sched_env.sizing.workload import TRACE_BLOCKS, Workload

_EVENTS_PER_REQUEST = 6  # arrival, prefill and decode with their ends, and one to spare
PERCENTILES = (50.0, 90.0, 95.0, 99.0)


@dataclass(frozen=True)
class Case:
    """What decides the result of a run, beside the workload.

    Attributes:
        policy: its label.
        rule: the policy.
        hardware: of every GPU.
        n_gpus: cluster size n.
        sample: of the workload.
        seed: of what is drawn during the run: patience and routing.
        pool_scale: GPUs of the mixed pool, as a multiple of the plan's; for static pools.
        reserve_scale: free slots that are kept, likewise; for rules that keep some.
    """

    policy: str
    rule: DispatchRule
    hardware: Hardware
    n_gpus: int
    sample: int
    seed: int
    pool_scale: float = 1.0
    reserve_scale: float = 1.0


@dataclass(frozen=True)
class CaseResult:
    """What became of the counted requests of a sample, by parts of its time.

    Attributes:
        counted: requests, shape (B,).
        first_in_time: with their first token by its deadline, shape (B,).
        tokens_in_time: completed, no slower a token than allowed, shape (B,).
        good: both, shape (B,).
        waiting: mean number that waits for a prefill in each third of the arrivals' time.
        prompt_tokens: of the good ones.
        output_tokens: of the good ones.
        ttft: s at the percentiles of :data:`PERCENTILES`; inf: so many got no first token.
        tpot: s per token, likewise of completed ones.
    """

    counted: np.ndarray
    first_in_time: np.ndarray
    tokens_in_time: np.ndarray
    good: np.ndarray
    waiting: tuple[float, float, float]
    prompt_tokens: float
    output_tokens: float
    ttft: tuple[float, ...]
    tpot: tuple[float, ...]


def compiled_policy(policy: Any) -> tuple[str, DispatchRule]:
    """A policy that can be sized for, with its label.

    Raises:
        ConfigurationError: for a policy that is not a compiled rule.
    """
    label, rule = resolve_policy(policy)
    if not isinstance(rule, DispatchRule):
        raise ConfigurationError(
            "policy", label, "a compiled rule", "`llmsched policies` lists what is registered"
        )
    return label, rule


def serve_case(workload: Workload, case: Case) -> CaseResult:
    """Run a case from an empty cluster until what arrives last has had its time.

    Raises:
        PlanError: if there is no plan for the requests.
    """
    return _told_by(case_times(workload, case).times, workload, case.sample)


@dataclass(frozen=True, eq=False)
class CaseTimes:
    """When what happened in a case.

    Attributes:
        cluster: what the policy planned for.
        times: by kind of event and request, s; NaN for what did not happen; shape (kinds, K).
    """

    cluster: Cluster
    times: np.ndarray


def case_times(workload: Workload, case: Case) -> CaseTimes:
    """Run a case, request by request; raises PlanError as :func:`serve_case` does."""
    load_engine()
    sample, n = workload.samples[case.sample], case.n_gpus
    cluster = _cluster(workload, case.hardware, n, case.sample)
    plan = cluster.plan
    end = sample.duration + workload.drain_seconds(sample)
    simulation = planned_simulation(
        cluster.instance,
        case.rule,
        plan,
        n,
        replication_seed(case.seed, case.sample),
        stream=sample.stream,
        log_events=_EVENTS_PER_REQUEST * len(sample),
        latencies=False,
    )
    changes = _scaled(case, plan) + plan_changes(case.rule, plan, n, end)
    run_under_plans(simulation.batch, changes, 0.0, end)
    return CaseTimes(cluster, _times(simulation.events(), len(sample)))


@lru_cache(maxsize=32)
def _cluster(workload: Workload, hardware: Hardware, n_gpus: int, sample: int) -> Cluster:
    """What all policies plan for, and their plan, which takes as long as a short run."""
    return workload.cluster(hardware, n_gpus, sample)


def _scaled(case: Case, plan: FluidPlan) -> tuple[PlanChange, ...]:
    """The plan with another pool or other reserves, from the start; nothing for those it has."""
    if case.pool_scale == case.reserve_scale == 1.0:
        return ()
    controls = plan.controls(case.n_gpus)
    pool = round(controls[-1] * case.pool_scale)
    controls[-1] = min(max(pool, 1), case.n_gpus)
    parameters = parameters_of_plan(case.rule, plan, case.n_gpus)
    ranks = parameters["ranks"]
    kept = {n: getattr(ranks, n) * case.reserve_scale for n in ("reserve", "decode_reserve")}
    parameters["ranks"] = ranks._replace(**kept)
    rates = plan.instance.arrival_rates
    return (PlanChange(0.0, {"controls": controls, "rates": rates, **parameters}),)


def _times(events: np.ndarray, count: int) -> np.ndarray:
    """When what happened to each request, s; NaN for what did not; shape (kinds, K)."""
    times = np.full((layout.REJECT + 1, count), np.nan)
    times[events["kind"], events["index"]] = events["time"]
    return times


def _told_by(times: np.ndarray, workload: Workload, k: int) -> CaseResult:
    sample, rows = workload.samples[k], workload.counted[k]
    arrival = sample.arrival_time
    first, end = times[layout.PREFILL_END], times[layout.DECODE_END]
    ttft = np.where(np.isnan(first), np.inf, first - arrival)
    tokens = np.maximum(sample.output_tokens, 1.0)
    tpot = np.where(np.isnan(end), np.inf, (end - first) / tokens)
    limits = workload.limits[:, sample.request_class]
    # A request that is never completed is late in both.
    on_time = rows & (ttft <= limits[0]) & ~np.isnan(end)
    in_time = rows & (tpot <= limits[1]) & ~np.isnan(end)
    good = on_time & in_time
    part = _parts(arrival, workload, k)
    count = int(part.max()) + 1

    def by_part(wanted: np.ndarray) -> np.ndarray:
        return np.bincount(part[wanted], minlength=count)

    left = times[layout.LEAVE_PREFILL]
    started = np.fmin(np.fmin(times[layout.PREFILL_START], left), times[layout.REJECT])
    return CaseResult(
        by_part(rows),
        by_part(on_time),
        by_part(in_time),
        by_part(good),
        _waiting(arrival, started, workload.warmup, sample.duration),
        float(sample.prompt_tokens[good].sum()),
        float(sample.output_tokens[good].sum()),
        _percentiles(ttft[rows]),
        _percentiles(tpot[rows]),
    )


def _parts(arrival: np.ndarray, workload: Workload, k: int) -> np.ndarray:
    """The part of its sample in which each request arrives; a sample of several is one part."""
    if len(workload.samples) > 1:
        return np.zeros(len(arrival), int)
    start, end = workload.warmup, workload.samples[k].duration
    parts = (arrival - start) / (end - start) * TRACE_BLOCKS
    of_request: np.ndarray = np.clip(parts.astype(int), 0, TRACE_BLOCKS - 1)
    return of_request


def _waiting(
    arrival: np.ndarray, started: np.ndarray, start: float, end: float
) -> tuple[float, float, float]:
    """Mean requests that wait for their prefill in each third of [start, end)."""
    edges = np.linspace(start, end, 4)
    left = np.where(np.isnan(started), np.inf, started)
    waits = [
        float((np.minimum(left, b) - np.maximum(arrival, a)).clip(min=0.0).sum()) / (b - a)
        for a, b in pairwise(edges)
    ]
    return waits[0], waits[1], waits[2]


def _percentiles(values: np.ndarray) -> tuple[float, ...]:
    """Values that at least so many percent do not exceed."""
    if len(values) == 0:
        return (np.nan,) * len(PERCENTILES)
    found = np.percentile(values, PERCENTILES, method="inverted_cdf")
    return tuple(float(v) for v in found)
