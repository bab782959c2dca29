"""Start a run: empty, or near the fluid plan."""

from __future__ import annotations

import math

import numpy as np

from llm_sched_env.simulation.events.arrivals import schedule_next_arrival, start_modulation
from llm_sched_env.simulation.events.lengths import draw_length
from llm_sched_env.simulation.events.random_streams import INITIAL, uniform
from llm_sched_env.simulation.events.waiting import join_queue, start_patience
from llm_sched_env.simulation.gpu.virtual_clock import reschedule_gpus, set_speed
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart, compiled_within
from llm_sched_env.simulation.scheduling.availability import random_in_group, update_available
from llm_sched_env.simulation.scheduling.control import fill_credit, set_controls
from llm_sched_env.simulation.scheduling.dispatch import start_decode, start_prefill
from llm_sched_env.simulation.scheduling.on_arrival import (
    expect_whole_prefill,
    join_prefill_queue,
    routes_on_arrival,
)
from llm_sched_env.simulation.scheduling.rules import COUPLED_ROUTER
from llm_sched_env.simulation.state.layout import (
    MIXED_DECODE,
    PREFILL,
    SOLO_DECODE,
    EngineState,
    Workload,
)

# Requests present at the start are older than all others, in order of creation.
_INITIAL_INDICES = 2**40


@compiled
def start_empty(state: EngineState, workload: Workload, controls: np.ndarray) -> None:
    """Make a freshly allocated state ready to run: an idle cluster with full credit."""
    set_controls(state, controls)
    for gpu in range(len(state.gpus)):
        set_speed(state, gpu)
        update_available(state, gpu)
    fill_credit(state)
    start_modulation(state, workload)
    schedule_next_arrival(state, workload)


@compiled_apart
def _initial_request(state: EngineState, workload: Workload, i: int) -> int:
    """A request of class i that is present at time 0.

    Its remaining lengths are drawn from the class's distributions: exact for exponential ones.
    """
    clock = state.clock[0]
    clock.free_size -= 1
    request = state.free_requests[clock.free_size]
    k = clock.initial_requests
    clock.initial_requests += 1
    record = state.requests[request]
    record.index = k - _INITIAL_INDICES
    record.request_class = i
    record.arrival_time = 0.0
    record.first_token_time = 0.0
    record.patience_seconds = -1.0
    record.prefill_gpu = -1
    key, values = state.keys[INITIAL], workload.length_values
    record.prompt_tokens = draw_length(workload.lengths[0], values, i, key, 2 * k)
    record.output_tokens = draw_length(workload.lengths[1], values, i, key, 2 * k + 1)
    state.totals[i * len(state.groups)].initial += 1
    return request


@compiled
def _discard(state: EngineState, request: int) -> None:
    """Forget an initial request for which there is no room."""
    clock = state.clock[0]
    state.totals[state.requests[request].request_class * len(state.groups)].initial -= 1
    state.free_requests[clock.free_size] = request
    clock.free_size += 1


@compiled
def _rounded(state: EngineState, expected: float, draw_number: int) -> int:
    """A random integer with the given mean, one of its two neighbours."""
    draw = uniform(state.keys[INITIAL], -1 - draw_number)
    return math.floor(expected + draw)


@compiled_apart
def _place_initial(
    state: EngineState, workload: Workload, log: np.ndarray, pair: int, which: int
) -> None:
    """Create a request of a pair in service on a GPU of a set, if one has room."""
    g = pair % len(state.groups)
    if state.group_available_sizes[g, which] == 0:
        return
    request = _initial_request(state, workload, pair // len(state.groups))
    record = state.requests[request]
    tokens = record.prompt_tokens + record.output_tokens
    gpu = random_in_group(state, which, g, tokens)
    if gpu < 0 and which == SOLO_DECODE:
        gpu = random_in_group(state, MIXED_DECODE, g, tokens)
    if gpu < 0:
        _discard(state, request)
        return
    if which == PREFILL:
        if routes_on_arrival(state):
            expect_whole_prefill(state, gpu, request)
        start_prefill(state, log, gpu, request, 0.0)
    else:
        start_decode(state, log, gpu, request, 0.0)
    reschedule_gpus(state)


@compiled_apart
def _queue_initial(state: EngineState, workload: Workload, i: int, line: int) -> None:
    """Create a request of class i that waits in a decode line or, -1, for its prefill."""
    request = _initial_request(state, workload, i)
    record = state.requests[request]
    if record.prompt_tokens + record.output_tokens > state.settings[0].kv_tokens:
        _discard(state, request)
        return
    if line < 0:
        entry = join_prefill_queue(state, request, 0.0)
    else:
        entry = join_queue(state, request, line, 0.0)
    start_patience(state, entry, 0.0)


@compiled_within
def fill_to_plan(
    state: EngineState, workload: Workload, log: np.ndarray, occupancy: np.ndarray
) -> None:
    """Place requests as the fluid plan has them on average; ``occupancy`` is (5, P) by pair.

    Rows are the per-GPU q_prefill, x, q_decode, y_mixed, y_solo. Prefills and decodes for which
    no slot, or no room for KV tokens, is left are not created; decodes take solo slots first. The
    plan's waiting prefilled requests join the first decode line, or that of their class, or none
    under a coupled router, which has no line. The caller provides enough request records.
    """
    coupled = state.settings[0].router == COUPLED_ROUTER or routes_on_arrival(state)
    n = len(state.gpus)
    n_groups = len(state.groups)
    for pair in range(len(state.classes)):
        i = pair // n_groups
        sizes = state.group_available_sizes[pair % n_groups]
        for _ in range(_rounded(state, n * occupancy[1, pair], 4 * pair)):
            _place_initial(state, workload, log, pair, PREFILL)
        decodes = occupancy[3, pair] + occupancy[4, pair]
        for _ in range(_rounded(state, n * decodes, 4 * pair + 1)):
            which = SOLO_DECODE if sizes[SOLO_DECODE] > 0 else MIXED_DECODE
            _place_initial(state, workload, log, pair, which)
        waiting = _rounded(state, n * occupancy[0, pair], 4 * pair + 2)
        prefilled = 0 if coupled else _rounded(state, n * occupancy[2, pair], 4 * pair + 3)
        line = state.settings[0].prefill_queues + (i if state.settings[0].class_lines else 0)
        for k in range(waiting + prefilled):
            _queue_initial(state, workload, i, -1 if k < waiting else line)
