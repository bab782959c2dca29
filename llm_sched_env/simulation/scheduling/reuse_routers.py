"""Routers on arrival that weigh what a GPU has cached against what it has to do.

``weighted`` adds up the scores of llm-d's scheduler (docs/reuse.md defines them); the greatest sum
wins. ``earliest-finish`` takes the GPU at which the prefill ends first, ``reuse-bid`` that at which
the request costs least. ``session-affinity`` goes by the conversation alone, by consistent hashing.
Ties go to a random one of the best.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.caches.block_cache import PRESENT, SEEN, idle_seconds, refresh_cache
from llm_sched_env.simulation.caches.prefix_reuse import (
    leave_blocks,
    matched_blocks,
    tokens_of,
)
from llm_sched_env.simulation.caches.signals import (
    expected_seconds,
    keep_signals,
    known_queue_seconds,
    known_running,
    known_tokens,
    known_waiting,
    note_sent,
    running_requests,
    shows_signals,
)
from llm_sched_env.simulation.events.random_streams import ROUTING, random_below, random_bits
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.scheduling.rules import EARLIEST_FINISH_ROUTER, WEIGHTED_ROUTER
from llm_sched_env.simulation.scheduling.scorers import (
    ACTIVE_REQUESTS,
    KV_UTILIZATION,
    LOAD_AWARE,
    NO_HIT_LRU,
    PRECISE_PREFIX_CACHE,
    PREFIX_AFFINITY,
    QUEUE_DEPTH,
)
from llm_sched_env.simulation.state.layout import EngineState

# llm-d's queue at which load-aware scores 0.
_LONG_QUEUE = 128.0
# Load of prefills above which a bid reckons no further: its queue has no mean.
_FULL = 0.95
# Scores that differ by so little, relative to 1 or to themselves, differ by rounding.
_TIE = 1e-9


@compiled
def may_prefill(state: EngineState, gpu: int) -> bool:
    """Whether a GPU takes prefills, by the role of its group."""
    return state.groups[state.gpus[gpu].group].prefills != 0


@compiled
def _prefilling_gpus(state: EngineState) -> int:
    count = 0
    for g in range(len(state.groups)):
        if state.groups[g].prefills != 0:
            count += state.groups[g].n_gpus
    return count


@compiled
def _known_match(state: EngineState, gpu: int, request: int) -> int:
    """Blocks of the longest prefix that a GPU is known for."""
    return matched_blocks(state, gpu, request, SEEN)


@compiled
def _remembered_match(state: EngineState, gpu: int, request: int) -> int:
    """Blocks of the longest prefix that the router remembers to have sent there."""
    return matched_blocks(state, len(state.gpus) + gpu, request, PRESENT)


@compiled_apart
def session_gpu(state: EngineState, request: int) -> int:
    """The GPU of a conversation, by jump consistent hashing (Lamping and Veach 2014)."""
    key = random_bits(np.uint64(0x9E3779B97F4A7C15), state.reuse[request].session)
    bucket, jump, count = -1, 0, _prefilling_gpus(state)
    while jump < count:
        bucket = jump
        key = key * np.uint64(2862933555777941757) + np.uint64(1)
        jump = int((bucket + 1) * (2147483648.0 / (np.float64(key >> np.uint64(33)) + 1.0)))
    for g in range(len(state.groups)):
        group = state.groups[g]
        if group.prefills == 0:
            continue
        if bucket < group.n_gpus:
            return group.first_gpu + bucket
        bucket -= group.n_gpus
    return -1


@compiled_apart
def _cold_rank(state: EngineState, gpu: int) -> int:
    """How many GPUs got their last cold request before this one; never is before all others."""
    rank = 0
    for other in range(len(state.gpus)):
        if may_prefill(state, other) and other != gpu:
            own, its = state.signals[gpu].last_cold, state.signals[other].last_cold
            if its < own or (its == own and other < gpu):
                rank += 1
    return rank


@compiled
def kv_utilization(state: EngineState, gpu: int) -> float:
    """Prompts in service over the KV tokens of a GPU, or those of its cache without a limit."""
    room = state.settings[0].kv_tokens
    if room == np.inf:
        room = state.caches[gpu].capacity * state.settings[0].block_tokens
    return min(1.0, known_tokens(state, gpu) / room) if room > 0.0 else 0.0


@compiled
def _active(state: EngineState, gpu: int) -> int:
    """Requests that were sent to a GPU and are not done: a router sees both."""
    return state.backlogs[gpu].waiting + running_requests(state, gpu)


@compiled
def _relative(value: float, least: float, most: float) -> float:
    """Between the least, 0, and the most, 1; 1 if all are equal."""
    return (value - least) / (most - least) if most > least else 1.0


@compiled
def _below_most(value: float, least: float, most: float) -> float:
    """The most, 0, to the least, 1; 1 if all are equal."""
    return (most - value) / (most - least) if most > least else 1.0


@compiled_apart
def _measure_all(state: EngineState, request: int) -> tuple[float, float, float, float, float]:
    """Note the matches of each GPU that may prefill; the ranges that scores are relative to.

    Returns:
        The least and the most blocks that match, the least and the longest queue, and the most
        active requests.
    """
    weights = state.scorer_weights
    precise = weights[PRECISE_PREFIX_CACHE] > 0.0 or weights[NO_HIT_LRU] > 0.0
    least_match, most_match, least_wait, most_wait, most_active = np.inf, 0.0, np.inf, 0.0, 0.0
    for gpu in range(len(state.gpus)):
        if not may_prefill(state, gpu):
            continue
        signal = state.signals[gpu]
        signal.matched = _known_match(state, gpu, request) if precise else 0
        signal.remembered = 0.0
        if weights[PREFIX_AFFINITY] > 0.0:
            signal.remembered = _remembered_match(state, gpu, request)
        least_match, most_match = min(least_match, signal.matched), max(most_match, signal.matched)
        waiting = np.float64(known_waiting(state, gpu))
        least_wait, most_wait = min(least_wait, waiting), max(most_wait, waiting)
        most_active = max(most_active, np.float64(_active(state, gpu)))
    return least_match, most_match, least_wait, most_wait, most_active


@compiled
def _is_cold(state: EngineState) -> bool:
    """Whether no GPU matches the request that was measured."""
    for gpu in range(len(state.gpus)):
        if may_prefill(state, gpu):
            signal = state.signals[gpu]
            if signal.matched > 0.0 or signal.remembered > 0.0:
                return False
    return True


@compiled
def _coldness(state: EngineState, gpu: int, cold: bool) -> float:
    """For a cold request 1 where the last one was longest ago, to 0; for others 1/2."""
    if not cold:
        return 0.5
    others = np.float64(_prefilling_gpus(state) - 1)
    return 1.0 - _cold_rank(state, gpu) / max(1.0, others)


@compiled_apart
def _score_all(state: EngineState, request: int) -> None:
    """Set the score of each GPU that may prefill, from the weighted scorers."""
    weights, blocks = state.scorer_weights, max(1.0, state.reuse[request].prompt_blocks)
    least_match, most_match, least_wait, most_wait, most_active = _measure_all(state, request)
    cold = weights[NO_HIT_LRU] > 0.0 and _is_cold(state)
    for gpu in range(len(state.gpus)):
        if not may_prefill(state, gpu):
            continue
        signal, waiting = state.signals[gpu], np.float64(known_waiting(state, gpu))
        active = np.float64(_active(state, gpu))
        score = weights[PRECISE_PREFIX_CACHE] * _relative(signal.matched, least_match, most_match)
        score += weights[PREFIX_AFFINITY] * signal.remembered / blocks
        score += weights[QUEUE_DEPTH] * _below_most(waiting, least_wait, most_wait)
        score += weights[KV_UTILIZATION] * (1.0 - kv_utilization(state, gpu))
        score += weights[ACTIVE_REQUESTS] * (1.0 - active / max(1.0, most_active))
        score += weights[LOAD_AWARE] * 0.5 * (1.0 - min(1.0, waiting / _LONG_QUEUE))
        if weights[NO_HIT_LRU] > 0.0:
            score += weights[NO_HIT_LRU] * _coldness(state, gpu, cold)
        signal.score = score


@compiled_apart
def _load_of_prefills(state: EngineState) -> tuple[float, float]:
    """Arrivals per second and GPU that may prefill, and the share of its time that they take."""
    rate, load, n_groups = 0.0, 0.0, len(state.groups)
    gpus = _prefilling_gpus(state)
    for i in range(len(state.parameters)):
        own = state.parameters[i].expected_rate / gpus
        fastest = 0.0
        for g in range(n_groups):
            if state.groups[g].prefills != 0:
                fastest = max(fastest, state.control[i * n_groups + g].prefill_rate)
        rate += own
        load += own / fastest
    return rate, min(_FULL, load)


@compiled
def _slot_seconds(state: EngineState, gpu: int, i: int) -> float:
    """Until a slot is free for one more request: those before it leave one by one."""
    group = state.groups[state.gpus[gpu].group]
    slots = group.batch_slots
    ahead = known_waiting(state, gpu) + known_running(state, gpu) + 1.0 - slots
    if group.decodes == 0 or ahead <= 0.0:
        return 0.0
    decode = state.parameters[i].output_tokens * group.typical_mixed_seconds
    return ahead * decode / slots


@compiled_apart
def match_all(state: EngineState, request: int, time: float) -> float:
    """Note for each GPU that may prefill the longer match, and whose block has to go there.

    Returns:
        The most seconds that nobody has used such a block; inf if a GPU has room.
    """
    longest, prompt = 0.0, state.reuse[request].prompt_blocks
    for gpu in range(len(state.gpus)):
        if may_prefill(state, gpu):
            signal = state.signals[gpu]
            remembered = _remembered_match(state, gpu, request)
            signal.matched = max(_known_match(state, gpu, request), remembered)
            memory = len(state.gpus) + gpu
            signal.idle_seconds = idle_seconds(state, memory, prompt - remembered, time)
            longest = max(longest, signal.idle_seconds)
    return longest


@compiled
def _matched_share(state: EngineState) -> float:
    """Of the prompt tokens that were sent, those that matched where they were sent."""
    sent, matched = 0.0, 0.0
    for gpu in range(len(state.gpus)):
        sent += state.signals[gpu].sent_tokens
        matched += state.signals[gpu].sent_matched
    return matched / sent if sent > 0.0 else 0.0


@compiled_apart
def _bid_all(state: EngineState, request: int, time: float) -> None:
    """Set the score of each GPU that may prefill to what a request does not cost there.

    A request that finds u seconds of work and brings w ends after u + w: all that counts for
    ``earliest-finish``. It makes those that come later wait longer: by rate (2 u w + w^2) /
    (2 (1 - load)) seconds in all, the relative value of an M/G/1 queue (Hyytia, Penttinen and
    Aalto 2012). And it brings w seconds' worth of blocks in, for which others have to go: of those
    the matched share would be found again, the less the longer nobody has used them.
    """
    rate, load = _load_of_prefills(state)
    longest, found = match_all(state, request, time), _matched_share(state)
    others = 0.0 if state.settings[0].router == EARLIEST_FINISH_ROUTER else 1.0
    for gpu in range(len(state.gpus)):
        if not may_prefill(state, gpu):
            continue
        signal = state.signals[gpu]
        left = state.requests[request].prompt_tokens - tokens_of(state, request, signal.matched)
        work = expected_seconds(state, gpu, left)
        ahead = known_queue_seconds(state, gpu, time)
        slot = _slot_seconds(state, gpu, state.requests[request].request_class)
        later = rate * work * (ahead + 0.5 * work) / (1.0 - load)
        if signal.idle_seconds < longest:
            later += found * work * (1.0 - signal.idle_seconds / longest)
        signal.score = -(max(ahead, slot) + work + others * later)


@compiled_apart
def _random_best(state: EngineState) -> int:
    """A random one of the GPUs with the greatest score."""
    best, count = -np.inf, 0
    for gpu in range(len(state.gpus)):
        if may_prefill(state, gpu):
            best = max(best, state.signals[gpu].score)
    least = best - _TIE * max(1.0, abs(best))
    for gpu in range(len(state.gpus)):
        if may_prefill(state, gpu) and state.signals[gpu].score >= least:
            count += 1
    clock, place = state.clock[0], np.int64(0)
    if count > 1:
        place = random_below(state.keys[ROUTING], clock.routing_draws, count)
        clock.routing_draws += 1
    for gpu in range(len(state.gpus)):
        if may_prefill(state, gpu) and state.signals[gpu].score >= least:
            if place == 0:
                return gpu
            place -= 1
    return -1


@compiled_apart
def gpu_by_reuse(state: EngineState, request: int, time: float) -> int:
    """The GPU of a request that arrives now, by the scores or the bid of each."""
    for gpu in range(len(state.gpus)):
        keep_signals(state, gpu, time)
        refresh_cache(state, gpu, time)
    if state.settings[0].router != WEIGHTED_ROUTER:
        _bid_all(state, request, time)
    else:
        _score_all(state, request)
    return _random_best(state)


@compiled_apart
def remember_sent(state: EngineState, gpu: int, request: int, time: float) -> None:
    """What the router keeps in mind of a request that it sends to a GPU."""
    if not shows_signals(state):
        return
    matched = _known_match(state, gpu, request)
    remembers = len(state.caches) > len(state.gpus)
    known = max(matched, _remembered_match(state, gpu, request)) if remembers else matched
    if len(state.scorer_weights) > 0 and state.scorer_weights[NO_HIT_LRU] > 0.0 and _is_cold(state):
        newest = 0.0
        for other in range(len(state.gpus)):
            newest = max(newest, state.signals[other].last_cold)
        state.signals[gpu].last_cold = newest + 1.0
    prompt, cached = state.requests[request].prompt_tokens, tokens_of(state, request, known)
    state.signals[gpu].sent_tokens += prompt
    state.signals[gpu].sent_matched += cached
    left = prompt - cached
    note_sent(state, gpu, expected_seconds(state, gpu, left), time)
    if remembers:
        leave_blocks(state, len(state.gpus) + gpu, request, state.reuse[request].prompt_blocks)
