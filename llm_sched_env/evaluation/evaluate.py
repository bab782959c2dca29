"""Evaluate any policy over replications, under common random numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.evaluation.cache_results import CacheResult, cached_share
from llm_sched_env.evaluation.deadline_attainment import DeadlineAttainment
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.latency_distribution import latency_quantiles
from llm_sched_env.evaluation.measurement import Measurement
from llm_sched_env.evaluation.preparation import prepared_run
from llm_sched_env.evaluation.results import ClassResult, DecisionTime, Estimate, Evaluation
from llm_sched_env.evaluation.slo_attainment import (
    decode_tpot,
    measured_indicators,
    penalty_rates,
    slo_attainment,
)
from llm_sched_env.evaluation.versions import versions
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import PRICINGS, ServiceLevel
from llm_sched_env.plugins.deprecated_names import renamed_arguments
from llm_sched_env.policies.runs import (
    CompiledRuns,
    PythonRuns,
    Replications,
    Run,
    require_memory_of_runs,
)
from llm_sched_env.policies.timing import covered_seconds
from llm_sched_env.simulation.events.metrics import (
    LATENCIES,
    Metrics,
    summarize_latency,
)
from llm_sched_env.simulation.machine import Machine
from llm_sched_env.simulation.runtime.row_threads import available_processors
from llm_sched_env.simulation.state.layout import COUNTS, OCCUPANCIES
from llm_sched_env.workloads.trace import Trace


@renamed_arguments(slis="slos", spreading="executor")
def evaluate(
    policy: Any,
    instance: Instance | str | Path | dict[str, Any] | None = None,
    n_gpus: int = 20,
    *,
    pricing: str = "bundled",
    revenue: str = "all",
    slos: Sequence[ServiceLevel | str | Mapping[str, Any]] = (),
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
    executor: Executor | None = None,
    machine: Machine | None = None,
) -> Evaluation:
    """Run a policy and report what it earns as a share of the fluid bound.

    The bound is of the requests and seconds that are measured; ``bound_of`` of the result says
    which (:mod:`llm_sched_env.evaluation.measurement`).

    Replication k sees the same requests under every policy with the same seed.

    Args:
        policy: a registered name, ``package.module:Name``, the path of a checkpoint, a
            :class:`DispatchRule`, or an object with ``reset`` and ``act``.
        instance: preset name, instance file, plain data or :class:`Instance`; default ``base``.
            With a trace it gives hardware, prices and, if it has the trace's classes by name or
            as many in their order, patience and deadlines; means and rates are the trace's.
        n_gpus: cluster size n.
        pricing: ``bundled`` or ``separate``.
        revenue: ``all`` completed requests are paid for, or ``goodput``: only those that met the
            deadlines of their class, prompt and output at completion under either pricing. R*
            and the plan stay those of the pricing, so the bound holds for both.
        slos: service-level objectives, as in :func:`llm_sched_env.plan`: the plan with them steers
            the policy, and the result has what is measured of them. The score stays a share of R*.
        horizon: simulated seconds, warm-up included; default the whole trace, or 900 and, with
            arrival profiles, as many more as make the measured seconds whole periods.
        warmup: seconds at the start that are not measured; default 300, or 0 with a trace.
            What a trace, or profiles over part of their period, bring before is not paid.
        replications: independent runs.
        seed: a whole number >= 0.
        trace: recorded requests, billed by their own token counts: a :class:`Trace`, or files as
            :func:`llm_sched_env.load_traces` reads them by default.
        speed: how many times faster than recorded the trace's requests arrive.
        match_trace: plan for means and rates of the trace; False: take it for a sample of the
            instance as given, which has its class names, sets plan and R*.
        planned_on: what the policy knows in place of the replayed trace, such as the hours before
            it: its plan, means and rates are those of this trace at the same ``speed``. R* stays
            that of what is replayed.
        billing: ``class-means`` or ``own-tokens``, what a request's revenue is computed from;
            default: class means in the Markov model, a request's own tokens with a trace or
            other length distributions.
        jobs: replications of a compiled rule run at the same time; default the number of
            processors. It does not change the result. Python policies run one by one.
        executor: run replications, also of Python policies, in processes or on a Ray cluster, as
            many at the same time as it says, in place of ``jobs``. It does not change the result.
        machine: runs the iterations in place of the simulator, in its own time
            (:mod:`llm_sched_env.serving`); with a trace and one replication.

    Raises:
        ConfigurationError: for an argument that is not allowed; nothing has run then.
        InsufficientMemoryError: for more GPUs, slots or replications than fit into memory.
        Exception: whatever the policy raises, with its own traceback.

    Example:
        >>> import llm_sched_env as lse
        >>> times = {"horizon": 60.0, "warmup": 20.0, "replications": 2}
        >>> result = lse.evaluate("trunk-reservation", "base", n_gpus=5, **times)
        >>> 0.7 < result.score.mean < 1.1
        True
    """
    started = time.perf_counter()
    replications = checked_integer("replications", replications)
    jobs = checked_integer("jobs", jobs if jobs is not None else available_processors())
    prepared = prepared_run(
        policy,
        instance,
        n_gpus,
        pricing=pricing,
        revenue=revenue,
        slos=slos,
        horizon=horizon,
        warmup=warmup,
        seed=seed,
        trace=trace,
        speed=speed,
        match_trace=match_trace,
        planned_on=planned_on,
        billing=billing,
        machine=machine,
    )
    runs, run = prepared.runs, prepared.run
    require_memory_of_runs(runs, run.cluster, replications, jobs)
    _ = run.cluster.plan  # solved here, once for all replications wherever they run
    bound = prepared.bound()
    if machine is not None:
        _require_one_run(replications, trace)
        ran = runs.replication(run, 0)
    elif executor is None:
        ran = runs.replicate(run, replications, jobs)
    else:
        ran = _replications_by_executor(runs, run, replications, executor)
    wall = time.perf_counter() - started
    return _summarize(run, prepared.name, prepared.measured, bound, ran, wall)


def _require_one_run(replications: int, trace: Any) -> None:
    """A machine serves given requests once, in real time."""
    if replications != 1:
        raise ConfigurationError("replications", replications, "1: a machine runs once")
    if trace is None:
        raise ConfigurationError("trace", None, "the requests that the machine serves")


def _replications_by_executor(
    runs: CompiledRuns | PythonRuns, run: Run, replications: int, executor: Executor
) -> Replications:
    """The replications of ``runs.replicate``, each a computation of its own."""
    found = executor.in_order(partial(runs.replication, run), range(replications))
    return Replications(*(list(chain(*parts)) for parts in zip(*found, strict=True)))


def _summarize(
    run: Run,
    name: str,
    measured: Measurement,
    bound: float,
    ran: Replications,
    wall: float,
) -> Evaluation:
    cluster, instance, pricing = run.cluster, run.cluster.instance, run.cluster.pricing
    estimate = partial(Estimate.of, requests_given=measured.requests_given)
    metrics, thinking = ran.metrics, ran.decision_seconds
    rates = {p: np.array([m.revenue_rate(p) for m in metrics]) for p in PRICINGS}
    paid = np.array([m.revenue_rate(pricing, run.revenue) for m in metrics])
    scores = paid / bound
    indicators = measured_indicators(cluster, metrics)
    penalties = penalty_rates(cluster.slos, indicators).sum(axis=0)
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
        instance=instance.name,
        n_gpus=cluster.n_gpus,
        pricing=pricing,
        horizon=run.horizon,
        warmup=run.warmup,
        replications=n,
        seed=run.seed,
        bound=bound,
        bound_of=measured.bound_of,
        requests_given=measured.requests_given,
        score=estimate(scores),
        revenue_rate=estimate(paid),
        bundled_revenue_rate=estimate(rates["bundled"]),
        separate_revenue_rate=estimate(rates["separate"]),
        objective=estimate(paid - penalties),
        decode_tpot=estimate(np.array([decode_tpot(instance, m) for m in metrics])),
        slos=slo_attainment(cluster, indicators),
        scores=tuple(scores.tolist()),
        occupancy={o: v.mean(axis=0) for o, v in occupancy.items()},
        occupancy_standard_error=error,
        classes=tuple(
            _class_result(run, metrics, histograms, sums, i) for i in range(instance.n_classes)
        ),
        caches=CacheResult.measured(metrics) if instance.has_caches else None,
        **pooled,
        events=sum(m.events for m in metrics),
        wall_seconds=wall,
        simulation_seconds=covered_seconds(ran.spans),
        versions=versions("gymnasium"),
        note=cluster.plan.note(),
        decision_milliseconds=DecisionTime.of(np.array(thinking)) if thinking else None,
        revenue=run.revenue,
        goodput_rate=estimate(np.array([m.revenue_rate(pricing, "goodput") for m in metrics])),
        latency_quantiles=latency_quantiles(metrics),
    )


def _class_result(
    run: Run, metrics: list[Metrics], histograms: np.ndarray, sums: np.ndarray, i: int
) -> ClassResult:
    cluster = run.cluster
    counts: dict[str, Any] = {n: int(sum(m.counts[n][i] for m in metrics)) for n in COUNTS}
    gpu_seconds = sum(m.gpu_seconds for m in metrics)
    latencies: dict[str, Any] = {
        latency: summarize_latency(histograms[k, i], float(sums[k, i]))
        for latency, k in LATENCIES.items()
    }
    return ClassResult(
        name=cluster.instance.classes[i].name,
        inside=int(sum(m.inside[i] for m in metrics)),
        throughput=counts["completed"] / gpu_seconds,
        revenue_rate=float(sum(m.revenue(cluster.pricing, run.revenue)[i] for m in metrics))
        / gpu_seconds,
        deadlines=(
            DeadlineAttainment.measured(metrics, i) if cluster.instance.has_deadlines else None
        ),
        cached_token_share=(cached_share(metrics, i) if cluster.instance.has_caches else None),
        **counts,
        **latencies,
    )
