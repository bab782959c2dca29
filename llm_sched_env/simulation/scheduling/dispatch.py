"""Dispatch: admit waiting requests to prefill and place finished prefills, until nothing fits.

Decode-first rules place waiting decodes, then admit; ``prefill_first`` admits, then places.
Under weighted routing a pool's free slot picks the class by lot (class_lines.py). ``event_gpu`` is
the GPU whose completion is being handled (-1: none): a coupled decode stays on it.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.caches.prefix_reuse import (
    begin_decode_reuse,
    end_decode_reuse,
    end_reuse,
    keeps_blocks,
)
from llm_sched_env.simulation.caches.signals import change_service, keep_signals, shows_signals
from llm_sched_env.simulation.events.random_streams import ROUTING, uniform
from llm_sched_env.simulation.events.statistics import log_event
from llm_sched_env.simulation.events.waiting import leave_queue
from llm_sched_env.simulation.gpu.virtual_clock import (
    begin_decode,
    begin_prefill,
    finish_decode,
    finish_prefill,
)
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart, compiled_within
from llm_sched_env.simulation.scheduling.availability import (
    gpu_for_decode,
    random_available,
    random_in_group,
    reserve_tokens,
    update_available,
)
from llm_sched_env.simulation.scheduling.class_lines import (
    choose_line_by_bid,
    choose_line_by_weight,
    class_line,
    decodes_less,
)
from llm_sched_env.simulation.scheduling.corrected_dispatch import (
    choose_corrected_class,
    choose_corrected_line,
    correct_ranks,
    corrected_gpu_for_decode,
    goes_before_decodes,
)
from llm_sched_env.simulation.scheduling.gates import choose_class, spend_credit
from llm_sched_env.simulation.scheduling.links import begin_move, end_move, has_links
from llm_sched_env.simulation.scheduling.on_arrival import (
    add_backlog,
    next_in_queue,
    routes_on_arrival,
)
from llm_sched_env.simulation.scheduling.rules import (
    BID_PRICE_ROUTER,
    CORRECTED_BID_PRICE_ROUTER,
    COUPLED_ROUTER,
    PREFILL_AWARE_ROUTER,
    RANDOMIZED_ROUTER,
    SOLO_FIRST_ROUTER,
    WEIGHTED_RANDOMIZED_ROUTER,
)
from llm_sched_env.simulation.state.layout import (
    DECODE_START,
    MIXED_DECODE,
    MIXED_LINE,
    N_DECODE_POOLS,
    PREFILL,
    PREFILL_START,
    SOLO_DECODE,
    SOLO_LINE,
    EngineState,
)


@compiled
def prefill_tokens(state: EngineState, request: int, gpu: int) -> float:
    """KV tokens a prefill reserves: its prompt and, if its decode stays there, its output.

    The GPU matters only where requests wait at GPUs.
    """
    record = state.requests[request]
    stays = state.settings[0].router == COUPLED_ROUTER
    if routes_on_arrival(state):
        stays = state.groups[state.gpus[gpu].group].decodes != 0
    return record.prompt_tokens + (record.output_tokens if stays else 0.0)


@compiled
def pair_of(state: EngineState, i: int, gpu: int) -> int:
    """The pair of a class and the group of a GPU."""
    return i * len(state.groups) + state.gpus[gpu].group


@compiled
def start_prefill(state: EngineState, log: np.ndarray, gpu: int, request: int, time: float) -> None:
    """Put a request into the prefill slot of a GPU, which turns mixed."""
    record = state.requests[request]
    pair = pair_of(state, record.request_class, gpu)
    if shows_signals(state):
        change_service(state, gpu, record.prompt_tokens, time)
    begin_prefill(state, gpu, request, time)
    reserve_tokens(state, gpu, prefill_tokens(state, request, gpu))
    state.classes[pair].x += 1
    state.totals[pair].x_area -= time
    state.totals[pair].admitted += 1
    update_available(state, gpu)
    log_event(state, log, time, PREFILL_START, record.index, gpu)


@compiled
def end_prefill(state: EngineState, gpu: int, time: float) -> int:
    """Take the prefill of a GPU out of its slot and return its request."""
    request = state.gpus[gpu].prefill_request
    pair = pair_of(state, state.requests[request].request_class, gpu)
    if keeps_blocks(state):
        if shows_signals(state):
            change_service(state, gpu, -state.requests[request].prompt_tokens, time)
        end_reuse(state, gpu, request, time)
    finish_prefill(state, gpu, time)
    if routes_on_arrival(state):
        add_backlog(state, gpu, request, -1)
    if has_links(state):
        state.links[gpu].held += 1
        state.requests[request].prefill_gpu = gpu
    else:
        reserve_tokens(state, gpu, -prefill_tokens(state, request, gpu))
    state.classes[pair].x -= 1
    state.totals[pair].x_area += time
    return request


@compiled_apart
def free_source(state: EngineState, request: int) -> int:
    """A KV cache leaves the GPU of its prefill, which is returned; -1: it was on none."""
    gpu = state.requests[request].prefill_gpu
    if gpu >= 0:
        state.links[gpu].held -= 1
        reserve_tokens(state, gpu, -prefill_tokens(state, request, gpu))
    return gpu


@compiled
def start_decode(state: EngineState, log: np.ndarray, gpu: int, request: int, time: float) -> None:
    """Put a request into a decode slot of a GPU, where moves take time after its move there."""
    record = state.requests[request]
    if has_links(state) and record.prefill_gpu >= 0:
        if record.prefill_gpu != gpu:
            begin_move(state, log, gpu, request, time)
            return
        free_source(state, request)
    _run_decode(state, log, gpu, request, time)
    reserve_tokens(state, gpu, record.prompt_tokens + record.output_tokens)
    update_available(state, gpu)


@compiled
def _run_decode(state: EngineState, log: np.ndarray, gpu: int, request: int, time: float) -> None:
    """A decode starts in its slot."""
    if keeps_blocks(state):
        if shows_signals(state):
            change_service(state, gpu, state.requests[request].prompt_tokens, time)
        begin_decode_reuse(state, gpu, request, time)
    begin_decode(state, gpu, request, time)
    log_event(state, log, time, DECODE_START, state.requests[request].index, gpu)


@compiled_apart
def start_moved_decode(state: EngineState, log: np.ndarray, time: float) -> int:
    """The first move to end does so and its decode starts; returns the GPU that it has left."""
    request, gpu = end_move(state, log, time)
    source = free_source(state, request)
    _run_decode(state, log, gpu, request, time)
    return source


@compiled
def end_decode(state: EngineState, gpu: int, time: float) -> int:
    """Take the first decode to end off a GPU and return its request."""
    if shows_signals(state):
        keep_signals(state, gpu, time)
    request = finish_decode(state, gpu, time)
    record = state.requests[request]
    if keeps_blocks(state):
        if shows_signals(state):
            change_service(state, gpu, -record.prompt_tokens, time)
        end_decode_reuse(state, gpu, request, time)
    reserve_tokens(state, gpu, -(record.prompt_tokens + record.output_tokens))
    return request


@compiled
def choose_line(state: EngineState, i: int) -> int:
    """The decode line a finished prefill of class i joins; the routing probability decides."""
    settings = state.settings[0]
    line = SOLO_LINE
    if settings.router in (RANDOMIZED_ROUTER, WEIGHTED_RANDOMIZED_ROUTER):
        clock = state.clock[0]
        draw = uniform(state.keys[ROUTING], clock.routing_draws)
        clock.routing_draws += 1
        line = SOLO_LINE if draw < state.control[i * len(state.groups)].routing else MIXED_LINE
    return class_line(state, line, i) if settings.class_lines else line


@compiled_apart
def _gpu_leaving_room(state: EngineState, g: int, request: int, tokens: float, time: float) -> int:
    """A GPU of a group for a decode: a mixed one first while somebody could be admitted.

    So GPUs without a prefill stay free for one. If mixed iterations are the faster, always mixed.
    Where moves take time the request stays on the GPU of its prefill, if it can.
    """
    if has_links(state):
        own = state.requests[request].prefill_gpu
        free = (1 << SOLO_DECODE) | (1 << MIXED_DECODE)
        if own >= 0 and state.gpus[own].group == g and state.gpus[own].membership & free:
            return own
    group = state.groups[g]
    mixed_first = group.typical_mixed_seconds <= group.typical_solo_seconds
    if not mixed_first and state.clock[0].waiting_prefills > 0:
        i, _ = choose_class(state, time, anywhere=True)
        mixed_first = i >= 0
    gpu = random_in_group(state, MIXED_DECODE if mixed_first else SOLO_DECODE, g, tokens)
    if gpu < 0:
        gpu = random_in_group(state, SOLO_DECODE if mixed_first else MIXED_DECODE, g, tokens)
    return gpu


@compiled
def _group_for_decode(state: EngineState, i: int, which: int) -> int:
    """Of the groups with a GPU in a set, the one with the fewest of its planned decodes, or -1."""
    best = -1
    for g in range(len(state.groups)):
        if state.group_available_sizes[g, which] > 0 and (
            best < 0 or decodes_less(state, i, g, best)
        ):
            best = g
    return best


@compiled
def _gpu_by_plan(state: EngineState, which: int, request: int, tokens: float) -> int:
    """A GPU of a set for the decode of a request, or -1."""
    if len(state.groups) == 1:
        return gpu_for_decode(state, which, 0, request, tokens)
    g = _group_for_decode(state, state.requests[request].request_class, which)
    return gpu_for_decode(state, which, g, request, tokens) if g >= 0 else -1


@compiled
def _gpu_for_line(state: EngineState, line: int, event_gpu: int, request: int, time: float) -> int:
    """A GPU with a decode slot, and room for the tokens, for the head of a line, or -1."""
    router = state.settings[0].router
    record = state.requests[request]
    tokens = record.prompt_tokens + record.output_tokens
    i = record.request_class
    if router == PREFILL_AWARE_ROUTER:
        g = 0
        if len(state.groups) > 1:
            g = _group_for_decode(state, i, SOLO_DECODE)
            if g < 0:
                g = _group_for_decode(state, i, MIXED_DECODE)
            if g < 0:
                return -1
        return _gpu_leaving_room(state, g, request, tokens, time)
    if router == COUPLED_ROUTER:
        return event_gpu
    which = SOLO_DECODE
    if router == RANDOMIZED_ROUTER and line == MIXED_LINE:
        which = MIXED_DECODE
    gpu = _gpu_by_plan(state, which, request, tokens)
    if gpu < 0 and router == SOLO_FIRST_ROUTER:
        gpu = _gpu_by_plan(state, MIXED_DECODE, request, tokens)
    return gpu


@compiled_apart
def _place_by_weight(state: EngineState, log: np.ndarray, time: float) -> None:
    for pool in range(N_DECODE_POOLS):
        which = MIXED_DECODE if pool == MIXED_LINE else SOLO_DECODE
        while True:
            line = choose_line_by_weight(state, pool)
            if line < 0:
                break
            entry = state.queues[len(state.parameters) + line].head
            record = state.requests[state.waiting[entry].request]
            gpu = random_available(state, which, record.prompt_tokens + record.output_tokens)
            start_decode(state, log, gpu, leave_queue(state, entry, time), time)


@compiled_within
def _place_decodes(state: EngineState, log: np.ndarray, event_gpu: int, time: float) -> None:
    if state.clock[0].waiting_decodes == 0:
        return
    for line in range(N_DECODE_POOLS):
        queue = len(state.parameters) + line
        while state.queues[queue].head >= 0:
            entry = state.queues[queue].head
            gpu = _gpu_for_line(state, line, event_gpu, state.waiting[entry].request, time)
            if gpu < 0:
                break
            start_decode(state, log, gpu, leave_queue(state, entry, time), time)


@compiled
def _admit_head(state: EngineState, log: np.ndarray, i: int, g: int, time: float) -> bool:
    """Start the prefill of the head of class i in a group, -1 any; False if no GPU has room."""
    entry = state.queues[i].head
    tokens = prefill_tokens(state, state.waiting[entry].request, -1)
    if g < 0:
        gpu = random_available(state, PREFILL, tokens)
    else:
        gpu = random_in_group(state, PREFILL, g, tokens)
    if gpu < 0:
        return False
    spend_credit(state, pair_of(state, i, gpu), time)
    start_prefill(state, log, gpu, leave_queue(state, entry, time), time)
    return True


@compiled
def _admit(state: EngineState, log: np.ndarray, time: float) -> None:
    while state.clock[0].waiting_prefills > 0 and state.available_sizes[PREFILL] > 0:
        i, g = choose_class(state, time, anywhere=False)
        if i < 0 or not _admit_head(state, log, i, g, time):
            return
    state.clock[0].credit_time = np.inf


@compiled_apart
def _dispatch_by_weight(state: EngineState, log: np.ndarray, time: float) -> None:
    """The same for weighted routing, apart so that the other rules do not pay for it."""
    if state.settings[0].prefill_first == 0:
        _place_by_weight(state, log, time)
    _admit(state, log, time)
    _place_by_weight(state, log, time)


@compiled_within
def _decode_head(state: EngineState, log: np.ndarray, line: int, g: int, time: float) -> bool:
    """Start the decode of the head of a line on the GPU that leaves room for prefills, if any."""
    entry = state.queues[len(state.parameters) + line].head
    request = state.waiting[entry].request
    record = state.requests[request]
    gpu = _gpu_leaving_room(state, g, request, record.prompt_tokens + record.output_tokens, time)
    if gpu < 0:
        return False
    start_decode(state, log, gpu, leave_queue(state, entry, time), time)
    return True


@compiled_apart
def _serve_by_bid(state: EngineState, log: np.ndarray, time: float) -> None:
    """Admit and place by rank, until neither a prefill nor a decode can start.

    Decodes go first, but for classes whose prefill alone is worth more (precedes_decodes).
    """
    sizes = state.available_sizes
    prefills_fit, decodes_fit = True, True  # until a head finds no room for its KV tokens
    while True:
        i, line, g, h = -1, -1, 0, 0
        if prefills_fit and state.clock[0].waiting_prefills > 0 and sizes[PREFILL] > 0:
            i, g = choose_class(state, time, anywhere=False)
        has_slot = sizes[SOLO_DECODE] > 0 or sizes[MIXED_DECODE] > 0
        if decodes_fit and state.clock[0].waiting_decodes > 0 and has_slot:
            line, h = choose_line_by_bid(state)
        if i >= 0 and (line < 0 or state.control[i * len(state.groups) + g].precedes_decodes != 0):
            prefills_fit = _admit_head(state, log, i, g, time)
        elif line >= 0:
            decodes_fit = _decode_head(state, log, line, h, time)
        else:
            return


@compiled_apart
def _serve_by_corrected_bid(state: EngineState, log: np.ndarray, time: float) -> None:
    """The same with ranks that are corrected anew before each start."""
    sizes, clock = state.available_sizes, state.clock[0]
    prefills_fit, decodes_fit = True, True
    while True:
        can_admit = prefills_fit and clock.waiting_prefills > 0 and sizes[PREFILL] > 0
        has_slot = sizes[SOLO_DECODE] > 0 or sizes[MIXED_DECODE] > 0
        can_place = decodes_fit and clock.waiting_decodes > 0 and has_slot
        if not (can_admit or can_place):
            return
        free = correct_ranks(state, time)
        i = choose_corrected_class(state, free)
        line = choose_corrected_line(state, free) if can_place else -1
        if can_admit and i >= 0 and (line < 0 or goes_before_decodes(state, i)):
            prefills_fit = _admit_head(state, log, i, 0, time)
        elif line >= 0:
            entry = state.queues[len(state.parameters) + line].head
            record = state.requests[state.waiting[entry].request]
            tokens = record.prompt_tokens + record.output_tokens
            gpu = corrected_gpu_for_decode(state, line, tokens, i >= 0)
            decodes_fit = gpu >= 0
            if decodes_fit:
                start_decode(state, log, gpu, leave_queue(state, entry, time), time)
        else:
            return


@compiled_within
def _admit_at(state: EngineState, log: np.ndarray, gpu: int, time: float) -> None:
    """Start the prefill that a GPU's own scheduler takes next, if it can start one."""
    if (state.gpus[gpu].membership >> PREFILL) & 1 == 0:
        return
    entry = next_in_queue(state, gpu)
    if entry < 0:
        return
    tokens = prefill_tokens(state, state.waiting[entry].request, gpu)
    full = len(state.kv_reserved) > 0
    if full and state.kv_reserved[gpu] > state.settings[0].kv_tokens - tokens:
        return
    if shows_signals(state):
        keep_signals(state, gpu, time)
    start_prefill(state, log, gpu, leave_queue(state, entry, time), time)


