"""Arrivals that an agent routes: time stops when a request has come, until it is sent to a GPU.

The request waits outside of all queues; its record is that of ``unsent``. What the agent is shown
of GPUs is brought up to date when it comes, and how much of its prompt each of them is known for
is noted there: the longer of what the GPU has and of what was sent to it.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.caches.block_cache import refresh_cache
from llm_sched_env.simulation.caches.signals import keep_signals
from llm_sched_env.simulation.events.decisions import DECISION
from llm_sched_env.simulation.events.event_loop import (
    FINISHED,
    NEEDS_CAPACITY,
    handle_inside,
    next_event_time,
    receive,
)
from llm_sched_env.simulation.events.random_streams import ROUTING, random_below
from llm_sched_env.simulation.events.waiting import start_patience
from llm_sched_env.simulation.gpu.virtual_clock import reschedule_gpus
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.scheduling.dispatch import serve_at_gpu
from llm_sched_env.simulation.scheduling.on_arrival import send_to
from llm_sched_env.simulation.scheduling.reuse_routers import match_all
from llm_sched_env.simulation.state.layout import EngineState, Workload


@compiled_apart
def _look_at_gpus(state: EngineState, request: int, time: float) -> None:
    """Note what is known of each GPU when a request comes, and draw where ties begin."""
    clock = state.clock[0]
    clock.first_candidate = random_below(state.keys[ROUTING], clock.routing_draws, len(state.gpus))
    clock.routing_draws += 1
    for gpu in range(len(state.gpus)):
        keep_signals(state, gpu, time)
        refresh_cache(state, gpu, time)
    match_all(state, request, time)


@compiled_apart
def _serve(state: EngineState, log: np.ndarray, gpu: int, entry: int, time: float) -> None:
    """What follows an event at a GPU (-1: at none), after which an entry may still wait."""
    serve_at_gpu(state, log, gpu, time)
    reschedule_gpus(state)
    if entry >= 0 and state.waiting[entry].queue >= 0:
        start_patience(state, entry, time)


@compiled_apart
def _serve_at_start(state: EngineState, log: np.ndarray) -> None:
    """Requests that are there when a run begins wait at GPUs for no event."""
    for gpu in range(len(state.gpus)):
        _serve(state, log, gpu, -1, state.clock[0].time)


@compiled
def run_to_arrival(
    state: EngineState,
    workload: Workload,
    log: np.ndarray,
    gpu: int,
    until: float,
) -> int:
    """Send the request that has come to a GPU, then process events up to the next arrival.

    Args:
        state: one cluster.
        workload: what arrives.
        log: where events are written; length 0 for no log.
        gpu: one that may prefill; negative: nothing is sent.
        until: seconds; events at that time are processed.

    Returns:
        DECISION when a request has come, FINISHED at ``until``, or NEEDS_CAPACITY before an
        arrival for which no record may be free.
    """
    clock = state.clock[0]
    at, entry, to_serve = np.int64(-1), np.int64(-1), False
    if clock.events == 0:
        _serve_at_start(state, log)
    if gpu >= 0 and clock.unsent >= 0:
        at, entry, to_serve = np.int64(gpu), send_to(state, gpu, clock.unsent, clock.time), True
        clock.unsent = -1
    elif clock.unsent >= 0:
        return DECISION  # of a saved state
    while clock.unsent < 0:
        if to_serve:
            _serve(state, log, at, entry, clock.time)
        time = next_event_time(state)
        if time > until or time == np.inf:
            if until < np.inf:
                clock.time = max(clock.time, until)
            return FINISHED
        if clock.free_size == 0 and time == clock.next_arrival_time:
            return NEEDS_CAPACITY
        clock.time = max(clock.time, time)
        to_serve, at, entry = handle_inside(state, log, time)
        if not to_serve:
            clock.events += 1
            clock.unsent = receive(state, workload, log, clock.time)
    _look_at_gpus(state, clock.unsent, clock.time)
    return DECISION
