"""Dispatch rules that look at counts only, as actions on a tiny system.

Trunk reservation and its relatives with dynamic pools: a finished prefill is placed on a GPU
without a running prefill if one has room, else on one with; classes are admitted by rank, those
that yield only while the cluster is free enough. The other registered rules are no functions of
the counts: their lines are first-come-first-served over classes, or they run on credit.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.exact.bellman import WAIT
from llm_sched_env.exact.tiny_system import TinySystem


def trunk_reservation(
    system: TinySystem, bids: np.ndarray, reserves: np.ndarray, *, admits_first: bool = False
) -> np.ndarray:
    """Actions of the gate ``bid-price`` with solo-first routing and dynamic pools, shape (R, M).

    Args:
        system: the states.
        bids: rank of each class, the highest first, shape (I,); of equals the first class (the
            engine takes the longest waiting).
        reserves: free slots below which a class waits, shape (I,), or for each cluster, shape
            (M, I), for reserves that depend on who occupies the slots.
        admits_first: admit before a waiting decode is placed, as long as a slot is left for it.
    """
    n_classes = system.instance.n_classes
    needed = np.broadcast_to(reserves, (system.shape[1], n_classes))
    if np.shape(bids) != (n_classes,) or not np.isfinite(bids).all():
        raise ConfigurationError("bids", bids, f"{n_classes} finite numbers")
    order = np.argsort(-np.asarray(bids), kind="stable")
    free, possible = system.free_slots, system.possible
    actions = np.full(system.shape, WAIT, dtype=np.int32)
    for own, counts in zip(actions, system.queues.counts, strict=True):
        prefilled = int(counts[n_classes:].sum())
        for i in order[::-1]:
            if counts[i] > 0 and not prefilled:
                own[possible[:, i] & (free >= needed[:, i])] = i
        for i in np.flatnonzero(counts[n_classes:])[::-1]:
            solo, mixed = n_classes + i, 2 * n_classes + i
            own[possible[:, mixed]] = mixed
            own[possible[:, solo]] = solo
        for i in order[::-1]:
            if counts[i] > 0 and prefilled and admits_first:
                left = free - prefilled
                own[possible[:, i] & (left > 0) & (left >= needed[:, i])] = i
    return actions


def projected_reserves(
    system: TinySystem, bids: np.ndarray, slots: float, seconds: float
) -> np.ndarray:
    """Reserves that count slots as free when they are expected to be; shape (M, I).

    A class with a bid <= 0 needs ``slots`` free after ``seconds`` in which slots are released at
    the rate of now and taken at the rate at which classes with a bid > 0 arrive.

    Args:
        system: the states.
        bids: bid price of each class, shape (I,).
        slots: r.
        seconds: T; 0: a constant reserve.
    """
    protected = system.arrivals[bids > 0].sum()
    needed = slots - seconds * (system.slot_release_rates - protected)
    return np.where(bids > 0, 0.0, needed[:, None])
