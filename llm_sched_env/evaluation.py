"""Evaluation: replications of any policy under common random numbers, one result record."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, checked_integer, is_finite_number
from llm_sched_env.instance import Instance
from llm_sched_env.measured_levels import (
    measured_indicators,
    measured_levels,
    penalty_rates,
    token_time,
)
from llm_sched_env.planning import PRICINGS, ServiceLevel, plan
from llm_sched_env.planning.service_level_names import checked_service_levels
from llm_sched_env.policies import resolve_policy
from llm_sched_env.policy_runs import (
    Replications,
    Run,
    require_memory_of_runs,
    runs_of,
    spread_replications,
)
from llm_sched_env.presets import (
    PAPER_PRICES,
    PATIENCE_RATE,
    QWEN_8B_A100,
    resolve_instance,
)
from llm_sched_env.results import ClassResult, DecisionTime, Estimate, Evaluation
from llm_sched_env.simulation.layout import COUNTS, OCCUPANCIES
from llm_sched_env.simulation.metrics import (
    LATENCIES,
    Metrics,
    summarize_latency,
)
from llm_sched_env.simulation.row_threads import available_processors
from llm_sched_env.spreading import Spreading
from llm_sched_env.timing import covered_seconds
from llm_sched_env.versions import versions
from llm_sched_env.workloads.traces import Trace, instance_from_trace, load_traces

DEFAULT_HORIZON, DEFAULT_WARMUP = 900.0, 300.0


def evaluate(
    policy: Any,
    instance: Instance | str | Path | dict[str, Any] | None = None,
    n_gpus: int = 20,
    *,
    pricing: str = "bundled",
    slis: Sequence[ServiceLevel | str | Mapping[str, Any]] = (),
    horizon: float | None = None,
    warmup: float | None = None,
    replications: int = 4,
    seed: int = 0,
    trace: Trace | str | Path | Sequence[str | Path] | None = None,
    speed: float = 1.0,
    match_trace: bool = True,
    planned_on: Trace | None = None,
    billing: str | None = None,
    jobs: int | None = None,
    spreading: Spreading | None = None,
) -> Evaluation:
    """Run a policy and report what it earns as a share of the fluid bound.

    Replication k sees the same requests under every policy with the same seed.

    Args:
        policy: a registered name, ``package.module:Name``, the path of a checkpoint, a
            :class:`DispatchRule`, or an object with ``reset`` and ``act``.
        instance: preset name, instance file, plain data or :class:`Instance`; default ``base``.
            With a trace it gives hardware, prices and, if it has the trace's classes by name or
            as many in their order, patience; means and rates are the trace's.
        n_gpus: cluster size n.
        pricing: ``bundled`` or ``separate``.
        slis: service levels, as in :func:`llm_sched_env.plan`: the plan with them steers the
            policy, and the result has what is measured of them. The score stays a share of R*.
        horizon: simulated seconds, warm-up included; default 900, or the whole trace.
        warmup: seconds at the start that are not measured; default 300, or 0 with a trace.
        replications: independent runs.
        seed: a whole number >= 0.
        trace: recorded requests, billed by their own token counts: a :class:`Trace`, or files as
            :func:`llm_sched_env.load_traces` reads them by default.
        speed: how many times faster than recorded the trace's requests arrive.
        match_trace: plan for means and rates of the trace; False: for the instance as given,
            whose class names must be those of the trace.
        planned_on: what the policy knows in place of the replayed trace, such as the hours before
            it: its plan, means and rates are those of this trace at the same ``speed``. R* stays
            that of what is replayed, so the score is a share of the same bound.
        billing: ``class-means`` or ``own-tokens``, what a request's revenue is computed from;
            default: class means in the Markov model, a request's own tokens with a trace or
            other length distributions.
        jobs: replications of a compiled rule run at the same time; default the number of
            processors. It does not change the result. Python policies run one by one.
        spreading: run replications, also of Python policies, in processes or on a Ray cluster, as
            many at the same time as it says, in place of ``jobs``. It does not change the result.

    Raises:
        ConfigurationError: for an argument that is not allowed; nothing has run then.
        InsufficientMemoryError: for more GPUs, slots or replications than fit into memory.
        Exception: whatever the policy raises, with its own traceback.
    """
    started = time.perf_counter()
    n_gpus = checked_integer("n_gpus", n_gpus)
    replications = checked_integer("replications", replications)
    jobs = checked_integer("jobs", jobs if jobs is not None else available_processors())
    if pricing not in PRICINGS:
        raise ConfigurationError("pricing", pricing, " or ".join(PRICINGS))
    seed = checked_integer("seed", seed, least=0)
    recorded = _recorded(trace, speed)
    bounded = None
    if planned_on is not None:
        recorded = _checked_for_plan(recorded, planned_on, match_trace, billing)
        bounded = _instance_of(instance, recorded, n_gpus)
        planned_on = planned_on.at_speed(speed)
        instance = _instance_of(instance, planned_on, n_gpus)
        recorded = recorded.with_classes(planned_on.class_names)
    elif match_trace:
        instance = _instance_of(instance, recorded, n_gpus)
    else:
        instance, recorded = _instance_kept(instance, recorded)
    name, resolved = resolve_policy(policy)
    runs = runs_of(resolved)
    require_memory_of_runs(runs, instance, n_gpus, replications, jobs)
    horizon, warmup = _checked_times(horizon, warmup, recorded, runs.interval)
    levels = checked_service_levels(slis)
    fluid_plan = plan(instance, pricing, slis=levels)
    bound = fluid_plan.value if bounded is None else plan(bounded, pricing).value
    run = Run(
        instance,
        fluid_plan,
        n_gpus,
        pricing,
        horizon,
        warmup,
        seed,
        recorded.stream if recorded else None,
        billing,
        levels,
    )
    if spreading is None:
        ran = runs.replicate(run, replications, jobs)
    else:
        ran = spread_replications(runs, run, replications, spreading)
    return _summarize(run, name, bound, ran, time.perf_counter() - started)


def _recorded(
    trace: Trace | str | Path | Sequence[str | Path] | None, speed: float
) -> Trace | None:
    if trace is None:
        if speed != 1.0:
            raise ConfigurationError("speed", speed, "1 without a trace", "give a trace")
        return None
    return (trace if isinstance(trace, Trace) else load_traces(trace)).at_speed(speed)


def _instance_of(
    instance: Instance | str | Path | dict[str, Any] | None, trace: Trace | None, n_gpus: int
) -> Instance:
    """The instance to plan for; with a trace, the one that matches it on n GPUs."""
    if trace is None:
        return resolve_instance("base" if instance is None else instance)
    hardware, prices, patience = QWEN_8B_A100, PAPER_PRICES, np.array([PATIENCE_RATE])
    name = "trace"
    if instance == "azure2023":
        name = "azure2023"
    elif instance is not None:
        given = resolve_instance(instance)
        hardware, prices, name = given.hardware, given.prices, f"{given.name} (trace)"
        by_name = {c.name: c.patience_rate for c in given.classes}
        if by_name.keys() >= set(trace.class_names):
            patience = np.array([by_name[name] for name in trace.class_names])
        elif given.n_classes == len(trace.class_names):
            patience = given.patience_rates
    matched = instance_from_trace(trace, n_gpus, patience.tolist(), hardware, prices)
    return Instance(name, matched.classes, hardware, prices)


def _instance_kept(
    instance: Instance | str | Path | dict[str, Any] | None, trace: Trace | None
) -> tuple[Instance, Trace]:
    """The instance as given, and the trace with its classes in the instance's order."""
    if trace is None:
        raise ConfigurationError("trace", trace, "a trace when match_trace is off", "give one")
    if instance is None or instance == "azure2023":
        raise ConfigurationError(
            "instance", instance, "the one to plan for when match_trace is off", "name it"
        )
    kept = resolve_instance(instance)
    return kept, trace.with_classes([c.name for c in kept.classes])


