"""A GPU as an iteration clock: requests end at fixed marks, only the speed changes.

While a prefill runs the clock advances one iteration per ``mixed_seconds``, otherwise one per
``solo_seconds``. A decode of D tokens that starts at clock V ends at mark V + D, a prefill of P
prompt tokens at V + P/C, whatever the mode does in between (MODEL section 1).
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.compiled import compiled
from llm_sched_env.simulation.indexed_heap import change_key
from llm_sched_env.simulation.layout import EngineState


@compiled
def seconds_per_iteration(state: EngineState, gpu: int) -> float:
    """The duration of an iteration in the GPU's present mode."""
    if state.gpus[gpu].prefill_request >= 0:
        return state.settings[0].mixed_seconds
    return state.settings[0].solo_seconds


@compiled
def iterations_now(state: EngineState, gpu: int, time: float) -> float:
    """The GPU's clock at ``time``."""
    record = state.gpus[gpu]
    return record.iterations + (time - record.updated_time) / seconds_per_iteration(state, gpu)


@compiled
def schedule_gpu(state: EngineState, gpu: int) -> None:
    """Set the time of the GPU's next completion after its marks or its speed changed."""
    record = state.gpus[gpu]
    mark = record.prefill_mark
    if record.decodes > 0:
        mark = min(mark, state.decode_marks[gpu * state.settings[0].batch_slots])
    key = np.inf
    if mark < np.inf:
        remaining = max(0.0, mark - record.iterations)
        key = record.updated_time + remaining * seconds_per_iteration(state, gpu)
    change_key(state.gpu_keys, state.gpu_items, state.gpu_positions, len(state.gpu_keys), gpu, key)


@compiled
def set_prefill(state: EngineState, gpu: int, request: int, mark: float, time: float) -> None:
    """Start (request >= 0) or end (-1, mark inf) a prefill: its decodes change speed."""
    record = state.gpus[gpu]
    record.iterations = iterations_now(state, gpu, time)
    record.updated_time = time
    record.prefill_request = request
    record.prefill_mark = mark
    to_mixed = 1 if request >= 0 else -1
    for i in range(len(state.classes)):
        change = state.class_decodes[gpu, i] * to_mixed
        if change != 0:
            state.classes[i].y_mixed += change
            state.classes[i].y_solo -= change
            state.totals[i].y_mixed_area -= change * time
            state.totals[i].y_solo_area += change * time


@compiled
def _ends_before(state: EngineState, mark_a: float, a: int, mark_b: float, b: int) -> bool:
    """Order of decode ends on one GPU; equal marks: the request that arrived first."""
    return mark_a < mark_b or (
        mark_a == mark_b and state.requests[a].index < state.requests[b].index
    )


@compiled
def push_decode(state: EngineState, gpu: int, request: int, mark: float) -> bool:
    """Add a decode to the GPU's mark heap; True if it is now the first to end."""
    base = gpu * state.settings[0].batch_slots
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
    return place == 0


@compiled
def pop_decode(state: EngineState, gpu: int) -> int:
    """Take the first decode to end off the GPU's mark heap and return its request."""
    base = gpu * state.settings[0].batch_slots
    record = state.gpus[gpu]
    first = state.decode_requests[base]
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
