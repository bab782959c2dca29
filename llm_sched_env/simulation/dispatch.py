"""Dispatch: admit waiting requests to prefill and place finished prefills, until nothing fits.

Decode-first rules place waiting decodes, then admit; ``prefill_first`` admits, then places.
``event_gpu`` is the GPU whose completion is being handled (-1: none): the event loop re-keys it
once at the end, and a coupled decode stays on it.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.availability import random_available, update_available
from llm_sched_env.simulation.compiled import compiled
from llm_sched_env.simulation.gates import choose_class, spend_credit
from llm_sched_env.simulation.gpu_clock import (
    iterations_now,
    push_decode,
    schedule_gpu,
    set_prefill,
)
from llm_sched_env.simulation.layout import (
    DECODE_START,
    MIXED_DECODE,
    MIXED_LINE,
    N_DECODE_LINES,
    PREFILL,
    PREFILL_START,
    SOLO_DECODE,
    SOLO_LINE,
    EngineState,
)
from llm_sched_env.simulation.random_streams import ROUTING, uniform
from llm_sched_env.simulation.rules import COUPLED_ROUTER, RANDOMIZED_ROUTER
from llm_sched_env.simulation.statistics import log_event
from llm_sched_env.simulation.waiting import leave_queue


@compiled
def start_prefill(state: EngineState, log: np.ndarray, gpu: int, request: int, time: float) -> None:
    """Put a request into the prefill slot of a GPU, which turns mixed; the caller re-keys it."""
    record = state.requests[request]
    i = record.request_class
    iterations = record.prompt_tokens / state.settings[0].chunk_tokens
    set_prefill(state, gpu, request, iterations_now(state, gpu, time) + iterations, time)
    state.classes[i].x += 1
    state.totals[i].x_area -= time
    state.totals[i].admitted += 1
    update_available(state, gpu)
    log_event(state, log, time, PREFILL_START, record.index, gpu)


@compiled
def start_decode(state: EngineState, log: np.ndarray, gpu: int, request: int, time: float) -> bool:
    """Put a request into a decode slot; True if it ends first there, so that the GPU re-keys."""
    record = state.requests[request]
    i = record.request_class
    mark = iterations_now(state, gpu, time) + record.output_tokens
    first = push_decode(state, gpu, request, mark)
    state.class_decodes[gpu, i] += 1
    if state.gpus[gpu].prefill_request >= 0:
        state.classes[i].y_mixed += 1
        state.totals[i].y_mixed_area -= time
    else:
        state.classes[i].y_solo += 1
        state.totals[i].y_solo_area -= time
    update_available(state, gpu)
    log_event(state, log, time, DECODE_START, record.index, gpu)
    return first


@compiled
def choose_line(state: EngineState, i: int) -> int:
    """The decode line a finished prefill of class i joins; the routing probability decides."""
    if state.settings[0].router != RANDOMIZED_ROUTER:
        return SOLO_LINE
    clock = state.clock[0]
    draw = uniform(state.keys[ROUTING], clock.routing_draws)
    clock.routing_draws += 1
    return SOLO_LINE if draw < state.control[i].solo_probability else MIXED_LINE


@compiled
def _gpu_for_line(state: EngineState, line: int, event_gpu: int) -> int:
    """A GPU with a decode slot for the head of a line, or -1."""
    router = state.settings[0].router
    if router == COUPLED_ROUTER:
        return event_gpu
    which = SOLO_DECODE
    if router == RANDOMIZED_ROUTER:
        which = SOLO_DECODE if line == SOLO_LINE else MIXED_DECODE
    elif state.available_sizes[SOLO_DECODE] == 0:
        which = MIXED_DECODE
    if state.available_sizes[which] == 0:
        return -1
    return random_available(state, which)


@compiled
def _place_decodes(state: EngineState, log: np.ndarray, event_gpu: int, time: float) -> None:
    if state.clock[0].waiting_decodes == 0:
        return
    for line in range(N_DECODE_LINES):
        queue = len(state.classes) + line
        while state.queues[queue].head >= 0:
            gpu = _gpu_for_line(state, line, event_gpu)
            if gpu < 0:
                break
            request = state.queues[queue].head
            leave_queue(state, request, time)
            first = start_decode(state, log, gpu, request, time)
            if first and gpu != event_gpu:
                schedule_gpu(state, gpu)


@compiled
def _admit(state: EngineState, log: np.ndarray, event_gpu: int, time: float) -> None:
    while state.clock[0].waiting_prefills > 0 and state.available_sizes[PREFILL] > 0:
        i = choose_class(state, time)
        if i < 0:
            return
        spend_credit(state, i, time)
        request = state.queues[i].head
        leave_queue(state, request, time)
        gpu = random_available(state, PREFILL)
        start_prefill(state, log, gpu, request, time)
        if gpu != event_gpu:
            schedule_gpu(state, gpu)
    state.clock[0].credit_time = np.inf


@compiled
def dispatch(state: EngineState, log: np.ndarray, event_gpu: int, time: float) -> None:
    """Use every free slot that the rule allows to use now."""
    settings = state.settings[0]
    # Prefill-first admits before it places. Under randomized routing with dynamic pools an
    # admission turns a GPU mixed, which may open the mixed line's door: it places twice.
    places = settings.prefill_first == 0
    admits = True
    while places or admits:
        if places:
            _place_decodes(state, log, event_gpu, time)
            places = False
        if admits:
            _admit(state, log, event_gpu, time)
            admits = False
            places = settings.prefill_first == 1 or settings.router == RANDOMIZED_ROUTER
