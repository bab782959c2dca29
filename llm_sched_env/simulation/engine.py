"""The compiled entry points that Python calls, on clusters stacked along a leading axis."""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.events.arrivals import (
    fill_request,
    schedule_next_arrival,
    start_modulation,
)
from llm_sched_env.simulation.events.decisions import STAND_STILL, run_to_decision
from llm_sched_env.simulation.events.event_loop import run_until
from llm_sched_env.simulation.events.routed_arrivals import run_to_arrival
from llm_sched_env.simulation.runtime.atomics import atomic_add, atomic_load
from llm_sched_env.simulation.runtime.compiled import entry_point
from llm_sched_env.simulation.runtime.prefetch import prefetch_cluster, prefetch_requests
from llm_sched_env.simulation.runtime.row_claims import claim_row
from llm_sched_env.simulation.state.compiled_views import cluster_row, workload_of
from llm_sched_env.simulation.state.start import fill_to_plan, start_empty


@entry_point
def start(
    clusters: np.ndarray,
    arrivals: np.ndarray,
    logs: np.ndarray,
    controls: np.ndarray,
    occupancy: np.ndarray,
    k: int,
) -> None:
    """Start cluster k: freshly allocated arrays become a running system at time 0.

    Args:
        clusters: stacked states, by clusters_of.
        arrivals: what arrives, by arrivals_of.
        logs: event logs, shape (N, L).
        controls: shape (N, 2P + G) or (N, 4P + G).
        occupancy: requests present per GPU, shape (5, P); all zero starts empty.
        k: the cluster.
    """
    state, workload = cluster_row(clusters, k), workload_of(arrivals, 0)
    start_empty(state, workload, controls[k])
    fill_to_plan(state, workload, logs[k], occupancy)


@entry_point
def draw_requests(
    clusters: np.ndarray, arrivals: np.ndarray, until: float, drawn: np.ndarray
) -> int:
    """Draw the requests that arrive up to a time, as a run of the fresh cluster 0 would.

    Args:
        clusters: one cluster at time 0, by clusters_of; used up.
        arrivals: what arrives, by arrivals_of.
        until: seconds.
        drawn: receives them, shape (L,), DRAWN_REQUEST.

    Returns:
        How many there are, or L + 1 if there is no room for all.
    """
    state, workload = cluster_row(clusters, 0), workload_of(arrivals, 0)
    clock = state.clock[0]
    record = state.requests[0]
    start_modulation(state, workload)
    schedule_next_arrival(state, workload)
    while clock.next_arrival_time <= until:
        if clock.next_index == len(drawn):
            return len(drawn) + 1
        clock.time = clock.next_arrival_time
        fill_request(state, workload, 0)
        drawn[clock.next_index].arrival_time = record.arrival_time
        drawn[clock.next_index].request_class = record.request_class
        drawn[clock.next_index].prompt_tokens = record.prompt_tokens
        drawn[clock.next_index].output_tokens = record.output_tokens
        clock.next_index += 1
        schedule_next_arrival(state, workload)
    return clock.next_index


@entry_point
def advance(
    clusters: np.ndarray,
    arrivals: np.ndarray,
    logs: np.ndarray,
    controls: np.ndarray,
    set_controls: bool,
    until: np.ndarray,
    status: np.ndarray,
    claims: np.ndarray,
    ticket: int,
    own_part: int,
    rows: int,
) -> None:
    """Advance clusters, each to its own time; releases the interpreter lock.

    Several threads may call it at a time: each takes the rows that it can claim (row_claims.py).

    Args:
        clusters: stacked states, by clusters_of.
        arrivals: what arrives, by arrivals_of.
        logs: event logs, shape (N, L).
        controls: shape (N, 2P + G) or (N, 4P + G).
        set_controls: whether to apply the controls now.
        until: seconds, shape (N,).
        status: receives FINISHED or NEEDS_CAPACITY, shape (N,).
        claims: the parts of this call and, last, the number of rows done.
        ticket: of this call.
        own_part: the caller's part; part 0 returns when all rows are done.
        rows: how many there are.
    """
    parts, workload = len(claims) - 1, workload_of(arrivals, 0)
    for step in range(parts):
        part = (own_part + step) % parts
        while True:
            k = claim_row(claims, part, ticket, step == 0)
            if k < 0:
                break
            if k + 1 < len(until):
                prefetch_cluster(cluster_row(clusters, k + 1))
                prefetch_requests(cluster_row(clusters, k))
            status[k] = run_until(
                cluster_row(clusters, k), workload, logs[k], controls[k], set_controls, until[k]
            )
            atomic_add(claims, parts, 1)
    if own_part == 0:
        while atomic_load(claims, parts) < rows:
            pass


