"""A 4-ary min-heap whose items know their place, so that any key can change in O(log n).

Three parallel arrays: ``keys[i]`` and ``items[i]`` at heap place i, and ``positions[item]``, the
place of an item (-1: not in the heap). Ties in the key go to the smaller item.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.compiled import compiled


@compiled
def _before(key_a: float, item_a: int, key_b: float, item_b: int) -> bool:
    return key_a < key_b or (key_a == key_b and item_a < item_b)


@compiled
def sift_up(keys: np.ndarray, items: np.ndarray, positions: np.ndarray, place: int) -> None:
    """Move the entry at ``place`` towards the root until its parent comes before it."""
    key, item = keys[place], items[place]
    while place > 0:
        parent = (place - 1) >> 2
        if not _before(key, item, keys[parent], items[parent]):
            break
        keys[place] = keys[parent]
        items[place] = items[parent]
        positions[items[place]] = place
        place = parent
    keys[place] = key
    items[place] = item
    positions[item] = place


@compiled
def sift_down(
    keys: np.ndarray, items: np.ndarray, positions: np.ndarray, size: int, place: int
) -> None:
    """Move the entry at ``place`` towards the leaves until it comes before its children."""
    key, item = keys[place], items[place]
    while True:
        child = (place << 2) + 1
        if child >= size:
            break
        best = child
        for other in range(child + 1, min(child + 4, size)):
            if _before(keys[other], items[other], keys[best], items[best]):
                best = other
        if not _before(keys[best], items[best], key, item):
            break
        keys[place] = keys[best]
        items[place] = items[best]
        positions[items[place]] = place
        place = best
    keys[place] = key
    items[place] = item
    positions[item] = place


@compiled
def change_key(
    keys: np.ndarray, items: np.ndarray, positions: np.ndarray, size: int, item: int, key: float
) -> None:
    """Give an item in the heap a new key."""
    place = positions[item]
    old = keys[place]
    if key == old:
        return
    keys[place] = key
    if key < old:
        sift_up(keys, items, positions, place)
    else:
        sift_down(keys, items, positions, size, place)


@compiled
def insert(
    keys: np.ndarray, items: np.ndarray, positions: np.ndarray, size: int, item: int, key: float
) -> None:
    """Add an item to a heap of ``size`` entries; the caller counts it."""
    keys[size] = key
    items[size] = item
    sift_up(keys, items, positions, size)


@compiled
def remove(
    keys: np.ndarray, items: np.ndarray, positions: np.ndarray, size: int, item: int
) -> None:
    """Take an item out of a heap of ``size`` entries; the caller counts it."""
    place = positions[item]
    positions[item] = -1
    last = size - 1
    old = keys[place]
    key, moved = keys[last], items[last]
    keys[last] = np.inf
    if place == last:
        return
    keys[place] = key
    items[place] = moved
    if _before(key, moved, old, item):
        sift_up(keys, items, positions, place)
    else:
        sift_down(keys, items, positions, last, place)
