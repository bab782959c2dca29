"""Moves of KV caches between GPUs, each over the outgoing link of the GPU of its prefill.

A request that is to decode on another GPU takes its slot there at once. Its KV cache then waits for
the link, first come, first served, and crosses it in ``prompt_tokens / tokens_per_second +
seconds``; at the end of the move the decode starts. Until then the cache stays on the source, too.

The end of a move is known when it is ordered, so moves are events in a binary heap by their ends,
ties by order of arrival.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.simulation.events.statistics import log_event
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.scheduling.availability import reserve_tokens, update_available
from llm_sched_env.simulation.state.layout import MOVE_END, MOVE_START, EngineState


@compiled
def has_links(state: EngineState) -> bool:
    """Whether a move to another GPU takes time."""
    return len(state.links) > 0


@compiled
def first_move_end(state: EngineState) -> float:
    """Seconds; inf if nothing moves."""
    return state.move_times[0]


@compiled_apart
def begin_move(state: EngineState, log: np.ndarray, gpu: int, request: int, time: float) -> None:
    """Keep a slot of a GPU for a request and order the move of its KV cache there."""
    record = state.requests[request]
    source = state.groups[state.gpus[record.prefill_gpu].group]
    link = state.links[record.prefill_gpu]
    seconds = record.prompt_tokens * source.link_token_seconds + source.link_seconds
    link.free_time = max(time, link.free_time) + seconds
    link.busy_seconds += seconds
    n_groups = len(state.groups)
    pair = record.request_class * n_groups + state.gpus[gpu].group
    totals = state.totals[pair]
    totals.moved += 1
    totals.move_seconds += link.free_time - time
    state.gpus[gpu].incoming += 1
    state.classes[pair].moving += 1
    _count_undecoded(state, record.request_class, 1, time)
    reserve_tokens(state, gpu, record.prompt_tokens + record.output_tokens)
    _push(state, link.free_time, request, gpu)
    update_available(state, gpu)
    log_event(state, log, time, MOVE_START, record.index, gpu)


@compiled_apart
def end_move(state: EngineState, log: np.ndarray, time: float) -> tuple[int, int]:
    """Take the first move to end out of the heap; returns its request and the GPU that has it.

    The decode takes the slot that was kept for it.
    """
    request, gpu = _pop(state)
    record = state.requests[request]
    state.gpus[gpu].incoming -= 1
    state.classes[record.request_class * len(state.groups) + state.gpus[gpu].group].moving -= 1
    _count_undecoded(state, record.request_class, -1, time)
    log_event(state, log, time, MOVE_END, record.index, gpu)
    return request, gpu


@compiled
def _count_undecoded(state: EngineState, i: int, change: int, time: float) -> None:
    """A request on its way counts as one that waits for its decode."""
    first = i * len(state.groups)
    state.classes[first].q_decode += change
    state.totals[first].q_decode_area -= change * time


@compiled
def _ends_before(state: EngineState, time_a: float, a: int, time_b: float, b: int) -> bool:
    if time_a != time_b:
        return time_a < time_b
    return state.requests[a].index < state.requests[b].index


@compiled
def _put(state: EngineState, place: int, time: float, request: int, gpu: int) -> None:
    state.move_times[place] = time
    state.move_requests[place] = request
    state.move_gpus[place] = gpu


@compiled
def _push(state: EngineState, time: float, request: int, gpu: int) -> None:
    clock = state.clock[0]
    place = np.int64(clock.moves)
    clock.moves += 1
    while place > 0:
        parent = (place - 1) >> 1
        above, other = state.move_times[parent], state.move_requests[parent]
        if not _ends_before(state, time, request, above, other):
            break
        _put(state, place, above, other, state.move_gpus[parent])
        place = parent
    _put(state, place, time, request, gpu)


@compiled
def _pop(state: EngineState) -> tuple[Any, Any]:
    times, requests, gpus = state.move_times, state.move_requests, state.move_gpus
    first = np.int64(requests[0]), np.int64(gpus[0])
    clock = state.clock[0]
    clock.moves -= 1
    size = np.int64(clock.moves)
    time, request, gpu = times[size], requests[size], gpus[size]
    times[size] = np.inf
    place = 0
    while size > 0:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _ends_before(
            state, times[child + 1], requests[child + 1], times[child], requests[child]
        ):
            child += 1
        if not _ends_before(state, times[child], requests[child], time, request):
            break
        _put(state, place, times[child], requests[child], gpus[child])
        place = child
    if size > 0:
        _put(state, place, time, request, gpu)
    return first
