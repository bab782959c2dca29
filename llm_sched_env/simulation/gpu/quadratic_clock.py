"""A virtual clock whose speed changes with the KV cache that its decodes read.

Each iteration adds a token to the context of every decode and a chunk to that of the prefill, so
iterations grow longer by the same amount each: from clock value V on, v of them take

    a v + d v^2 / 2    seconds,

and the time of a virtual finish time is the root of a quadratic. A GPU's record holds V, the time
at V and a; its load (:data:`LOAD`) holds d and what a and d follow from. There is no event per
iteration. The last, shorter chunk of a prompt changes both once, at a clock value known before.

**Contexts.** With immediate starts lengths are continuous: a decode that has run for v iterations
attends to P + v tokens. With boundary starts iterations are whole: its k-th attends to P + k,
which is the mean of P + v + 1/2 over that iteration.

**Boundaries.** With boundary starts a busy GPU's record is set to the end of the iteration that
runs, in the future: whatever starts or stops meanwhile counts from there. Virtual finish times are
whole, so none lies before.
"""

from __future__ import annotations

import math

import numpy as np

from llm_sched_env.simulation.gpu.iteration_seconds import seconds_by_requests
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.state.layout import KV_AWARE, EngineState

# An iteration that ends within this share of an iteration has ended: rounding of times.
_AT_BOUNDARY = 1e-6


@compiled
def decode_iterations(state: EngineState, gpu: int, output_tokens: float) -> float:
    """Iterations of a decode: a token each, and whole ones with boundary starts."""
    if state.groups[state.gpus[gpu].group].whole_iterations:
        return math.ceil(output_tokens)
    return output_tokens


@compiled
def set_load_speed(state: EngineState, gpu: int) -> None:
    """Set the growth and the seconds of iterations at the clock value of the record."""
    record, load = state.gpus[gpu], state.loads[gpu]
    group = state.groups[record.group]
    decodes, kv, growth = np.float64(record.decodes), load.kv_tokens, 0.0
    if group.law != KV_AWARE:
        seconds = seconds_by_requests(state, gpu)
    elif record.prefill_request >= 0:
        chunk = load.chunk_tokens
        per_prompt = group.mixed_prompt + group.mixed_context * load.cached_tokens
        seconds = group.mixed_seconds + group.mixed_decode * decodes
        seconds += group.mixed_kv * kv + per_prompt * chunk
        growth = group.mixed_kv * decodes + group.mixed_context * chunk * chunk
    else:
        seconds = group.solo_seconds + group.solo_decode * decodes + group.solo_kv * kv
        growth = group.solo_kv * decodes
    record.iteration_seconds = seconds
    load.growth = growth


@compiled
def _seconds_of(record_seconds: float, growth: float, iterations: float) -> float:
    return iterations * (record_seconds + 0.5 * growth * iterations)


@compiled
def _iterations_in(record_seconds: float, growth: float, seconds: float) -> float:
    """The root of a v + d v^2 / 2 = t, in a form that neither cancels nor divides by d = 0."""
    root = math.sqrt(record_seconds * record_seconds + 2.0 * growth * seconds)
    return 2.0 * seconds / (record_seconds + root)


@compiled
def _count(state: EngineState, gpu: int, iterations: float) -> None:
    """Advance the record by some iterations of the load that it has."""
    record, load = state.gpus[gpu], state.loads[gpu]
    record.updated_time += _seconds_of(record.iteration_seconds, load.growth, iterations)
    record.iterations += iterations
    record.iteration_seconds += load.growth * iterations
    load.kv_tokens += record.decodes * iterations
    if record.prefill_request >= 0:
        load.cached_tokens += load.chunk_tokens * iterations


