"""Dispatch rules that depend on counts only, as actions on a tiny system.

Trunk reservation is one. The other registered rules are not functions of the counts: their queues
are first-come-first-served over classes, or they depend on saved credit.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.exact.bellman import WAIT
from llm_sched_env.exact.tiny_system import TinySystem
from llm_sched_env.model.slot_ranks import SlotRanks


def trunk_reservation(system: TinySystem, ranks: SlotRanks) -> np.ndarray:
    """Actions of the registered ``trunk-reservation``, shape (R, M).

    Where one prefilled request more than ``decode_limit`` waits, one is placed whatever the
    reserves: with decode reserves, or prefills that precede, the rule is the registered one only
    as far as so many hardly ever wait. Without them none ever waits.

    Args:
        system: the states.
        ranks: of the classes, as :func:`llm_sched_env.planning.slot_ranks.slot_ranks` gives them;
            of equal bids the first class (the engine takes the longest waiting).

    Raises:
        ConfigurationError: for ranks of another shape, or that are not finite.
    """
    n_classes = system.instance.n_classes
    if np.shape(ranks) != (5, n_classes) or not np.isfinite(ranks).all():
        raise ConfigurationError("ranks", ranks, f"5 rows of {n_classes} finite numbers")
    bids, reserves, decode_bids, decode_reserves, precedes = np.asarray(ranks, float)
    free = system.free_slots[:, None]
    may_admit, may_place = free >= reserves, free >= decode_reserves
    prefill, solo, mixed = np.split(system.possible, 3, axis=1)
    hardware = system.instance.hardware
    mixed_is_faster = hardware.tau_mixed <= hardware.tau_solo
    actions = np.empty(system.shape, dtype=np.int32)
    queues = system.queues
    for own, counts, may_wait in zip(actions, queues.counts, queues.may_wait, strict=True):
        waits, prefilled = counts[:n_classes] > 0, counts[n_classes:] > 0
        i = _of_highest_bid(bids, waits & may_admit & prefill)
        j = _of_highest_bid(decode_bids, prefilled & (may_place | ~may_wait) & (solo | mixed))
        # Leave GPUs without a prefill to requests that could be admitted.
        mixed_first = mixed_is_faster | (waits & may_admit).any(axis=1)
        on_mixed = mixed.any(axis=1) & (mixed_first | ~solo.any(axis=1))
        place = np.where(on_mixed, 2, 1) * n_classes + j
        admits = (i != WAIT) & ((j == WAIT) | (precedes[i] != 0)) & may_wait
        own[:] = np.where(admits, i, np.where(j != WAIT, place, WAIT))
    return actions


def _of_highest_bid(bids: np.ndarray, able: np.ndarray) -> np.ndarray:
    """The class of the highest bid among those able, shape (M, I), or WAIT; shape (M,)."""
    best = np.argmax(np.where(able, bids, -np.inf), axis=1)
    return np.where(able.any(axis=1), best, WAIT)
