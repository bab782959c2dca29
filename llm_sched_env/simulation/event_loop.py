"""The event loop: the one place that fixes the order of events.

At equal times: completions (lower GPU index first; on one GPU decodes before its prefill, decodes
by arrival order), then abandonments, then credit timers, then arrivals. After each event but an
abandonment, which frees no slot, the dispatcher runs once. An event is an arrival, a completion
of a prefill or decode, or an abandonment; a credit timer is not counted as one.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.arrivals import fill_request, schedule_next_arrival
from llm_sched_env.simulation.availability import update_available
from llm_sched_env.simulation.compiled import compiled
from llm_sched_env.simulation.control import set_controls
from llm_sched_env.simulation.dispatch import choose_line, dispatch
from llm_sched_env.simulation.gates import accrue_credit
from llm_sched_env.simulation.gpu_clock import pop_decode, schedule_gpu, set_prefill
from llm_sched_env.simulation.layout import (
    ARRIVE,
    DECODE_END,
    E2E,
    LEAVE_DECODE,
    LEAVE_PREFILL,
    PREFILL_END,
    TPOT,
    TTFT,
    EngineState,
    RequestStream,
)
from llm_sched_env.simulation.statistics import count_latency, log_event
from llm_sched_env.simulation.waiting import join_queue, leave_queue, start_patience

FINISHED, NEEDS_CAPACITY = 0, 1
_NO_DISPATCH = -2


@compiled
def _release(state: EngineState, request: int) -> None:
    clock = state.clock[0]
    state.free_requests[clock.free_size] = request
    clock.free_size += 1


@compiled
def _arrive(state: EngineState, stream: RequestStream, log: np.ndarray, time: float) -> int:
    """The next request joins the queue of its class; returns its record."""
    clock = state.clock[0]
    clock.free_size -= 1
    request = state.free_requests[clock.free_size]
    fill_request(state, stream, request)
    clock.next_index += 1
    schedule_next_arrival(state, stream)
    record = state.requests[request]
    state.totals[record.request_class].arrived += 1
    log_event(state, log, time, ARRIVE, record.index, -1)
    join_queue(state, request, record.request_class, time)
    return request


@compiled
def _end_prefill(state: EngineState, log: np.ndarray, gpu: int, time: float) -> int:
    """A prefill ends and its request joins a decode line; returns its record."""
    request = state.gpus[gpu].prefill_request
    record = state.requests[request]
    i = record.request_class
    settings = state.settings[0]
    totals = state.totals[i]
    set_prefill(state, gpu, -1, np.inf, time)
    state.classes[i].x -= 1
    record.first_token_time = time
    billed = record.prompt_tokens if settings.bill_own_tokens else state.parameters[i].prompt_tokens
    totals.x_area += time
    totals.prefilled += 1
    totals.prompt_tokens += record.prompt_tokens
    totals.prefill_revenue += settings.prefill_price * billed
    totals.ttft_sum += time - record.arrival_time
    count_latency(state, TTFT, i, time - record.arrival_time)
    log_event(state, log, time, PREFILL_END, record.index, gpu)
    join_queue(state, request, len(state.classes) + choose_line(state, i), time)
    return request


@compiled
def _end_decode(state: EngineState, log: np.ndarray, gpu: int, time: float) -> None:
    """A request is complete and leaves."""
    request = pop_decode(state, gpu)
    record = state.requests[request]
    i = record.request_class
    settings = state.settings[0]
    totals = state.totals[i]
    state.class_decodes[gpu, i] -= 1
    if state.gpus[gpu].prefill_request >= 0:
        state.classes[i].y_mixed -= 1
        totals.y_mixed_area += time
    else:
        state.classes[i].y_solo -= 1
        totals.y_solo_area += time
    prompt, output = record.prompt_tokens, record.output_tokens
    if not settings.bill_own_tokens:
        prompt, output = state.parameters[i].prompt_tokens, state.parameters[i].output_tokens
    decode_bill = settings.decode_price * output
    totals.completed += 1
    totals.output_tokens += record.output_tokens
    totals.decode_revenue += decode_bill
    totals.bundled_revenue += settings.prefill_price * prompt + decode_bill
    e2e = time - record.arrival_time
    # A request of less than one token (exponential lengths) counts as one.
    tpot = (time - record.first_token_time) / max(1.0, record.output_tokens)
    totals.e2e_sum += e2e
    totals.tpot_sum += tpot
    count_latency(state, E2E, i, e2e)
    count_latency(state, TPOT, i, tpot)
    log_event(state, log, time, DECODE_END, record.index, gpu)
    _release(state, request)


@compiled
def _abandon(state: EngineState, log: np.ndarray, time: float) -> None:
    """The waiting request with the earliest deadline gives up."""
    request = state.patience_items[0]
    record = state.requests[request]
    if record.queue < len(state.classes):
        state.totals[record.request_class].abandoned_prefill += 1
        log_event(state, log, time, LEAVE_PREFILL, record.index, -1)
    else:
        state.totals[record.request_class].abandoned_decode += 1
        log_event(state, log, time, LEAVE_DECODE, record.index, -1)
    leave_queue(state, request, time)
    _release(state, request)


@compiled
def _grant_credit(state: EngineState, time: float) -> None:
    """A credit timer fires: its class has the credit of one admission, whatever the rounding."""
    i = state.clock[0].credit_class
    accrue_credit(state, i, time)
    state.control[i].credit = max(1.0, state.control[i].credit)


@compiled
def _decode_ends_first(state: EngineState, gpu: int) -> bool:
    record = state.gpus[gpu]
    if record.decodes == 0:
        return False
    return state.decode_marks[gpu * state.settings[0].batch_slots] <= record.prefill_mark


@compiled
def _next_time(state: EngineState) -> float:
    clock = state.clock[0]
    return min(
        state.gpu_keys[0], state.patience_keys[0], clock.credit_time, clock.next_arrival_time
    )


@compiled
def _handle(
    state: EngineState, stream: RequestStream, log: np.ndarray, time: float
) -> tuple[int, int]:
    """Process the event at ``time``; ties as in the head of this file.

    Returns:
        The GPU that must be re-keyed and the request that may have to wait, -1 for none; an
        abandonment, after which nothing is dispatched, has the GPU -2.
    """
    clock = state.clock[0]
    now = clock.time
    if time == state.gpu_keys[0]:
        clock.events += 1
        gpu = state.gpu_items[0]
        request = -1
        if _decode_ends_first(state, gpu):
            _end_decode(state, log, gpu, now)
        else:
            request = _end_prefill(state, log, gpu, now)
        update_available(state, gpu)
        return gpu, request
    if time == state.patience_keys[0]:
        clock.events += 1
        _abandon(state, log, now)
        return _NO_DISPATCH, -1
    if time == clock.credit_time:
        _grant_credit(state, now)
        return -1, -1
    clock.events += 1
    return -1, _arrive(state, stream, log, now)


@compiled
def run_until(
    state: EngineState,
    stream: RequestStream,
    log: np.ndarray,
    controls: np.ndarray,
    set_controls_first: bool,
    until: float,
) -> int:
    """Process every event up to and including time ``until`` (seconds).

    Args:
        state: one cluster.
        stream: recorded requests, or empty.
        log: where events are written; length 0 for no log.
        controls: see :func:`llm_sched_env.simulation.control.set_controls`.
        set_controls_first: apply them now, before any event.
        until: seconds; ``inf`` runs until nothing can happen any more.

    Returns:
        FINISHED, or NEEDS_CAPACITY before an arrival for which no record may be free.
    """
    clock = state.clock[0]
    while True:
        gpu, request = -1, -1
        if set_controls_first:
            set_controls_first = False
            set_controls(state, controls)
        else:
            time = _next_time(state)
            if time > until or time == np.inf:
                break
            if clock.free_size == 0 and time == clock.next_arrival_time:
                return NEEDS_CAPACITY
            clock.time = max(clock.time, time)
            gpu, request = _handle(state, stream, log, time)
            if gpu == _NO_DISPATCH:
                continue
        dispatch(state, log, gpu, clock.time)
        if gpu >= 0:
            schedule_gpu(state, gpu)
        if request >= 0 and state.requests[request].queue >= 0:
            start_patience(state, request, clock.time)
    if until < np.inf:
        clock.time = max(clock.time, until)
    return FINISHED