@compiled_apart
def _begin_last_chunk(state: EngineState, gpu: int) -> None:
    """Advance to where the prefill has only its shorter, last chunk left."""
    record, load = state.gpus[gpu], state.loads[gpu]
    iterations = load.last_chunk_mark - record.iterations
    _count(state, gpu, iterations)
    record.iterations = load.last_chunk_mark
    load.last_chunk_mark = np.inf
    load.chunk_tokens = load.last_chunk_tokens
    set_load_speed(state, gpu)


@compiled_apart
def _seconds_through_last_chunk(state: EngineState, gpu: int, mark: float) -> float:
    """Seconds to a clock value that lies behind the beginning of the last chunk."""
    record, load = state.gpus[gpu], state.loads[gpu]
    group = state.groups[record.group]
    before, after = load.last_chunk_mark - record.iterations, mark - load.last_chunk_mark
    chunk, last = load.chunk_tokens, load.last_chunk_tokens
    cached = load.cached_tokens + chunk * before
    per_prompt = group.mixed_prompt + group.mixed_context * cached
    seconds = record.iteration_seconds + load.growth * before - per_prompt * (chunk - last)
    growth = load.growth - group.mixed_context * (chunk * chunk - last * last)
    return _seconds_of(record.iteration_seconds, load.growth, before) + _seconds_of(
        seconds, growth, after
    )


@compiled
def seconds_to(state: EngineState, gpu: int, mark: float) -> float:
    """Seconds from the record's time to a clock value."""
    record, load = state.gpus[gpu], state.loads[gpu]
    if mark > load.last_chunk_mark:
        return _seconds_through_last_chunk(state, gpu, mark)
    iterations = max(0.0, mark - record.iterations)
    return _seconds_of(record.iteration_seconds, load.growth, iterations)


@compiled
def synchronize(state: EngineState, gpu: int, time: float) -> None:
    """Advance the record to ``time``, or to the boundary at which what is sent now can start."""
    record, load = state.gpus[gpu], state.loads[gpu]
    if record.decodes == 0 and record.prefill_request < 0:
        record.updated_time = time
        load.kv_tokens = 0.0  # no rounding is left on an idle GPU
        return
    if load.last_chunk_mark < np.inf:
        to_last = seconds_to(state, gpu, load.last_chunk_mark)
        if time - record.updated_time >= to_last:
            _begin_last_chunk(state, gpu)
    elapsed = time - record.updated_time
    if elapsed <= 0.0:
        return
    iterations = _iterations_in(record.iteration_seconds, load.growth, elapsed)
    if state.groups[record.group].whole_iterations:
        iterations = math.ceil(iterations - _AT_BOUNDARY)
    _count(state, gpu, iterations)


@compiled
def load_prefill(state: EngineState, gpu: int, prompt_tokens: float, cached_tokens: float) -> None:
    """The chunks of a prefill that starts at the record's clock value; before its mark is set.

    Args:
        state: one cluster.
        gpu: where.
        prompt_tokens: to prefill.
        cached_tokens: of the prompt, that the GPU has already.
    """
    record, load = state.gpus[gpu], state.loads[gpu]
    group = state.groups[record.group]
    load.cached_tokens = cached_tokens
    load.chunk_tokens = group.chunk_tokens
    load.last_chunk_mark = np.inf
    if group.padded_chunks or not group.whole_chunks:
        return
    whole = math.floor(prompt_tokens / group.chunk_tokens)
    left = prompt_tokens - whole * group.chunk_tokens
    if left > 0.0:
        if whole == 0.0:
            load.chunk_tokens = left
        else:
            load.last_chunk_tokens = left
            load.last_chunk_mark = record.iterations + whole


@compiled
def change_load(
    state: EngineState, gpu: int, prompt_tokens: float, made_tokens: float, change: int
) -> None:
    """A decode has joined (1) or left (-1) at the record's clock value, with its context."""
    context = prompt_tokens + made_tokens
    if state.groups[state.gpus[gpu].group].whole_iterations:
        context += 0.5
    state.loads[gpu].kv_tokens += change * context
    set_load_speed(state, gpu)
