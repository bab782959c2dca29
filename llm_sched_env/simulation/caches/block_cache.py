"""Caches of blocks that forget the least recently used first, and never those in use.

A cache is a hash table of nodes with chains, and a list of the nodes that nobody uses, from the
oldest to the newest. Whatever happens to a block is O(1). Blocks in use are held: they count their
users and are in no list.

**What others see of it.** Where signals are refreshed every so often, a node also says whether its
block was there at the last refresh. Nodes that differ from it are in a list of changes, which the
next refresh empties; a block that has gone since stays as a node until then. So a cache of K blocks
has at most 2 K nodes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.state.layout import EngineState

# Fibonacci hashing: the multiplier is 2^32 over the golden ratio.
_MULTIPLIER, _SHIFT = 2654435769, 15
# Bits of a node's state: its block is there, and was there at the last refresh.
PRESENT, SEEN = 1, 2


@compiled
def _bucket(state: EngineState, c: int, key: int) -> int:
    cache = state.caches[c]
    hashed = (np.int64(key) * _MULTIPLIER) >> _SHIFT
    return cache.first_bucket + (hashed & cache.bucket_mask)


@compiled
def _find(state: EngineState, c: int, key: int) -> Any:
    """The node of a block, there or not any more; -1: none."""
    node = np.int64(state.cache_buckets[_bucket(state, c, key)])
    while node >= 0 and state.cache_nodes[node].key != key:
        node = np.int64(state.cache_nodes[node].chain)
    return node


@compiled
def has_block(state: EngineState, c: int, key: int, bit: int) -> bool:
    """Whether a block is there (PRESENT), or was at the last refresh (SEEN)."""
    node = _find(state, c, key)
    return node >= 0 and (state.cache_nodes[node].state & bit) != 0


@compiled
def _unlink(state: EngineState, c: int, node: int) -> None:
    """Take a node out of the list of those that nobody uses."""
    cache, own = state.caches[c], state.cache_nodes[node]
    if own.older >= 0:
        state.cache_nodes[own.older].newer = own.newer
    else:
        cache.oldest = own.newer
    if own.newer >= 0:
        state.cache_nodes[own.newer].older = own.older
    else:
        cache.newest = own.older


@compiled
def _append(state: EngineState, c: int, node: int) -> None:
    """Make a node the newest of those that nobody uses."""
    cache, own = state.caches[c], state.cache_nodes[node]
    own.older, own.newer, own.left_time = cache.newest, -1, state.clock[0].time
    if cache.newest >= 0:
        state.cache_nodes[cache.newest].newer = node
    else:
        cache.oldest = node
    cache.newest = node


@compiled
def _drop(state: EngineState, c: int, node: int) -> None:
    """Give back a node whose block is gone for everybody."""
    cache, own = state.caches[c], state.cache_nodes[node]
    bucket = _bucket(state, c, own.key)
    before = np.int64(state.cache_buckets[bucket])
    if before == node:
        state.cache_buckets[bucket] = own.chain
    else:
        while state.cache_nodes[before].chain != node:
            before = np.int64(state.cache_nodes[before].chain)
        state.cache_nodes[before].chain = own.chain
    own.chain = cache.unused
    cache.unused = node


@compiled
def _leave_changes(state: EngineState, c: int, node: int) -> None:
    own = state.cache_nodes[node]
    if own.previous_change >= 0:
        state.cache_nodes[own.previous_change].next_change = own.next_change
    else:
        state.caches[c].changes = own.next_change
    if own.next_change >= 0:
        state.cache_nodes[own.next_change].previous_change = own.previous_change


@compiled
def _note_change(state: EngineState, c: int, node: int) -> None:
    """A block has come or gone: it differs from the last refresh now, or no longer does."""
    cache, own = state.caches[c], state.cache_nodes[node]
    present, seen = own.state & PRESENT, (own.state & SEEN) >> 1
    if state.settings[0].refresh_seconds == 0.0:
        own.state = PRESENT | SEEN if present else 0
    elif present != seen:
        own.previous_change, own.next_change = -1, cache.changes
        if cache.changes >= 0:
            state.cache_nodes[cache.changes].previous_change = node
        cache.changes = node
    else:
        _leave_changes(state, c, node)
    if own.state == 0:
        _drop(state, c, node)


@compiled_apart
def refresh_cache(state: EngineState, c: int, time: float) -> None:
    """Before a change, or a look, at ``time``: what was there at the last refresh is seen."""
    refresh = state.settings[0].refresh_seconds
    cache = state.caches[c]
    if refresh == 0.0:
        return
    tick = math.floor(time / refresh)
    if tick <= cache.tick:
        return
    cache.tick = tick
    node = np.int64(cache.changes)
    cache.changes = -1
    while node >= 0:
        own = state.cache_nodes[node]
        following = np.int64(own.next_change)
        own.state = PRESENT | SEEN if own.state & PRESENT else 0
        if own.state == 0:
            _drop(state, c, node)
        node = following


@compiled
def _evict(state: EngineState, c: int) -> bool:
    """Forget the oldest block that nobody uses; False if all are in use."""
    cache = state.caches[c]
    node = np.int64(cache.oldest)
    if node < 0:
        return False
    _unlink(state, c, node)
    state.cache_nodes[node].state &= ~PRESENT
    cache.blocks -= 1
    cache.evictions += 1
    _note_change(state, c, node)
    return True


@compiled
def idle_seconds(state: EngineState, c: int, more: int, time: float) -> float:
    """How long nobody has used the block that is forgotten for more of them; inf: there is room."""
    cache = state.caches[c]
    if cache.oldest < 0 or cache.blocks + more <= cache.capacity:
        return np.inf
    return time - state.cache_nodes[cache.oldest].left_time


@compiled
def hold_block(state: EngineState, c: int, key: int) -> bool:
    """Use a block that is there; False if it is not."""
    node = _find(state, c, key)
    if node < 0 or not state.cache_nodes[node].state & PRESENT:
        return False
    own = state.cache_nodes[node]
    if own.users == 0:
        _unlink(state, c, node)
    own.users += 1
    return True


@compiled
def add_block(state: EngineState, c: int, key: int) -> bool:
    """Bring a block that is not there in, in use; False if there is no room."""
    cache = state.caches[c]
    if cache.capacity == 0 or (cache.blocks == cache.capacity and not _evict(state, c)):
        return False
    node = _find(state, c, key)
    if node < 0:
        node = np.int64(cache.unused)
        own = state.cache_nodes[node]
        cache.unused = own.chain
        bucket = _bucket(state, c, key)
        own.key, own.state = key, 0
        own.chain = state.cache_buckets[bucket]
        state.cache_buckets[bucket] = node
    own = state.cache_nodes[node]
    own.users = 1
    own.state |= PRESENT
    cache.blocks += 1
    _note_change(state, c, node)
    return True


@compiled
def release_block(state: EngineState, c: int, key: int) -> None:
    """Stop using a block; when nobody does it is the newest of those."""
    node = _find(state, c, key)
    own = state.cache_nodes[node]
    own.users -= 1
    if own.users == 0:
        _append(state, c, node)