def _checked_for_plan(
    replayed: Trace | None, planned_on: Trace, match_trace: bool, billing: str | None
) -> Trace:
    """What is replayed while something else is planned for; raises ConfigurationError."""
    if replayed is None:
        raise ConfigurationError("planned_on", planned_on, "None without a trace", "give a trace")
    if not match_trace:
        raise ConfigurationError(
            "planned_on", planned_on, "None when match_trace is off: the instance is planned for"
        )
    if billing == "class-means":
        raise ConfigurationError(
            "billing", billing, "own-tokens beside planned_on", "means differ between the traces"
        )
    return replayed


def _checked_times(
    horizon: float | None, warmup: float | None, trace: Trace | None, interval: float | None
) -> tuple[float, float]:
    """Horizon and warm-up in seconds; with an interval both are whole numbers of it."""
    if horizon is None:
        horizon = trace.duration if trace else DEFAULT_HORIZON
        if interval is not None:
            horizon = math.ceil(horizon / interval - 1e-9) * interval
    if warmup is None:
        warmup = 0.0 if trace else min(DEFAULT_WARMUP, horizon / 3)
        if interval is not None:
            warmup = math.floor(warmup / interval) * interval
    for field, value, positive in (("horizon", horizon, True), ("warmup", warmup, False)):
        if not is_finite_number(value, positive=positive):
            raise ConfigurationError(
                field, value, f"a finite number of seconds {'>' if positive else '>='} 0"
            )
        if interval is not None and abs(value / interval - round(value / interval)) > 1e-9:
            raise ConfigurationError(
                field, value, f"a multiple of the policy's interval of {interval:g} s"
            )
    if warmup >= horizon:
        raise ConfigurationError(
            "warmup", warmup, f"less than the horizon of {horizon:g} s", "raise the horizon"
        )
    return float(horizon), float(warmup)


