"""First-come-first-served prefill and decode queues, with patience.

Queue i < I is the prefill queue of class i, queue I + l the decode line l; where requests wait at
GPUs, queue g I + i < n I is that of class i at GPU g, queue n I + l the decode line l. A waiting
request has an entry of a small pool; queues are doubly linked through the entries, so that one that
gives up leaves in O(1). Patience is drawn only for a request that really waits, as draw 2k (prefill
queue) or 2k + 1 (decode line) of its stream for request k; a recorded stream may give it, the same
in each queue.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.simulation.events.patience_heap import forget_deadline, set_deadline
from llm_sched_env.simulation.events.random_streams import PATIENCE, exponential
from llm_sched_env.simulation.runtime.compiled import compiled
from llm_sched_env.simulation.state.layout import EngineState


@compiled
def join_queue(state: EngineState, request: int, queue: int, time: float) -> Any:
    """Append a request to the prefill queue of its class or to a decode line.

    Returns:
        Its waiting entry.
    """
    clock = state.clock[0]
    entry = np.int64(clock.unused_waiting)
    waiting = state.waiting[entry]
    clock.unused_waiting = waiting.next
    ends = state.queues[queue]
    waiting.request = request
    waiting.request_class = state.requests[request].request_class
    waiting.previous = ends.tail
    waiting.next = -1
    waiting.queue = queue
    if ends.tail >= 0:
        state.waiting[ends.tail].next = entry
    else:
        ends.head = entry
    ends.tail = entry
    _count_waiting(state, waiting.request_class, queue, 1, time)
    return entry


@compiled
def sort_by_prompt(state: EngineState, entry: int) -> None:
    """Move the last of a queue ahead of those with longer prompts."""
    waiting = state.waiting[entry]
    tokens = state.requests[waiting.request].prompt_tokens
    ahead = waiting.previous
    while ahead >= 0 and state.requests[state.waiting[ahead].request].prompt_tokens > tokens:
        ahead = state.waiting[ahead].previous
    if ahead == waiting.previous:
        return
    ends = state.queues[waiting.queue]
    ends.tail = waiting.previous
    state.waiting[waiting.previous].next = -1
    waiting.previous = ahead
    if ahead >= 0:
        waiting.next = state.waiting[ahead].next
        state.waiting[ahead].next = entry
    else:
        waiting.next = ends.head
        ends.head = entry
    state.waiting[waiting.next].previous = entry


@compiled
def leave_queue(state: EngineState, entry: int, time: float) -> int:
    """Unlink an entry from wherever it waits, forget its deadline and return its request."""
    waiting = state.waiting[entry]
    queue = waiting.queue
    ends = state.queues[queue]
    if waiting.previous >= 0:
        state.waiting[waiting.previous].next = waiting.next
    else:
        ends.head = waiting.next
    if waiting.next >= 0:
        state.waiting[waiting.next].previous = waiting.previous
    else:
        ends.tail = waiting.previous
    _count_waiting(state, waiting.request_class, queue, -1, time)
    forget_deadline(state, entry)
    waiting.queue = -1
    clock = state.clock[0]
    waiting.next = clock.unused_waiting
    clock.unused_waiting = entry
    return waiting.request


@compiled
def _count_waiting(state: EngineState, i: int, queue: int, change: int, time: float) -> None:
    clock = state.clock[0]
    first = i * len(state.groups)
    if queue < state.settings[0].prefill_queues:
        if len(state.backlogs) > 0:
            state.backlogs[queue // len(state.parameters)].waiting += change
        state.classes[first].q_prefill += change
        state.totals[first].q_prefill_area -= change * time
        clock.waiting_prefills += change
    else:
        state.classes[first].q_decode += change
        state.totals[first].q_decode_area -= change * time
        clock.waiting_decodes += change


@compiled
def start_patience(state: EngineState, entry: int, time: float) -> None:
    """Start the patience clock of a request that waits; a class with rate 0 never leaves."""
    waiting = state.waiting[entry]
    given = state.requests[waiting.request].patience_seconds
    if given >= 0.0:
        set_deadline(state, entry, time + given)
        return
    rate = state.parameters[waiting.request_class].patience_rate
    if rate <= 0.0:
        return
    index = state.requests[waiting.request].index
    draw = 2 * index + (1 if waiting.queue >= state.settings[0].prefill_queues else 0)
    set_deadline(state, entry, time + exponential(state.keys[PATIENCE], draw) / rate)