@compiled
def _gpu_that_decodes(state: EngineState, tokens: float) -> int:
    """A random GPU with a free slot among those that only decode, or -1."""
    for g in range(len(state.groups)):
        if state.groups[g].prefills == 0:
            gpu = random_in_group(state, SOLO_DECODE, g, tokens)
            if gpu >= 0:
                return gpu
    return -1


@compiled_within
def _decode_where_prefilled(
    state: EngineState, log: np.ndarray, event_gpu: int, time: float
) -> None:
    """If a prefill has just ended on a GPU that decodes, its decode starts there."""
    entry = state.queues[state.settings[0].prefill_queues].tail
    if event_gpu < 0 or entry < 0 or state.groups[state.gpus[event_gpu].group].decodes == 0:
        return
    if state.requests[state.waiting[entry].request].prefilled_event == state.clock[0].events:
        start_decode(state, log, event_gpu, leave_queue(state, entry, time), time)


@compiled_apart
def serve_at_gpu(state: EngineState, log: np.ndarray, event_gpu: int, time: float) -> None:
    """What follows an event at a GPU (-1: at none) where requests wait at GPUs."""
    line = state.settings[0].prefill_queues
    _decode_where_prefilled(state, log, event_gpu, time)
    while state.queues[line].head >= 0:
        entry = state.queues[line].head
        record = state.requests[state.waiting[entry].request]
        gpu = _gpu_that_decodes(state, record.prompt_tokens + record.output_tokens)
        if gpu < 0:
            break
        start_decode(state, log, gpu, leave_queue(state, entry, time), time)
    if event_gpu >= 0:
        _admit_at(state, log, event_gpu, time)


@compiled_within
def dispatch(state: EngineState, log: np.ndarray, event_gpu: int, time: float) -> None:
    """Use every free slot that the rule allows to use now."""
    settings = state.settings[0]
    if routes_on_arrival(state):
        serve_at_gpu(state, log, event_gpu, time)
        return
    if settings.router == BID_PRICE_ROUTER:
        _serve_by_bid(state, log, time)
        return
    if settings.router == CORRECTED_BID_PRICE_ROUTER:
        _serve_by_corrected_bid(state, log, time)
        return
    if settings.router == WEIGHTED_RANDOMIZED_ROUTER:
        _dispatch_by_weight(state, log, time)
        return
    # Prefill-first admits before it places. Under randomized routing with dynamic pools an
    # admission turns a GPU mixed, which may open the mixed line's door: it places twice.
    places = settings.prefill_first == 0
    admits = True
    while places or admits:
        if places:
            _place_decodes(state, log, event_gpu, time)
            places = False
        if admits:
            _admit(state, log, time)
            admits = False
            places = settings.prefill_first == 1 or settings.router == RANDOMIZED_ROUTER