def _summarize(
    run: Run,
    name: str,
    bound: float,
    ran: Replications,
    wall: float,
) -> Evaluation:
    metrics, thinking = ran.metrics, ran.decision_seconds
    rates = {p: np.array([m.revenue_rate(p) for m in metrics]) for p in PRICINGS}
    scores = rates[run.pricing] / bound
    indicators = measured_indicators(run.slis, run.fluid_plan.instance, metrics)
    penalties = penalty_rates(run.slis, indicators).sum(axis=0)
    occupancy = {o: np.array([m.occupancy[o] for m in metrics]) for o in OCCUPANCIES}
    n = len(metrics)
    error = {
        o: v.std(axis=0, ddof=1) / math.sqrt(n) if n > 1 else v[0] * math.nan
        for o, v in occupancy.items()
    }
    histograms = np.sum([m.latency_counts for m in metrics], axis=0)
    sums = np.sum([m.latency_sums for m in metrics], axis=0)
    pooled = {
        latency: summarize_latency(histograms[k].sum(axis=0), float(sums[k].sum()))
        for latency, k in LATENCIES.items()
    }
    return Evaluation(
        policy=name,
        instance=run.instance.name,
        n_gpus=run.n_gpus,
        pricing=run.pricing,
        horizon=run.horizon,
        warmup=run.warmup,
        replications=n,
        seed=run.seed,
        bound=bound,
        score=Estimate.of(scores),
        revenue_rate=Estimate.of(rates[run.pricing]),
        bundled_revenue_rate=Estimate.of(rates["bundled"]),
        separate_revenue_rate=Estimate.of(rates["separate"]),
        objective=Estimate.of(rates[run.pricing] - penalties),
        token_time=Estimate.of(np.array([token_time(run.instance, m) for m in metrics])),
        slis=measured_levels(run.slis, run.fluid_plan, indicators),
        scores=tuple(scores.tolist()),
        occupancy={o: v.mean(axis=0) for o, v in occupancy.items()},
        occupancy_standard_error=error,
        classes=tuple(
            _class_result(run, metrics, histograms, sums, i) for i in range(run.instance.n_classes)
        ),
        **pooled,
        events=sum(m.events for m in metrics),
        wall_seconds=wall,
        simulation_seconds=covered_seconds(ran.spans),
        versions=versions("gymnasium"),
        note=run.fluid_plan.note(),
        decision_milliseconds=DecisionTime.of(np.array(thinking)) if thinking else None,
    )


def _class_result(
    run: Run, metrics: list[Metrics], histograms: np.ndarray, sums: np.ndarray, i: int
) -> ClassResult:
    counts: dict[str, Any] = {n: int(sum(m.counts[n][i] for m in metrics)) for n in COUNTS}
    gpu_seconds = sum(m.gpu_seconds for m in metrics)
    latencies: dict[str, Any] = {
        latency: summarize_latency(histograms[k, i], float(sums[k, i]))
        for latency, k in LATENCIES.items()
    }
    return ClassResult(
        name=run.instance.classes[i].name,
        inside=int(sum(m.inside[i] for m in metrics)),
        throughput=counts["completed"] / gpu_seconds,
        revenue_rate=float(sum(m.revenue(run.pricing)[i] for m in metrics)) / gpu_seconds,
        **counts,
        **latencies,
    )
