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
from llm_sched_env.simulation.runtime.compiled import compiled, entry_point
from llm_sched_env.simulation.runtime.prefetch import prefetch_cluster, prefetch_requests
from llm_sched_env.simulation.runtime.row_claims import claim_row
from llm_sched_env.simulation.state.layout import EngineState, Workload
from llm_sched_env.simulation.state.start import fill_to_plan, start_empty


@compiled
def cluster_row(states: EngineState, k: int) -> EngineState:
    """Views of cluster k."""
    return EngineState(
        states.settings[k],
        states.keys[k],
        states.clock[k],
        states.groups[k],
        states.parameters[k],
        states.control[k],
        states.classes[k],
        states.totals[k],
        states.histograms[k],
        states.gpus[k],
        states.loads[k],
        states.class_bias[k],
        states.state_weights[k],
        states.output_weights[k],
        states.features[k],
        states.hidden[k],
        states.corrections[k],
        states.class_decodes[k],
        states.decode_marks[k],
        states.decode_requests[k],
        states.kv_reserved[k],
        states.completion_times[k],
        states.completion_gpus[k],
        states.rescheduled[k],
        states.available[k],
        states.available_positions[k],
        states.available_sizes[k],
        states.group_available_sizes[k],
        states.backlogs[k],
        states.links[k],
        states.move_times[k],
        states.move_requests[k],
        states.move_gpus[k],
        states.queues[k],
        states.requests[k],
        states.free_requests[k],
        states.waiting[k],
        states.patience_keys[k],
        states.patience_items[k],
        states.reuse[k],
        states.reuse_totals[k],
        states.caches[k],
        states.cache_nodes[k],
        states.cache_buckets[k],
        states.block_ids[k],
        states.signals[k],
        states.scorer_weights[k],
    )


@entry_point
def start(
    states: EngineState,
    workload: Workload,
    logs: np.ndarray,
    controls: np.ndarray,
    occupancy: np.ndarray,
    k: int,
) -> None:
    """Start cluster k: freshly allocated arrays become a running system at time 0.

    Args:
        states: stacked states.
        workload: what arrives.
        logs: event logs, shape (N, L).
        controls: shape (N, 2P + G) or (N, 4P + G).
        occupancy: requests present per GPU, shape (5, P); all zero starts empty.
        k: the cluster.
    """
    state = cluster_row(states, k)
    start_empty(state, workload, controls[k])
    fill_to_plan(state, workload, logs[k], occupancy)


@entry_point
def draw_requests(states: EngineState, workload: Workload, until: float, drawn: np.ndarray) -> int:
    """Draw the requests that arrive up to a time, as a run of the fresh cluster 0 would.

    Args:
        states: stacked states of one cluster at time 0; used up.
        workload: what arrives.
        until: seconds.
        drawn: receives them, shape (L,), DRAWN_REQUEST.

    Returns:
        How many there are, or L + 1 if there is no room for all.
    """
    state = cluster_row(states, 0)
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
    states: EngineState,
    workload: Workload,
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
        states: stacked states.
        workload: what arrives.
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
    parts = len(claims) - 1
    for step in range(parts):
        part = (own_part + step) % parts
        while True:
            k = claim_row(claims, part, ticket, step == 0)
            if k < 0:
                break
            if k + 1 < len(until):
                prefetch_cluster(cluster_row(states, k + 1))
                prefetch_requests(cluster_row(states, k))
            status[k] = run_until(
                cluster_row(states, k), workload, logs[k], controls[k], set_controls, until[k]
            )
            atomic_add(claims, parts, 1)
    if own_part == 0:
        while atomic_load(claims, parts) < rows:
            pass


@entry_point
def advance_to_decisions(
    states: EngineState,
    workload: Workload,
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
        states: stacked states of clusters that an agent controls.
        workload: what arrives.
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
    parts = len(claims) - 1
    for step in range(parts):
        part = (own_part + step) % parts
        while True:
            k = claim_row(claims, part, ticket, step == 0)
            if k < 0:
                break
            if actions[k] != STAND_STILL:
                status[k] = run_to_decision(
                    cluster_row(states, k), workload, logs[k], actions[k], wake_interval, until[k]
                )
            atomic_add(claims, parts, 1)
    if own_part == 0:
        while atomic_load(claims, parts) < rows:
            pass


@entry_point
def advance_to_arrivals(
    states: EngineState,
    workload: Workload,
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
        states: stacked states of clusters whose requests an agent routes.
        workload: what arrives.
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
    parts = len(claims) - 1
    for step in range(parts):
        part = (own_part + step) % parts
        while True:
            k = claim_row(claims, part, ticket, step == 0)
            if k < 0:
                break
            if gpus[k] != STAND_STILL:
                status[k] = run_to_arrival(
                    cluster_row(states, k), workload, logs[k], gpus[k], until[k]
                )
            atomic_add(claims, parts, 1)
    if own_part == 0:
        while atomic_load(claims, parts) < rows:
            pass
