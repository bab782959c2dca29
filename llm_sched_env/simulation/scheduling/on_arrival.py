"""Dispatch on arrival: a router sends each request to a GPU, where it waits in that GPU's queue.

So do the front ends of serving systems. The GPU then admits from its own queues, one per class, by
a scheduler: first come, static priority, or shortest prompt first. A decode stays where its prefill
was; from a GPU that only prefills it goes to a random GPU with a free slot that only decodes.

A router compares all GPUs that may prefill, so an arrival costs O(n). Ties go to the first from a
random GPU on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.simulation.caches.prefix_reuse import cached_now, keeps_blocks
from llm_sched_env.simulation.caches.signals import keep_signals, shows_signals
from llm_sched_env.simulation.events.random_streams import ROUTING, random_below
from llm_sched_env.simulation.events.waiting import join_queue, sort_by_prompt
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.scheduling.reuse_routers import (
    gpu_by_reuse,
    may_prefill,
    remember_sent,
    session_gpu,
)
from llm_sched_env.simulation.scheduling.rules import (
    EARLIEST_FINISH_ROUTER,
    JOIN_SHORTEST_QUEUE_ROUTER,
    POWER_OF_TWO_ROUTER,
    PRIORITY_GATE,
    RANDOM_ROUTER,
    REUSE_BID_ROUTER,
    ROUND_ROBIN_ROUTER,
    SESSION_AFFINITY_ROUTER,
    SHORTEST_PROMPT_GATE,
    WEIGHTED_ROUTER,
)
from llm_sched_env.simulation.state.layout import EngineState


@compiled
def routes_on_arrival(state: EngineState) -> bool:
    """Whether requests wait at GPUs, not in queues of the cluster."""
    return len(state.backlogs) > 0


@compiled
def _draw_gpu(state: EngineState) -> int:
    clock = state.clock[0]
    gpu = random_below(state.keys[ROUTING], clock.routing_draws, len(state.gpus))
    clock.routing_draws += 1
    return gpu


@compiled
def _draw_prefiller(state: EngineState) -> int:
    """A random GPU of those that may prefill."""
    gpu = _draw_gpu(state)
    while not may_prefill(state, gpu):
        gpu = _draw_gpu(state)
    return gpu


@compiled
def _next_prefiller(state: EngineState, gpu: int) -> int:
    """The first GPU from one on, in a circle, that may prefill; there is one."""
    while not may_prefill(state, gpu):
        gpu = (gpu + 1) % len(state.gpus)
    return gpu


@compiled
def _requests_per_slot(state: EngineState, gpu: int) -> float:
    """Requests that wait at a GPU or are in service there, over its slots."""
    record = state.gpus[gpu]
    inside = state.backlogs[gpu].waiting + record.decodes + record.incoming
    if record.prefill_request >= 0:
        inside += 1
    return inside / state.groups[record.group].batch_slots


@compiled
def _least_loaded(state: EngineState) -> int:
    """The GPU with the fewest seconds of prefills or, by its router, the fewest requests."""
    by_work = state.settings[0].router == JOIN_SHORTEST_QUEUE_ROUTER
    n = len(state.gpus)
    first = _draw_gpu(state)
    best, least = -1, np.inf
    for step in range(n):
        gpu = (first + step) % n
        if not may_prefill(state, gpu):
            continue
        load = state.backlogs[gpu].seconds if by_work else _requests_per_slot(state, gpu)
        if best < 0 or load < least:
            best, least = gpu, load
    return best


@compiled_apart
def choose_gpu(state: EngineState, request: int, time: float) -> int:
    """The GPU of a request that arrives now."""
    router, clock = state.settings[0].router, state.clock[0]
    if router in (WEIGHTED_ROUTER, EARLIEST_FINISH_ROUTER, REUSE_BID_ROUTER):
        return gpu_by_reuse(state, request, time)
    if router == SESSION_AFFINITY_ROUTER:
        return session_gpu(state, request)
    if router == ROUND_ROBIN_ROUTER:
        gpu = _next_prefiller(state, clock.round_robin_gpu)
        clock.round_robin_gpu = (gpu + 1) % len(state.gpus)
        return gpu
    if router == RANDOM_ROUTER:
        return _draw_prefiller(state)
    if router == POWER_OF_TWO_ROUTER:
        one, other = _draw_prefiller(state), _draw_prefiller(state)
        fewer = _requests_per_slot(state, one) <= _requests_per_slot(state, other)
        return one if fewer else other
    return _least_loaded(state)


@compiled_apart
def add_backlog(state: EngineState, gpu: int, request: int, change: int) -> None:
    """Count a request's prefill into what a GPU has to do (1), or out of it (-1).

    With caches as much of it as was left when the request was sent there.
    """
    group = state.groups[state.gpus[gpu].group]
    tokens = state.requests[request].prompt_tokens
    if keeps_blocks(state):
        tokens = state.reuse[request].expected_tokens
    chunks = tokens / group.chunk_tokens
    backlog = state.backlogs[gpu]
    backlog.prefills += change
    backlog.seconds += change * chunks * group.typical_mixed_seconds
    if backlog.prefills == 0:
        backlog.seconds = 0.0  # no rounding is left


@compiled
def expect_whole_prefill(state: EngineState, gpu: int, request: int) -> None:
    """Count a prefill that nobody has sent, at the start of a run, into what a GPU has to do."""
    if keeps_blocks(state):
        state.reuse[request].expected_tokens = state.requests[request].prompt_tokens
    add_backlog(state, gpu, request, 1)


@compiled
def _is_first(state: EngineState, i: int, head: int, j: int, other: int) -> bool:
    """Whether the head of class i is admitted before that of class j."""
    gate = state.settings[0].gate
    a, b = state.requests[head], state.requests[other]
    if gate == PRIORITY_GATE:
        rank, other_rank = state.control[i].priority, state.control[j].priority
        if rank != other_rank:
            return rank > other_rank
    if gate == SHORTEST_PROMPT_GATE and a.prompt_tokens != b.prompt_tokens:
        return a.prompt_tokens < b.prompt_tokens
    return a.index < b.index


@compiled
def next_in_queue(state: EngineState, gpu: int) -> int:
    """The waiting entry that a GPU admits next, or -1."""
    n_classes, n_groups = len(state.parameters), len(state.groups)
    best, best_class = -1, 0
    for i in range(n_classes):
        entry = state.queues[gpu * n_classes + i].head
        if entry < 0:
            continue
        request = state.waiting[entry].request
        if best < 0 or _is_first(
            state, i * n_groups, request, best_class * n_groups, state.waiting[best].request
        ):
            best, best_class = entry, i
    return best


@compiled
def join_prefill_queue(state: EngineState, request: int, time: float) -> Any:
    """A request joins the queue of its class: of the cluster, or of the GPU that it is sent to.

    Returns:
        Its waiting entry.
    """
    i = state.requests[request].request_class
    if not routes_on_arrival(state):
        return join_queue(state, request, i, time)
    return _send(state, request, time)


@compiled_apart
def _send(state: EngineState, request: int, time: float) -> Any:
    return send_to(state, choose_gpu(state, request, time), request, time)


@compiled
def send_to(state: EngineState, gpu: int, request: int, time: float) -> Any:
    """A request joins the queue of its class at a GPU; returns its waiting entry."""
    if keeps_blocks(state):
        if shows_signals(state):
            keep_signals(state, gpu, time)
        remember_sent(state, gpu, request, time)
        left = state.requests[request].prompt_tokens - cached_now(state, gpu, request)
        state.reuse[request].expected_tokens = left
    queue = gpu * len(state.parameters) + state.requests[request].request_class
    add_backlog(state, gpu, request, 1)
    entry = join_queue(state, request, queue, time)
    if state.settings[0].gate == SHORTEST_PROMPT_GATE:
        sort_by_prompt(state, entry)
    return entry
