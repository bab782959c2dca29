"""What a GPU's cache has of a request, and what requests leave there.

A prefill starts behind the longest prefix of its blocks that the GPU has; at least one token is
left to compute. When it ends the blocks of the prompt are in the cache, when the decode ends those
of the answer too, as far as they are known. While a request is in service the blocks that it has
there are in use. A decode that runs elsewhere uses, and leaves, blocks there.

Blocks of a request are released from the last to the first, so that of a prefix the end is
forgotten first.

Cache c < n is that of GPU c, cache n + c what the router remembers of what it sent there
(reuse_routers.py).
"""

from __future__ import annotations

import math

from llm_sched_env.simulation.caches.block_cache import (
    PRESENT,
    add_block,
    has_block,
    hold_block,
    refresh_cache,
    release_block,
)
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.state.layout import EngineState, Workload


@compiled
def keeps_blocks(state: EngineState) -> bool:
    """Whether GPUs have caches, or a router looks for blocks."""
    return len(state.caches) > 0


@compiled_apart
def note_blocks(state: EngineState, workload: Workload, request: int, k: int) -> None:
    """The blocks and the session of recorded request k, in its record."""
    own, record, recorded = state.reuse[request], state.requests[request], workload.recorded
    own.held, own.first_block, own.blocks, own.prompt_blocks = 0, 0, 0, 0
    own.cached_tokens, own.expected_tokens = 0.0, record.prompt_tokens
    own.session = recorded.session[k] if len(recorded.session) > 0 else k
    if len(recorded.block_starts) == 0:
        return
    own.first_block = recorded.block_starts[k]
    own.blocks = recorded.block_starts[k + 1] - recorded.block_starts[k]
    begun = math.ceil(record.prompt_tokens / state.settings[0].block_tokens)
    own.prompt_blocks = min(own.blocks, begun)


@compiled
def matched_blocks(state: EngineState, c: int, request: int, bit: int) -> int:
    """Blocks of the longest prefix of a prompt that a cache has (PRESENT), or had (SEEN)."""
    own = state.reuse[request]
    count = 0
    while count < own.prompt_blocks and has_block(
        state, c, state.block_ids[own.first_block + count], bit
    ):
        count += 1
    return count


@compiled
def tokens_of(state: EngineState, request: int, blocks: int) -> float:
    """Prompt tokens in the first blocks; one token is left to prefill."""
    most = max(0.0, state.requests[request].prompt_tokens - 1.0)
    return min(blocks * state.settings[0].block_tokens, most)


@compiled
def _hold_prefix(state: EngineState, c: int, request: int) -> None:
    own = state.reuse[request]
    held = 0
    while held < own.prompt_blocks and hold_block(
        state, c, state.block_ids[own.first_block + held]
    ):
        held += 1
    own.held = held


@compiled
def leave_blocks(state: EngineState, c: int, request: int, count: int) -> None:
    """Bring the first ``count`` blocks of a request in, as far as there is room; none is held."""
    own = state.reuse[request]
    while own.held < count:
        key = state.block_ids[own.first_block + own.held]
        if not hold_block(state, c, key) and not add_block(state, c, key):
            break
        own.held += 1
    while own.held > 0:
        own.held -= 1
        release_block(state, c, state.block_ids[own.first_block + own.held])


@compiled_apart
def begin_reuse(state: EngineState, gpu: int, request: int, time: float) -> float:
    """A prefill starts on a GPU; returns the prompt tokens that it finds there."""
    refresh_cache(state, gpu, time)
    _hold_prefix(state, gpu, request)
    own, record = state.reuse[request], state.requests[request]
    own.cached_tokens = tokens_of(state, request, own.held)
    pair = record.request_class * len(state.groups) + state.gpus[gpu].group
    state.reuse_totals[pair].prompt_tokens += record.prompt_tokens
    state.reuse_totals[pair].cached_tokens += own.cached_tokens
    state.caches[gpu].prompt_tokens += record.prompt_tokens
    state.caches[gpu].cached_tokens += own.cached_tokens
    return own.cached_tokens


@compiled_apart
def end_reuse(state: EngineState, gpu: int, request: int, time: float) -> None:
    """A prefill has ended: the GPU has the blocks of the prompt."""
    refresh_cache(state, gpu, time)
    leave_blocks(state, gpu, request, state.reuse[request].prompt_blocks)


@compiled_apart
def begin_decode_reuse(state: EngineState, gpu: int, request: int, time: float) -> None:
    """A decode starts: the blocks that its GPU has of the prompt are in use."""
    refresh_cache(state, gpu, time)
    _hold_prefix(state, gpu, request)


@compiled_apart
def end_decode_reuse(state: EngineState, gpu: int, request: int, time: float) -> None:
    """A decode has ended: its GPU has the blocks of the prompt and of the answer."""
    refresh_cache(state, gpu, time)
    leave_blocks(state, gpu, request, state.reuse[request].blocks)


@compiled
def cached_now(state: EngineState, gpu: int, request: int) -> float:
    """Prompt tokens of a request that a GPU has now."""
    return tokens_of(state, request, matched_blocks(state, gpu, request, PRESENT))
