"""The compiled entry points: what Python calls, on clusters stacked along a leading axis."""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.atomics import atomic_add, atomic_load
from llm_sched_env.simulation.compiled import compiled, entry_point
from llm_sched_env.simulation.event_loop import run_until
from llm_sched_env.simulation.layout import EngineState, Workload
from llm_sched_env.simulation.prefetch import prefetch_cluster, prefetch_requests
from llm_sched_env.simulation.row_claims import claim_row
from llm_sched_env.simulation.start import fill_to_plan, start_empty


@compiled
def _row(states: EngineState, k: int) -> EngineState:
    return EngineState(
        states.settings[k],
        states.keys[k],
        states.clock[k],
        states.parameters[k],
        states.control[k],
        states.classes[k],
        states.totals[k],
        states.histograms[k],
        states.gpus[k],
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
        states.queues[k],
        states.requests[k],
        states.free_requests[k],
        states.waiting[k],
        states.patience_keys[k],
        states.patience_items[k],
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
        controls: shape (N, 2I + 1).
        occupancy: requests present per GPU, shape (5, I); all zero starts empty.
        k: the cluster.
    """
    state = _row(states, k)
    start_empty(state, workload, controls[k])
    fill_to_plan(state, workload, logs[k], occupancy)


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
        controls: shape (N, 2I + 1).
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
                prefetch_cluster(_row(states, k + 1))
                prefetch_requests(_row(states, k))
            status[k] = run_until(
                _row(states, k), workload, logs[k], controls[k], set_controls, until[k]
            )
            atomic_add(claims, parts, 1)
    if own_part == 0:
        while atomic_load(claims, parts) < rows:
            pass
