"""A GPU's virtual clock: virtual finish times are fixed, only the clock's speed changes.

The clock counts iterations. A decode of D tokens that starts at clock value V has virtual finish
time V + D (a *mark* in the code), a prefill of P prompt tokens V + P/C, however the speed changes.
The speed depends on whether a prefill runs and, under the affine law (1), on the number of decodes.
Under the KV-aware law and with boundary starts the clock is that of quadratic_clock.py.
"""

from __future__ import annotations

import math

import numpy as np

from llm_sched_env.simulation.caches.prefix_reuse import begin_reuse, keeps_blocks
from llm_sched_env.simulation.events.completion_tree import set_completion_time
from llm_sched_env.simulation.gpu.iteration_seconds import seconds_by_requests
from llm_sched_env.simulation.gpu.quadratic_clock import (
    change_load,
    decode_iterations,
    load_prefill,
    seconds_to,
    set_load_speed,
    synchronize,
)
from llm_sched_env.simulation.runtime.compiled import compiled
from llm_sched_env.simulation.state.layout import AFFINE, EngineState


@compiled
def iterations_now(state: EngineState, gpu: int, time: float) -> float:
    """The GPU's clock at ``time``."""
    record = state.gpus[gpu]
    return record.iterations + (time - record.updated_time) * record.iteration_rate


@compiled
def prefill_iterations(state: EngineState, gpu: int, prompt_tokens: float) -> float:
    """Iterations of a prefill: P / C, rounded up if chunks are whole."""
    group = state.groups[state.gpus[gpu].group]
    iterations = prompt_tokens / group.chunk_tokens
    return math.ceil(iterations) if group.whole_chunks else iterations


@compiled
def set_speed(state: EngineState, gpu: int) -> None:
    """The speed of what is on the GPU now."""
    if state.settings[0].quadratic_clock:
        set_load_speed(state, gpu)
        return
    record = state.gpus[gpu]
    seconds = seconds_by_requests(state, gpu)
    record.iteration_seconds = seconds
    record.iteration_rate = 1.0 / seconds


@compiled
def rebase(state: EngineState, gpu: int, time: float) -> None:
    """Count the iterations so far, before the speed changes."""
    record = state.gpus[gpu]
    record.iterations = iterations_now(state, gpu, time)
    record.updated_time = time


@compiled
def reschedule(state: EngineState, gpu: int) -> None:
    """Note that a GPU's marks or speed have changed; the event loop re-keys it once, at the end."""
    record = state.gpus[gpu]
    if record.is_rescheduled:
        return
    record.is_rescheduled = 1
    clock = state.clock[0]
    state.rescheduled[clock.rescheduled_size] = gpu
    clock.rescheduled_size += 1


@compiled
def reschedule_gpus(state: EngineState) -> None:
    """Set the next completion of every GPU that was noted."""
    clock = state.clock[0]
    for k in range(clock.rescheduled_size):
        gpu = state.rescheduled[k]
        record = state.gpus[gpu]
        record.is_rescheduled = 0
        mark = record.prefill_mark
        if record.decodes > 0:
            mark = min(mark, state.decode_marks[gpu * state.settings[0].heap_slots])
        time = np.inf
        if mark < np.inf:
            if state.settings[0].quadratic_clock:
                time = record.updated_time + seconds_to(state, gpu, mark)
            else:
                remaining = max(0.0, mark - record.iterations)
                time = record.updated_time + remaining * record.iteration_seconds
        set_completion_time(state, gpu, time)
    clock.rescheduled_size = 0


@compiled
def begin_prefill(state: EngineState, gpu: int, request: int, time: float) -> None:
    """A prefill starts: its virtual finish time is set and the decodes there change speed."""
    record = state.gpus[gpu]
    prompt_tokens, cached_tokens = state.requests[request].prompt_tokens, 0.0
    if keeps_blocks(state):
        cached_tokens = begin_reuse(state, gpu, request, time)
        prompt_tokens -= cached_tokens
    if state.settings[0].quadratic_clock:
        synchronize(state, gpu, time)
        load_prefill(state, gpu, prompt_tokens, cached_tokens)
    else:
        rebase(state, gpu, time)
    record.prefill_request = request
    record.prefill_mark = record.iterations + prefill_iterations(state, gpu, prompt_tokens)
    _change_mode(state, gpu, 1, time)


@compiled
def finish_prefill(state: EngineState, gpu: int, time: float) -> None:
    """The prefill of a GPU ends: the decodes there change speed."""
    record = state.gpus[gpu]
    if state.settings[0].quadratic_clock:
        synchronize(state, gpu, time)
        state.loads[gpu].last_chunk_mark = np.inf
    else:
        rebase(state, gpu, time)
    record.prefill_request = -1
    record.prefill_mark = np.inf
    _change_mode(state, gpu, -1, time)


