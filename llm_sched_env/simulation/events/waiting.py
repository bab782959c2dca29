"""First-come-first-served prefill and decode queues, with patience.

Queue i < I is the prefill queue of class i, queue I + l the decode line l. A waiting request has
an entry of a small pool; queues are doubly linked through the entries, so that one that gives up
leaves in O(1). Patience is drawn only for a request that really waits, as draw 2k (prefill
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
    if queue < len(state.classes):
        state.classes[i].q_prefill += change
        state.totals[i].q_prefill_area -= change * time
        clock.waiting_prefills += change
    else:
        state.classes[i].q_decode += change
        state.totals[i].q_decode_area -= change * time
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
    draw = 2 * index + (1 if waiting.queue >= len(state.classes) else 0)
    set_deadline(state, entry, time + exponential(state.keys[PATIENCE], draw) / rate)