@entry_point
def advance_to_decisions(
    clusters: np.ndarray,
    arrivals: np.ndarray,
    logs: np.ndarray,
    actions: np.ndarray,
    wake_interval: float,
    until: np.ndarray,
    status: np.ndarray,
    claims: np.ndarray,
    ticket: int,
    own_part: int,
    rows: int,
) -> None:
    """Take an action in each cluster and advance it to its next decision, or to its own time.

    Several threads may call it at a time, as they may :func:`advance`.

    Args:
        clusters: stacked states of clusters that an agent controls, by clusters_of.
        arrivals: what arrives, by arrivals_of.
        logs: event logs, shape (N, L).
        actions: possible ones, RUN_ON or STAND_STILL, shape (N,).
        wake_interval: seconds; see :func:`.events.decisions.run_to_decision`.
        until: seconds, shape (N,).
        status: receives DECISION, FINISHED or NEEDS_CAPACITY, shape (N,); stays where nothing is
            done.
        claims: the parts of this call and, last, the number of rows done.
        ticket: of this call.
        own_part: the caller's part; part 0 returns when all rows are done.
        rows: how many there are.
    """
    parts, workload = len(claims) - 1, workload_of(arrivals, 0)
    for step in range(parts):
        part = (own_part + step) % parts
        while True:
            k = claim_row(claims, part, ticket, step == 0)
            if k < 0:
                break
            if actions[k] != STAND_STILL:
                status[k] = run_to_decision(
                    cluster_row(clusters, k), workload, logs[k], actions[k], wake_interval, until[k]
                )
            atomic_add(claims, parts, 1)
    if own_part == 0:
        while atomic_load(claims, parts) < rows:
            pass


@entry_point
def advance_to_arrivals(
    clusters: np.ndarray,
    arrivals: np.ndarray,
    logs: np.ndarray,
    gpus: np.ndarray,
    until: np.ndarray,
    status: np.ndarray,
    claims: np.ndarray,
    ticket: int,
    own_part: int,
    rows: int,
) -> None:
    """Send the request of each cluster to a GPU and advance it to its next arrival, or its time.

    Several threads may call it at a time, as they may :func:`advance`.

    Args:
        clusters: stacked states of clusters whose requests an agent routes, by clusters_of.
        arrivals: what arrives, by arrivals_of.
        logs: event logs, shape (N, L).
        gpus: that may prefill, RUN_ON or STAND_STILL, shape (N,).
        until: seconds, shape (N,).
        status: receives DECISION, FINISHED or NEEDS_CAPACITY, shape (N,); stays where nothing is
            done.
        claims: the parts of this call and, last, the number of rows done.
        ticket: of this call.
        own_part: the caller's part; part 0 returns when all rows are done.
        rows: how many there are.
    """
    parts, workload = len(claims) - 1, workload_of(arrivals, 0)
    for step in range(parts):
        part = (own_part + step) % parts
        while True:
            k = claim_row(claims, part, ticket, step == 0)
            if k < 0:
                break
            if gpus[k] != STAND_STILL:
                status[k] = run_to_arrival(
                    cluster_row(clusters, k), workload, logs[k], gpus[k], until[k]
                )
            atomic_add(claims, parts, 1)
    if own_part == 0:
        while atomic_load(claims, parts) < rows:
            pass
