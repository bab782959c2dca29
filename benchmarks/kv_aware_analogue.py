"""The KV-aware analogue of a two-speed instance: the same iteration times at a full batch."""

from __future__ import annotations

import dataclasses

from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration

# Shares of a full batch's iteration time; the rest does not depend on what is in the batch.
_OF_DECODES, _OF_KV_TOKENS, _OF_PROMPTS = 0.2, 0.2, 0.1


def kv_aware_analogue(instance: Instance) -> Instance:
    """The instance under the KV-aware law with boundary starts.

    A solo iteration of B decodes, and a mixed one of a chunk with B - 1 decodes, last as long as
    under the two speeds if contexts are the classes' mean; smaller batches are faster.
    """
    hardware = instance.hardware
    slots, chunk, context = hardware.batch_slots, hardware.chunk_tokens, instance.mean_context
    solo, mixed = hardware.tau_solo, hardware.tau_mixed
    law = Hardware.kv_aware(
        SoloIteration(
            solo * (1.0 - _OF_DECODES - _OF_KV_TOKENS),
            per_decode=solo * _OF_DECODES / slots,
            per_kv_token=solo * _OF_KV_TOKENS / (slots * context),
        ),
        MixedIteration(
            mixed * (1.0 - _OF_DECODES - _OF_KV_TOKENS - _OF_PROMPTS),
            per_prompt_token=mixed * _OF_PROMPTS / chunk,
            per_decode=mixed * _OF_DECODES / (slots - 1),
            per_kv_token=mixed * _OF_KV_TOKENS / ((slots - 1) * context),
        ),
        chunk,
        slots,
        starts="boundary",
        kv_tokens=hardware.kv_tokens,
    )
    return dataclasses.replace(instance, name=f"{instance.name} (KV-aware)", hardware=law)
