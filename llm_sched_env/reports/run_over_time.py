"""One run over time: who waits, who is served, and the KV cache, against the fluid plan."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llm_sched_env.evaluation.preparation import PreparedRun
from llm_sched_env.model.request_work import request_work
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.reports.kv_in_use import kv_tokens_in_use
from llm_sched_env.reports.request_times import RequestTimes
from llm_sched_env.simulation.state.layout import OCCUPANCIES, EngineState
from llm_sched_env.watching.live_cluster import live_run

STEPS = 180
QUANTITIES = ("q_prefill", "x", "q_decode", "decodes")
"""Requests that wait for a prefill, prefills, prefilled ones that wait for a slot, decodes."""


@dataclass(frozen=True, eq=False)
class RunOverTime:
    """Means over steps of a run, per GPU.

    Attributes:
        times: the middles of the steps, s; shape (T,).
        counts: requests by quantity of :data:`QUANTITIES`, shape (T, I).
        kv_tokens: tokens in the KV caches at the ends of the steps, shape (T,).
    """

    times: np.ndarray
    counts: dict[str, np.ndarray]
    kv_tokens: np.ndarray


@dataclass(frozen=True, eq=False)
class PlanLevels:
    """The same in the fluid plan of a cluster: what does not change there.

    Attributes:
        counts: requests per GPU by quantity, shape (I,); inf where a queue has no end.
        kv_tokens: per GPU.
        kv_limit: KV tokens that fit on a GPU; inf without a limit.
    """

    counts: dict[str, np.ndarray]
    kv_tokens: float
    kv_limit: float


def sampled_run(prepared: PreparedRun, steps: int = STEPS) -> RunOverTime:
    """Run replication 0 once more and look at it in equal steps.

    Args:
        prepared: policy and run.
        steps: so many, or one for each interval of a policy in Python if these are fewer.

    Example:
        >>> from llm_sched_env.evaluation.preparation import prepared_run
        >>> prepared = prepared_run("fcfs-immediate", "base", 2, horizon=20.0, warmup=0.0)
        >>> sampled_run(prepared, steps=10).counts["decodes"].shape
        (10, 2)
    """
    run = prepared.run
    live = live_run(prepared.name, prepared.runs, run)
    n_classes = run.cluster.instance.n_classes
    times, areas, tokens = [0.0], [np.zeros((len(OCCUPANCIES), n_classes))], []
    for edge in np.linspace(0.0, run.horizon, steps + 1)[1:]:
        live.advance(float(edge))
        now = float(live.state.clock["time"][0])
        if now <= times[-1]:
            continue
        times.append(now)
        areas.append(_areas(live.state, n_classes))
        tokens.append(float(kv_tokens_in_use(live.state).mean()))
    at = np.array(times)
    means = np.diff(np.array(areas), axis=0) / np.diff(at)[:, None, None] / run.cluster.n_gpus
    rows = dict(zip(OCCUPANCIES, np.moveaxis(np.maximum(means, 0.0), 1, 0), strict=True))
    counts = {name: rows[name] for name in QUANTITIES[:3]}
    counts["decodes"] = rows["y_mixed"] + rows["y_solo"]
    return RunOverTime((at[1:] + at[:-1]) / 2.0, counts, np.array(tokens))


def _areas(state: EngineState, n_classes: int) -> np.ndarray:
    """Integrals of the counts over time since the start; shape (5, I)."""
    now = float(state.clock["time"][0])
    found = [
        (state.classes[name] * now + state.totals[f"{name}_area"])
        .reshape(n_classes, -1)
        .sum(axis=1)
        for name in OCCUPANCIES
    ]
    return np.array(found)


def run_of_requests(
    requests: RequestTimes, n_gpus: int, end: float, steps: int = STEPS
) -> RunOverTime:
    """The same of a run that is told request by request.

    Args:
        requests: with their times.
        n_gpus: cluster size n.
        end: of the run, s.
        steps: equal ones.
    """
    edges = np.linspace(0.0, end, steps + 1)
    n_classes = len(requests.class_names)
    counts = {}
    for name, (since, until) in requests.stays.items():
        known = ~np.isnan(since)
        counts[name] = np.stack(
            [
                _mean_inside(since[own], until[own], edges) / n_gpus
                for own in (known & (requests.request_class == i) for i in range(n_classes))
            ],
            axis=1,
        )
    tokens = np.array([requests.kv_tokens_at(time) for time in edges[1:]]) / n_gpus
    return RunOverTime((edges[1:] + edges[:-1]) / 2.0, counts, tokens)


def _mean_inside(since: np.ndarray, until: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean number that is inside in each step; NaN for an end that has not come."""
    ends = np.where(np.isnan(until), edges[-1], until)
    inside = [
        float((np.minimum(ends, b) - np.maximum(since, a)).clip(min=0.0).sum()) / (b - a)
        for a, b in pairwise(edges)
    ]
    return np.array(inside)


def plan_levels(cluster: Cluster) -> PlanLevels:
    """What the plan of a cluster has of each quantity."""
    plan, instance = cluster.plan, cluster.instance
    groups = instance.groups
    rows = plan.occupancy.reshape(len(OCCUPANCIES), instance.n_classes, -1)
    by_class = dict(zip(OCCUPANCIES, rows.sum(axis=2), strict=True))
    decodes = rows[3] + rows[4]
    tokens = 0.0
    for g, group in enumerate(groups):
        for i, own in enumerate(instance.classes):
            work = request_work(own, group.hardware)
            attended = work.decode_context / work.decode_iterations
            tokens += (
                float(decodes[i, g]) * attended + float(rows[1, i, g]) * work.prompt_tokens / 2
            )
    limits = [group.hardware.kv_tokens for group in groups]
    return PlanLevels(
        {name: by_class[name] for name in QUANTITIES[:3]} | {"decodes": decodes.sum(axis=1)},
        tokens,
        float(limits[0]) if limits[0] is not None else np.inf,
    )
