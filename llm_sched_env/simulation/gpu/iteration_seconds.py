"""Seconds of an iteration by the requests on a GPU: two speeds, and the affine law (1)."""

from __future__ import annotations

from llm_sched_env.simulation.runtime.compiled import compiled
from llm_sched_env.simulation.state.layout import AFFINE, EngineState


@compiled
def seconds_by_requests(state: EngineState, gpu: int) -> float:
    """Of the GPU's present mode and, if affine, number of decodes."""
    settings, record = state.settings[0], state.gpus[gpu]
    mixed = record.prefill_request >= 0
    if settings.law == AFFINE:
        tokens = record.decodes + (settings.chunk_tokens if mixed else 0.0)
        above = max(0.0, tokens - settings.flat_tokens)
        return settings.solo_seconds + settings.token_seconds * above
    return settings.mixed_seconds if mixed else settings.solo_seconds
