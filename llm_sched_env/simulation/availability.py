"""Which GPUs can take a decode or a prefill right now: three sets with O(1) random choice.

- ``SOLO_DECODE``: a free decode slot on a GPU of the solo pool (dynamic pools: one without a
  running prefill);
- ``MIXED_DECODE``: a free decode slot on a GPU of the mixed pool (dynamic: one with a prefill);
- ``PREFILL``: a GPU allowed to prefill, without a prefill, with a free slot.

A static mixed pool reserves one slot per GPU for prefill, so it takes at most B - 1 decodes.
"""

from __future__ import annotations

from llm_sched_env.simulation.compiled import compiled
from llm_sched_env.simulation.layout import MIXED_DECODE, PREFILL, SOLO_DECODE, EngineState
from llm_sched_env.simulation.random_streams import ROUTING, random_below
from llm_sched_env.simulation.rules import DYNAMIC_POOLS


@compiled
def _set_membership(state: EngineState, which: int, gpu: int, member: bool) -> None:
    place = state.available_positions[gpu, which]
    if member == (place >= 0):
        return
    size = state.available_sizes[which]
    if member:
        state.available[which, size] = gpu
        state.available_positions[gpu, which] = size
        state.available_sizes[which] = size + 1
    else:
        last = state.available[which, size - 1]
        state.available[which, place] = last
        state.available_positions[last, which] = place
        state.available_positions[gpu, which] = -1
        state.available_sizes[which] = size - 1


@compiled
def update_available(state: EngineState, gpu: int) -> None:
    """Bring the three sets in line with one GPU's slots, mode and pool."""
    settings = state.settings[0]
    record = state.gpus[gpu]
    prefilling = record.prefill_request >= 0
    used = record.decodes + (1 if prefilling else 0)
    free = used < settings.batch_slots
    if settings.pools == DYNAMIC_POOLS:
        solo = free and not prefilling
        mixed = free and prefilling
        prefill = solo
    elif gpu < state.clock[0].mixed_pool_size:
        solo = False
        mixed = record.decodes < settings.batch_slots - 1
        prefill = free and not prefilling
    else:
        solo = free
        mixed = False
        prefill = False
    _set_membership(state, SOLO_DECODE, gpu, solo)
    _set_membership(state, MIXED_DECODE, gpu, mixed)
    _set_membership(state, PREFILL, gpu, prefill)


@compiled
def random_available(state: EngineState, which: int) -> int:
    """A uniformly random member of a nonempty set; draws only if there are several."""
    size = state.available_sizes[which]
    if size == 1:
        return state.available[which, 0]
    clock = state.clock[0]
    place = random_below(state.keys[ROUTING], clock.routing_draws, size)
    clock.routing_draws += 1
    return state.available[which, place]
