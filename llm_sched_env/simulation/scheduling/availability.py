"""Sets of GPUs that can take a decode or a prefill now, with O(1) random choice.

- ``SOLO_DECODE``: a free decode slot on a GPU of the solo pool (dynamic pools: one without a
  running prefill);
- ``MIXED_DECODE``: a free decode slot on a GPU of the mixed pool (dynamic: one with a prefill);
- ``PREFILL``: a GPU allowed to prefill, without a prefill, with a free slot.

A static mixed pool reserves one slot per GPU for prefill, so it takes at most B - 1 decodes.
With a limit of KV tokens a GPU must also have room for the request that is placed. In a set the
members of a group stand together, from the place of its first GPU on.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.events.random_streams import ROUTING, random_below
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.runtime.prefetch import is_large, prefetch_gpu
from llm_sched_env.simulation.scheduling.rules import DYNAMIC_POOLS
from llm_sched_env.simulation.state.layout import (
    MIXED_DECODE,
    N_AVAILABLE_SETS,
    PREFILL,
    SOLO_DECODE,
    EngineState,
)


@compiled
def _set_membership(state: EngineState, which: int, gpu: int, member: bool) -> None:
    g = state.gpus[gpu].group
    size = state.group_available_sizes[g, which]
    end = state.groups[g].first_gpu + size
    if member:
        state.available[which, end] = gpu
        state.available_positions[gpu, which] = end
        state.group_available_sizes[g, which] = size + 1
        state.available_sizes[which] += 1
    else:
        place = state.available_positions[gpu, which]
        last = state.available[which, end - 1]
        state.available[which, place] = last
        state.available_positions[last, which] = place
        state.group_available_sizes[g, which] = size - 1
        state.available_sizes[which] -= 1


@compiled
def _change_membership(state: EngineState, gpu: int, old: int, new: int) -> None:
    for which in range(N_AVAILABLE_SETS):
        bit = 1 << which
        if (old ^ new) & bit:
            _set_membership(state, which, gpu, (new & bit) != 0)


@compiled
def update_available(state: EngineState, gpu: int) -> None:
    """Bring the three sets in line with one GPU's slots, mode and pool."""
    record = state.gpus[gpu]
    group = state.groups[record.group]
    prefilling = record.prefill_request >= 0
    decodes = record.decodes + record.incoming
    free = decodes + (1 if prefilling else 0) < group.batch_slots
    if state.settings[0].pools == DYNAMIC_POOLS:
        solo = free and not prefilling
        mixed = free and prefilling
        prefill = solo
    elif gpu - group.first_gpu < group.mixed_pool_size:
        solo = False
        mixed = decodes < group.batch_slots - 1
        prefill = free and not prefilling
    else:
        solo = free
        mixed = False
        prefill = False
    if group.decodes == 0:
        solo = mixed = False
    if group.prefills == 0:
        prefill = False
    new = (solo << SOLO_DECODE) | (mixed << MIXED_DECODE) | (prefill << PREFILL)
    old = record.membership
    if new != old:
        record.membership = new
        _change_membership(state, gpu, old, new)


@compiled
def random_in_group(state: EngineState, which: int, g: int, tokens: float) -> int:
    """A random member of a set in a group with room for ``tokens`` of KV cache, or -1.

    Uniform over these; draws only if there are several. With a limit of KV tokens the first that
    has room from a uniformly random place on.
    """
    size = state.group_available_sizes[g, which]
    if size == 0:
        return -1
    first = state.groups[g].first_gpu
    place = np.int64(0)
    if size > 1:
        clock = state.clock[0]
        key = state.keys[ROUTING]
        place = random_below(key, clock.routing_draws, size)
        clock.routing_draws += 1
        if is_large(state):
            # Where the next draw will fall, unless the set changes there.
            ahead = first + random_below(key, clock.routing_draws, size)
            prefetch_gpu(state, state.available[which, ahead])
    if len(state.kv_reserved) > 0:
        members = state.available[which, first : first + size]
        most = state.settings[0].kv_tokens - tokens
        return _first_with_room(members, place, state.kv_reserved, most)
    return state.available[which, first + place]


@compiled
def gpu_for_decode(state: EngineState, which: int, g: int, request: int, tokens: float) -> int:
    """The same for a decode: where moves take time, the GPU of its prefill if it is among them.

    With a limit of KV tokens that GPU does not decode, or the request has its room there already
    (rule_parameters.py).
    """
    if len(state.links) > 0:
        own = state.requests[request].prefill_gpu
        if own >= 0 and state.gpus[own].group == g and (state.gpus[own].membership >> which) & 1:
            return own
    return random_in_group(state, which, g, tokens)


@compiled
def random_available(state: EngineState, which: int, tokens: float) -> int:
    """The same in the whole cluster: in a group drawn by how many of its GPUs are in the set."""
    n_groups = len(state.groups)
    if n_groups == 1:
        return random_in_group(state, which, 0, tokens)
    drawn = _group_by_lot(state, which)
    for step in range(n_groups):
        gpu = random_in_group(state, which, (drawn + step) % n_groups, tokens)
        if gpu >= 0:
            return gpu
    return -1


@compiled_apart
def _group_by_lot(state: EngineState, which: int) -> int:
    size = state.available_sizes[which]
    if size <= 1:
        return 0
    clock = state.clock[0]
    place = random_below(state.keys[ROUTING], clock.routing_draws, size)
    clock.routing_draws += 1
    g = 0
    while place >= state.group_available_sizes[g, which]:
        place -= state.group_available_sizes[g, which]
        g += 1
    return g


@compiled_apart
def _first_with_room(
    members: np.ndarray, place: int, kv_reserved: np.ndarray, most: float
) -> np.int32:
    """The first GPU from a place of a set on, in a circle, with at most so many tokens reserved."""
    for step in range(len(members)):
        gpu = members[(place + step) % len(members)]
        if kv_reserved[gpu] <= most:
            return gpu
    return np.int32(-1)


@compiled
def least_reserved(state: EngineState, which: int) -> float:
    """The fewest KV tokens reserved on a GPU of a non-empty set; 0 without a limit of them."""
    if len(state.kv_reserved) == 0:
        return 0.0
    least = np.inf
    for g in range(len(state.groups)):
        first = state.groups[g].first_gpu
        for place in range(first, first + state.group_available_sizes[g, which]):
            least = min(least, state.kv_reserved[state.available[which, place]])
    return least


@compiled
def reserve_tokens(state: EngineState, gpu: int, tokens: float) -> None:
    """Count KV tokens of what was just placed on a GPU, or (negative) has just left it."""
    if len(state.kv_reserved) == 0:
        return
    record = state.gpus[gpu]
    held = len(state.links) > 0 and state.links[gpu].held > 0
    if record.decodes == 0 and record.prefill_request < 0 and record.incoming == 0 and not held:
        state.kv_reserved[gpu] = 0.0  # no rounding is left on an empty GPU
    else:
        state.kv_reserved[gpu] += tokens
