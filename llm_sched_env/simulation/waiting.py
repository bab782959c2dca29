"""Where requests wait: first-come-first-served prefill queues and decode lines, and patience.

Queue i < I is the prefill queue of class i, queue I + l the decode line l. Queues are doubly
linked through the request records, so that one that gives up leaves in O(1); deadlines are a
heap over the waiting. Patience is drawn only for a request that really waits, as draw 2k
(prefill queue) or 2k + 1 (decode line) of its stream for request k.
"""

from __future__ import annotations

from llm_sched_env.simulation import indexed_heap
from llm_sched_env.simulation.compiled import compiled
from llm_sched_env.simulation.layout import EngineState
from llm_sched_env.simulation.random_streams import PATIENCE, exponential


@compiled
def join_queue(state: EngineState, request: int, queue: int, time: float) -> None:
    """Append a request to the prefill queue of its class or to a decode line."""
    record = state.requests[request]
    ends = state.queues[queue]
    record.previous = ends.tail
    record.next = -1
    record.queue = queue
    if ends.tail >= 0:
        state.requests[ends.tail].next = request
    else:
        ends.head = request
    ends.tail = request
    _count_waiting(state, record.request_class, queue, 1, time)


@compiled
def leave_queue(state: EngineState, request: int, time: float) -> None:
    """Unlink a request from wherever it waits and forget its deadline."""
    record = state.requests[request]
    queue = record.queue
    ends = state.queues[queue]
    if record.previous >= 0:
        state.requests[record.previous].next = record.next
    else:
        ends.head = record.next
    if record.next >= 0:
        state.requests[record.next].previous = record.previous
    else:
        ends.tail = record.previous
    record.queue = -1
    _count_waiting(state, record.request_class, queue, -1, time)
    if state.patience_positions[request] >= 0:
        clock = state.clock[0]
        indexed_heap.remove(
            state.patience_keys,
            state.patience_items,
            state.patience_positions,
            clock.patience_size,
            request,
        )
        clock.patience_size -= 1


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
def start_patience(state: EngineState, request: int, time: float) -> None:
    """Start the patience clock of a request that waits; a class with rate 0 never leaves."""
    record = state.requests[request]
    rate = state.parameters[record.request_class].patience_rate
    if rate <= 0.0:
        return
    draw = 2 * record.index + (1 if record.queue >= len(state.classes) else 0)
    deadline = time + exponential(state.keys[PATIENCE], draw) / rate
    clock = state.clock[0]
    indexed_heap.insert(
        state.patience_keys,
        state.patience_items,
        state.patience_positions,
        clock.patience_size,
        request,
        deadline,
    )
    clock.patience_size += 1
