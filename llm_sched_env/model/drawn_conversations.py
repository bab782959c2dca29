"""Draw requests that share prefixes, and reckon with them: conversations, and texts in common."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from llm_sched_env.model.block_lists import BLOCK_TOKENS, BlockLists
from llm_sched_env.model.instance import Instance, RequestClass
from llm_sched_env.model.length_distributions import LengthDistribution, ObservedLengths
from llm_sched_env.model.length_moments import continuous_law

# Conversations begin so many times their mean duration before a run does.
_EARLIER = 10.0
SAMPLED_CONVERSATIONS = 40_000
"""From the turns of so many the means of a class are taken."""
# Of the seeds that follow from that of a run, those of conversations.
_STREAM = 2


class DrawnRequests(NamedTuple):
    """Requests in order of arrival, K of them.

    Attributes:
        arrival_time: seconds, shape (K,).
        request_class: shape (K,), int32.
        prompt_tokens: shape (K,).
        output_tokens: shape (K,).
        session: number of the conversation, shape (K,).
        blocks: of prompt and answer.
    """

    arrival_time: np.ndarray
    request_class: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    session: np.ndarray
    blocks: BlockLists


class _Turns(NamedTuple):
    """Turns of the conversations of a class, one after the other; arrays of shape (T,)."""

    conversation: np.ndarray
    is_first: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    think: np.ndarray  # seconds since the turn before; 0 of a first turn
    shared_blocks: np.ndarray  # that a text of the class has
    text: np.ndarray  # which text


def draw_requests(
    instance: Instance, n_gpus: int, until: float, seed: np.random.SeedSequence
) -> DrawnRequests:
    """The requests that arrive at n GPUs up to a time, in seconds; the same for every policy.

    Conversations are under way at time 0; what came before is left out, and no cache has it.
    """
    parts, block, session = [], 0, 0
    for i, own in enumerate(instance.classes):
        own_seed = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, _STREAM, i))
        rng = np.random.default_rng(own_seed)
        rate = n_gpus * own.arrival_rate
        times, turns = _arriving(own, rate, until, rng)
        inside = np.flatnonzero((times >= 0.0) & (times <= until))
        lists, last_block = _blocks(own, turns, block)
        parts.append(
            (
                times[inside],
                np.full(len(inside), i, np.int32),
                turns.prompt[inside],
                turns.output[inside],
                session + turns.conversation[inside],
                lists.picked(inside),
            )
        )
        block, session = last_block, session + int(turns.conversation.max(initial=-1)) + 1
    *columns, blocks = zip(*parts, strict=True)
    order = np.argsort(np.concatenate(columns[0]), kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.concatenate([b.counts for b in blocks]))])
    every = BlockLists(np.concatenate([b.ids for b in blocks]), starts)
    times, classes, prompts, outputs, sessions = (np.concatenate(c)[order] for c in columns)
    return DrawnRequests(times, classes, prompts, outputs, sessions, every.picked(order))


def with_turns(instance: Instance) -> Instance:
    """The instance whose lengths are those of all turns; itself if no class shares prefixes.

    They are those of a sample, always the same, with the right means; if GPUs have caches, with
    what an infinite one has of them.
    """
    if not instance.shares_prefixes:
        return instance
    caches = instance.has_caches
    classes = tuple(
        _class_of_turns(c, reuses=caches) if c.shares_prefixes else c for c in instance.classes
    )
    return dataclasses.replace(instance, classes=classes)


@lru_cache(maxsize=64)
def _class_of_turns(own: RequestClass, *, reuses: bool) -> RequestClass:
    turns = _drawn_turns(own, SAMPLED_CONVERSATIONS, np.random.default_rng(0))
    before = np.roll(turns.prompt + turns.output, 1)
    blocks = np.where(turns.is_first, turns.shared_blocks, before // BLOCK_TOKENS)
    reused = np.minimum(blocks * BLOCK_TOKENS, np.maximum(turns.prompt - 1.0, 0.0))
    # Scaled to the means, which are known: those of a sample are up to 1% off.
    more = own.sessions.turns - 1.0 if own.sessions is not None else 0.0
    added = own.sessions.added_tokens if own.sessions is not None else 0.0
    prompt = own.prompt_tokens + more * (own.output_tokens + added)
    longer, larger = prompt / turns.prompt.mean(), own.output_tokens / turns.output.mean()
    lengths = ObservedLengths(
        longer * turns.prompt, larger * turns.output, longer * reused if reuses else None
    )
    return dataclasses.replace(
        own,
        prompt_tokens=float(lengths.prompt_tokens.mean()),
        output_tokens=float(lengths.output_tokens.mean()),
        prompt_lengths=LengthDistribution(),
        output_lengths=LengthDistribution(),
        observed_lengths=lengths,
        sessions=None,
        shared_prefix=None,
    )


def _arriving(
    own: RequestClass, rate: float, until: float, rng: np.random.Generator
) -> tuple[np.ndarray, _Turns]:
    """Arrival times of the turns of a class whose requests come at a rate, and the turns."""
    mean_turns = 1.0 if own.sessions is None else own.sessions.turns
    lasts = 0.0 if own.sessions is None else mean_turns * own.sessions.think_seconds
    start = -_EARLIER * lasts
    count = rng.poisson(rate / mean_turns * (until - start))
    begins = np.sort(rng.uniform(start, until, count))
    turns = _drawn_turns(own, int(count), rng)
    passed = np.cumsum(turns.think)
    first = np.flatnonzero(turns.is_first)
    since = passed - passed[first][turns.conversation] if count else passed
    return begins[turns.conversation] + since, turns


def _drawn_turns(own: RequestClass, count: int, rng: np.random.Generator) -> _Turns:
    """The turns of so many conversations."""
    sessions, prefix = own.sessions, own.shared_prefix
    sizes = np.ones(count, np.int64)
    if sessions is not None:
        sizes = rng.geometric(1.0 / sessions.turns, count)
    first = np.cumsum(sizes) - sizes
    total = int(sizes.sum())
    conversation = np.repeat(np.arange(count), sizes)
    is_first = np.zeros(total, bool)
    is_first[first] = True
    output = _lengths(own.output_lengths, own.output_tokens, total, rng)
    own_part, think = np.zeros(total), np.zeros(total)
    if sessions is not None:
        own_part = rng.exponential(sessions.added_tokens, total)
        think = rng.exponential(sessions.think_seconds, total)
    own_part[first] = _lengths(own.prompt_lengths, own.prompt_tokens, count, rng)
    think[first] = 0.0
    # A prompt is all that was said before: cumulative sums from the first turn on.
    said = np.cumsum(own_part + output) - output
    offset = (said - own_part)[first][conversation] if count else said
    prompt = said - offset
    shared, text = np.zeros(total, np.int64), np.zeros(total, np.int64)
    if prefix is not None:
        begun = np.minimum(own_part[first], prefix.tokens)[conversation]
        shared = (begun // BLOCK_TOKENS).astype(np.int64)
        text = rng.choice(prefix.variants, count, p=prefix.shares)[conversation]
    return _Turns(conversation, is_first, prompt, output, think, shared, text)


def _blocks(own: RequestClass, turns: _Turns, first_block: int) -> tuple[BlockLists, int]:
    """Blocks of each turn, numbered from one on, and the next number.

    A block is of the conversation, or of the text that it begins with; only whole ones count.
    """
    prefix = own.shared_prefix
    per_text = prefix.tokens // BLOCK_TOKENS if prefix is not None else 0
    texts = prefix.variants * per_text if prefix is not None else 0
    counts = ((turns.prompt + turns.output) // BLOCK_TOKENS).astype(np.int64)
    last = np.flatnonzero(np.append(turns.is_first[1:], True)) if len(counts) else np.empty(0, int)
    sizes = counts[last]
    begins = first_block + texts + np.cumsum(sizes) - sizes
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    turn = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(starts[-1]) - starts[turn]
    ids = begins[turns.conversation[turn]] + place
    shared = place < turns.shared_blocks[turn]
    ids[shared] = (first_block + turns.text[turn] * per_text + place)[shared]
    return BlockLists(ids, starts), int(first_block + texts + sizes.sum())


def _lengths(
    law: LengthDistribution, mean: float, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Lengths of a distribution, tokens, shape (count,)."""
    if law.values is not None:
        return rng.choice(np.array(law.values, float), count)
    if law.kind == "deterministic":
        return np.full(count, float(mean))
    drawn: np.ndarray = continuous_law(law, mean).rvs(size=count, random_state=rng)
    return drawn
