"""The event loop: the one place that fixes the order of events.

At equal times: completions (lower GPU index first; on one GPU decodes before its prefill, decodes
by arrival order), then ends of moves and abandonments (by arrival order), then credit timers, then
arrivals. After each event the dispatcher runs once, but not after an abandonment, which frees no
slot, unless KV tokens are limited (the next in line may need less) or a credit timer waits for
nobody now. An event is an arrival, a completion of a prefill or decode, the end of a move, or an
abandonment, not a credit timer.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.caches.signals import keep_signals, shows_signals
from llm_sched_env.simulation.events.arrivals import fill_request, schedule_next_arrival
from llm_sched_env.simulation.events.completion_tree import next_completion_time, next_gpu
from llm_sched_env.simulation.events.good_requests import count_good
from llm_sched_env.simulation.events.patience_heap import first_deadline
from llm_sched_env.simulation.events.statistics import count_latency, log_event
from llm_sched_env.simulation.events.waiting import (
    join_queue,
    latest_start,
    leave_queue,
    start_patience,
)
from llm_sched_env.simulation.gpu.virtual_clock import reschedule_gpus
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_within
from llm_sched_env.simulation.scheduling.availability import update_available
from llm_sched_env.simulation.scheduling.control import set_controls
from llm_sched_env.simulation.scheduling.dispatch import (
    choose_line,
    dispatch,
    end_decode,
    end_prefill,
    free_source,
    pair_of,
    start_moved_decode,
)
from llm_sched_env.simulation.scheduling.gates import accrue_credit
from llm_sched_env.simulation.scheduling.links import first_move_end, has_links
from llm_sched_env.simulation.scheduling.on_arrival import (
    add_backlog,
    join_prefill_queue,
    routes_on_arrival,
)
from llm_sched_env.simulation.scheduling.rules import CORRECTED_BID_PRICE_ROUTER
from llm_sched_env.simulation.scheduling.state_features import foresee_arrivals, observe_arrival
from llm_sched_env.simulation.state.layout import (
    ARRIVE,
    DECODE_END,
    E2E,
    LEAVE_DECODE,
    LEAVE_PREFILL,
    PREFILL_END,
    REJECT,
    TPOT,
    TTFT,
    EngineState,
    Workload,
)

# What run_until returns; FINISHED is 0, so that "any" tells whether something is left.
FINISHED, NEEDS_CAPACITY = 0, 1
_NO_DISPATCH = -2


@compiled
def _release(state: EngineState, request: int) -> None:
    clock = state.clock[0]
    state.free_requests[clock.free_size] = request
    clock.free_size += 1


@compiled_within
def receive(state: EngineState, workload: Workload, log: np.ndarray, time: float) -> int:
    """The next request comes; returns its record.

    One that no GPU can ever hold, for want of KV tokens, is rejected: -1.
    """
    clock = state.clock[0]
    clock.free_size -= 1
    request = state.free_requests[clock.free_size]
    fill_request(state, workload, request)
    clock.next_index += 1
    schedule_next_arrival(state, workload)
    record = state.requests[request]
    totals = state.totals[record.request_class * len(state.groups)]
    totals.arrived += 1
    log_event(state, log, time, ARRIVE, record.index, -1)
    if record.prompt_tokens + record.output_tokens > state.settings[0].kv_tokens:
        totals.rejected += 1
        log_event(state, log, time, REJECT, record.index, -1)
        _release(state, request)
        return -1
    if state.settings[0].router == CORRECTED_BID_PRICE_ROUTER:
        observe_arrival(state, record.request_class, time)
        if state.settings[0].steady == 0:
            foresee_arrivals(state, workload, time)
    return request


@compiled_within
def _arrive(state: EngineState, workload: Workload, log: np.ndarray, time: float) -> int:
    """The next request joins the queue of its class; returns its waiting entry, or -1."""
    request = receive(state, workload, log, time)
    if request < 0:
        return -1
    return join_prefill_queue(state, request, time)


@compiled_within
def _finish_prefill(state: EngineState, log: np.ndarray, gpu: int, time: float) -> int:
    """A prefill ends and its request joins a decode line; returns its waiting entry."""
    request = end_prefill(state, gpu, time)
    record = state.requests[request]
    i = record.request_class
    settings = state.settings[0]
    totals = state.totals[pair_of(state, i, gpu)]
    record.first_token_time = time
    record.prefilled_event = state.clock[0].events
    billed = record.prompt_tokens if settings.bill_own_tokens else state.parameters[i].prompt_tokens
    totals.prefilled += 1
    totals.prompt_tokens += record.prompt_tokens
    if record.arrival_time >= state.clock[0].paid_from:
        totals.prefill_revenue += settings.prefill_price * billed
    totals.ttft_sum += time - record.arrival_time
    count_latency(state, TTFT, i, time - record.arrival_time)
    log_event(state, log, time, PREFILL_END, record.index, gpu)
    return join_queue(
        state, request, state.settings[0].prefill_queues + choose_line(state, i), time
    )


@compiled_within
def _finish_decode(state: EngineState, log: np.ndarray, gpu: int, time: float) -> None:
    """A request is complete and leaves."""
    request = end_decode(state, gpu, time)
    record = state.requests[request]
    i = record.request_class
    settings = state.settings[0]
    pair = pair_of(state, i, gpu)
    totals = state.totals[pair]
    prompt, output = record.prompt_tokens, record.output_tokens
    if not settings.bill_own_tokens:
        prompt, output = state.parameters[i].prompt_tokens, state.parameters[i].output_tokens
    decode_bill = settings.decode_price * output
    bill = settings.prefill_price * prompt + decode_bill
    if record.arrival_time < state.clock[0].paid_from:
        bill = decode_bill = 0.0
    totals.completed += 1
    totals.output_tokens += record.output_tokens
    totals.decode_revenue += decode_bill
    totals.bundled_revenue += bill
    e2e = time - record.arrival_time
    # A request of less than one token (exponential lengths) counts as one.
    tpot = (time - record.first_token_time) / max(1.0, record.output_tokens)
    totals.e2e_sum += e2e
    totals.tpot_sum += tpot
    count_latency(state, E2E, i, e2e)
    count_latency(state, TPOT, i, tpot)
    ttft = record.first_token_time - record.arrival_time
    count_good(state, i, pair, ttft, tpot, bill, decode_bill)
    log_event(state, log, time, DECODE_END, record.index, gpu)
    _release(state, request)


@compiled_within
def _abandon(state: EngineState, log: np.ndarray, time: float) -> int:
    """The waiting request with the earliest deadline gives up, or is late and rejected.

    Returns:
        The GPU at which it has waited or that has held its KV cache; -1: none.
    """
    entry = state.patience_items[0]
    waiting = state.waiting[entry]
    totals = state.totals[waiting.request_class * len(state.groups)]
    index = state.requests[waiting.request].index
    in_prefill_queue = waiting.queue < state.settings[0].prefill_queues
    late = state.settings[0].drop_late != 0 and in_prefill_queue
    if late and state.patience_keys[0] == latest_start(state, waiting.request):
        totals.rejected += 1
        log_event(state, log, time, REJECT, index, -1)
    elif in_prefill_queue:
        totals.abandoned_prefill += 1
        log_event(state, log, time, LEAVE_PREFILL, index, -1)
    else:
        totals.abandoned_decode += 1
        log_event(state, log, time, LEAVE_DECODE, index, -1)
    queue = waiting.queue
    if shows_signals(state) and queue < state.settings[0].prefill_queues:
        keep_signals(state, queue // len(state.parameters), time)
    request = leave_queue(state, entry, time)
    gpu = -1
    if queue >= state.settings[0].prefill_queues:
        if has_links(state):
            gpu = free_source(state, request)
    elif routes_on_arrival(state):
        gpu = queue // len(state.parameters)
        add_backlog(state, gpu, request, -1)
    _release(state, request)
    return gpu


@compiled_within
def _grant_credit(state: EngineState, time: float) -> None:
    """A credit timer fires: its class has the credit of one admission, whatever the rounding."""
    pair = state.clock[0].credit_pair
    accrue_credit(state, pair, time)
    state.control[pair].credit = max(1.0, state.control[pair].credit)


@compiled
def _decode_ends_first(state: EngineState, gpu: int) -> bool:
    record = state.gpus[gpu]
    if record.decodes == 0:
        return False
    return state.decode_marks[gpu * state.settings[0].heap_slots] <= record.prefill_mark


@compiled
def next_event_time(state: EngineState) -> float:
    """Seconds; inf if nothing can happen any more."""
    clock = state.clock[0]
    return min(
        next_completion_time(state),
        first_move_end(state),
        first_deadline(state),
        clock.credit_time,
        clock.next_arrival_time,
    )


@compiled
def handle_event(
    state: EngineState, workload: Workload, log: np.ndarray, time: float
) -> tuple[int, int]:
    """Process the event at ``time``; ties as in the head of this file.

    Returns:
        The GPU of the completion, or that a move has left, and the waiting entry whose patience
        may have to start, -1 for none; an abandonment after which nothing is dispatched has the
        GPU -2.
    """
    happened, gpu, entry = handle_inside(state, log, time)
    if happened:
        return gpu, entry
    state.clock[0].events += 1
    entry = _arrive(state, workload, log, state.clock[0].time)
    if routes_on_arrival(state) and entry >= 0:
        return state.waiting[entry].queue // len(state.parameters), entry
    return -1, entry


@compiled
def handle_inside(state: EngineState, log: np.ndarray, time: float) -> tuple[bool, int, int]:
    """Process the event at ``time`` unless it is an arrival.

    Returns:
        Whether it was none, and what :func:`handle_event` returns.
    """
    clock = state.clock[0]
    now = clock.time
    if time == next_completion_time(state):
        clock.events += 1
        gpu = next_gpu(state)
        entry = -1
        if _decode_ends_first(state, gpu):
            _finish_decode(state, log, gpu, now)
        else:
            entry = _finish_prefill(state, log, gpu, now)
        update_available(state, gpu)
        return True, gpu, entry
    if time == first_move_end(state):
        clock.events += 1
        return True, start_moved_decode(state, log, now), -1
    if time == first_deadline(state):
        clock.events += 1
        gpu = _abandon(state, log, now)
        if routes_on_arrival(state):
            return True, gpu, -1
        waits = state.queues[clock.credit_pair // len(state.groups)].head >= 0
        stale = clock.credit_time < np.inf and not waits
        return True, (-1 if stale or len(state.kv_reserved) > 0 else _NO_DISPATCH), -1
    if time == clock.credit_time:
        _grant_credit(state, now)
        return True, -1, -1
    return False, -1, -1


@compiled_within
def run_until(
    state: EngineState,
    workload: Workload,
    log: np.ndarray,
    controls: np.ndarray,
    set_controls_first: bool,
    until: float,
) -> int:
    """Process every event up to and including time ``until`` (seconds).

    Args:
        state: one cluster.
        workload: what arrives.
        log: where events are written; length 0 for no log.
        controls: see :func:`llm_sched_env.simulation.scheduling.control.set_controls`.
        set_controls_first: apply them now, before any event.
        until: seconds; ``inf`` runs until nothing can happen any more.

    Returns:
        FINISHED, or NEEDS_CAPACITY before an arrival for which no record may be free.
    """
    clock = state.clock[0]
    while True:
        gpu, entry = -1, -1
        if set_controls_first:
            set_controls_first = False
            set_controls(state, controls)
        else:
            time = next_event_time(state)
            if time > until or time == np.inf:
                break
            if clock.free_size == 0 and time == clock.next_arrival_time:
                return NEEDS_CAPACITY
            clock.time = max(clock.time, time)
            gpu, entry = handle_event(state, workload, log, time)
            if gpu == _NO_DISPATCH:
                continue
        dispatch(state, log, gpu, clock.time)
        reschedule_gpus(state)
        if entry >= 0 and state.waiting[entry].queue >= 0:
            start_patience(state, entry, clock.time)
    if until < np.inf:
        clock.time = max(clock.time, until)
    return FINISHED