@compiled
def _change_mode(state: EngineState, gpu: int, to_mixed: int, time: float) -> None:
    """The GPU's decodes are mixed ones (1) or solo ones (-1) from now on."""
    set_speed(state, gpu)
    reschedule(state, gpu)
    group, n_groups = state.gpus[gpu].group, len(state.groups)
    for i in range(len(state.parameters)):
        change = state.class_decodes[gpu, i] * to_mixed
        if change != 0:
            pair = i * n_groups + group
            state.classes[pair].y_mixed += change
            state.classes[pair].y_solo -= change
            state.totals[pair].y_mixed_area -= change * time
            state.totals[pair].y_solo_area += change * time


@compiled
def begin_decode(state: EngineState, gpu: int, request: int, time: float) -> None:
    """A decode starts: it joins the GPU's heap of marks."""
    record = state.requests[request]
    if state.settings[0].quadratic_clock:
        synchronize(state, gpu, time)
        mark = state.gpus[gpu].iterations + decode_iterations(state, gpu, record.output_tokens)
        _push_decode(state, gpu, request, mark)
        change_load(state, gpu, record.prompt_tokens, 0.0, 1)
        reschedule(state, gpu)
    else:
        mark = iterations_now(state, gpu, time) + record.output_tokens
        _push_decode(state, gpu, request, mark)
    _count_decode(state, gpu, record.request_class, 1, time)


@compiled
def finish_decode(state: EngineState, gpu: int, time: float) -> int:
    """The first decode to end leaves the GPU's heap; returns its request."""
    if state.settings[0].quadratic_clock:
        synchronize(state, gpu, time)
    request = _pop_decode(state, gpu)
    record = state.requests[request]
    if state.settings[0].quadratic_clock:
        made = decode_iterations(state, gpu, record.output_tokens)
        change_load(state, gpu, record.prompt_tokens, made, -1)
    _count_decode(state, gpu, record.request_class, -1, time)
    return request


@compiled
def _count_decode(state: EngineState, gpu: int, i: int, change: int, time: float) -> None:
    """A decode of class i starts (1) or ends (-1) on a GPU, already in or out of its marks."""
    state.class_decodes[gpu, i] += change
    record = state.gpus[gpu]
    pair = i * len(state.groups) + record.group
    if record.prefill_request >= 0:
        state.classes[pair].y_mixed += change
        state.totals[pair].y_mixed_area -= change * time
    else:
        state.classes[pair].y_solo += change
        state.totals[pair].y_solo_area -= change * time
    if state.groups[record.group].law == AFFINE and not state.settings[0].quadratic_clock:
        rebase(state, gpu, time)
        set_speed(state, gpu)
        reschedule(state, gpu)


@compiled
def _ends_before(state: EngineState, mark_a: float, a: int, mark_b: float, b: int) -> bool:
    """Order of decode ends on one GPU; equal marks: the request that arrived first."""
    if mark_a != mark_b:
        return mark_a < mark_b
    return state.requests[a].index < state.requests[b].index


@compiled
def _push_decode(state: EngineState, gpu: int, request: int, mark: float) -> None:
    """Add a decode to the GPU's mark heap."""
    base = gpu * state.settings[0].heap_slots
    record = state.gpus[gpu]
    place = np.int64(record.decodes)
    record.decodes += 1
    while place > 0:
        parent = (place - 1) >> 1
        parent_mark = state.decode_marks[base + parent]
        parent_request = state.decode_requests[base + parent]
        if not _ends_before(state, mark, request, parent_mark, parent_request):
            break
        state.decode_marks[base + place] = parent_mark
        state.decode_requests[base + place] = parent_request
        place = parent
    state.decode_marks[base + place] = mark
    state.decode_requests[base + place] = request
    if place == 0:
        reschedule(state, gpu)


@compiled
def _pop_decode(state: EngineState, gpu: int) -> int:
    """Take the first decode to end off the GPU's mark heap and return its request."""
    base = gpu * state.settings[0].heap_slots
    record = state.gpus[gpu]
    first = state.decode_requests[base]
    reschedule(state, gpu)
    record.decodes -= 1
    size = np.int64(record.decodes)
    mark = state.decode_marks[base + size]
    request = state.decode_requests[base + size]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        child_mark = state.decode_marks[base + child]
        child_request = state.decode_requests[base + child]
        if child + 1 < size:
            other_mark = state.decode_marks[base + child + 1]
            other_request = state.decode_requests[base + child + 1]
            if _ends_before(state, other_mark, other_request, child_mark, child_request):
                child, child_mark, child_request = child + 1, other_mark, other_request
        if not _ends_before(state, child_mark, child_request, mark, request):
            break
        state.decode_marks[base + place] = child_mark
        state.decode_requests[base + place] = child_request
        place = child
    state.decode_marks[base + place] = mark
    state.decode_requests[base + place] = request
    return first
