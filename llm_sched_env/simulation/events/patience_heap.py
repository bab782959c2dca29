"""Abandonment deadlines of the waiting requests, in a 4-ary min-heap.

``patience_keys[p]`` and ``patience_items[p]`` are the deadline and the waiting entry at heap
place p; the entry knows its place, so a request that is served leaves the heap in O(log n). Ties
are broken by order of arrival.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.runtime.compiled import compiled
from llm_sched_env.simulation.state.layout import EngineState


@compiled
def first_deadline(state: EngineState) -> float:
    """Seconds; inf if nobody waits impatiently."""
    return state.patience_keys[0]


@compiled
def _before(state: EngineState, key_a: float, a: int, key_b: float, b: int) -> bool:
    if key_a != key_b:
        return key_a < key_b
    return (
        state.requests[state.waiting[a].request].index
        < state.requests[state.waiting[b].request].index
    )


@compiled
def _put(state: EngineState, place: int, key: float, item: int) -> None:
    state.patience_keys[place] = key
    state.patience_items[place] = item
    state.waiting[item].patience_place = place


@compiled
def _sift_up(state: EngineState, place: int, key: float, item: int) -> None:
    """Fill the hole at ``place``, or one nearer to the root."""
    while place > 0:
        parent = (place - 1) >> 2
        parent_key, parent_item = state.patience_keys[parent], state.patience_items[parent]
        if not _before(state, key, item, parent_key, parent_item):
            break
        _put(state, place, parent_key, parent_item)
        place = parent
    _put(state, place, key, item)


@compiled
def _sift_down(state: EngineState, size: int, place: int, key: float, item: int) -> None:
    """Fill the hole at ``place``, or one nearer to the leaves."""
    keys, items = state.patience_keys, state.patience_items
    while True:
        child = (place << 2) + 1
        if child >= size:
            break
        best = child
        for other in range(child + 1, min(child + 4, size)):
            if _before(state, keys[other], items[other], keys[best], items[best]):
                best = other
        if not _before(state, keys[best], items[best], key, item):
            break
        _put(state, place, keys[best], items[best])
        place = best
    _put(state, place, key, item)


@compiled
def set_deadline(state: EngineState, item: int, deadline: float) -> None:
    """Start the patience of a waiting entry; ``deadline`` in seconds."""
    clock = state.clock[0]
    size = np.int64(clock.patience_size)
    clock.patience_size = size + 1
    _sift_up(state, size, deadline, item)


@compiled
def forget_deadline(state: EngineState, item: int) -> None:
    """Take a waiting entry out of the heap, if it is in it."""
    place = np.int64(state.waiting[item].patience_place)
    if place < 0:
        return
    state.waiting[item].patience_place = -1
    clock = state.clock[0]
    last = np.int64(clock.patience_size) - 1
    clock.patience_size = last
    key, moved = state.patience_keys[last], state.patience_items[last]
    state.patience_keys[last] = np.inf
    if place == last:
        return
    if place > 0 and _before(
        state,
        key,
        moved,
        state.patience_keys[(place - 1) >> 2],
        state.patience_items[(place - 1) >> 2],
    ):
        _sift_up(state, place, key, moved)
    else:
        _sift_down(state, last, place, key, moved)
