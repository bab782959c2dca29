"""Seconds of an iteration by the requests on a GPU: two speeds, and the affine law (1)."""

from __future__ import annotations

from llm_sched_env.simulation.runtime.compiled import compiled
from llm_sched_env.simulation.state.layout import AFFINE, EngineState


@compiled
def seconds_by_requests(state: EngineState, gpu: int) -> float:
    """Of the GPU's present mode and, if affine, number of decodes."""
    record = state.gpus[gpu]
    group = state.groups[record.group]
    mixed = record.prefill_request >= 0
    if group.law == AFFINE:
        tokens = record.decodes + (group.chunk_tokens if mixed else 0.0)
        above = max(0.0, tokens - group.flat_tokens)
        return group.solo_seconds + group.token_seconds * above
    return group.mixed_seconds if mixed else group.solo_seconds
