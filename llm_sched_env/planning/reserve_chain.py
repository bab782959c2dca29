"""The optimal reserve of free slots with abandonment, from a birth-death chain.

The formula of slot_ranks.py assumes infinite patience; its reserves suit large clusters. On a small
one, or where the marginal class is hardly admitted, abandonment shortens the queue, so that fewer
free slots are enough.
"""

from __future__ import annotations

import numpy as np

# How many standard deviations of the queue, and e-folds of the weights of idle slots, count.
_QUEUE_DEVIATIONS = 12.0
_LARGEST_EXPONENT = 600.0


def best_kept_slots(
    arrivals: float,
    releases: float,
    patience_rate: float,
    loss: float,
    slot_price: float,
    most: int,
) -> int:
    """The number k of slots to keep free for a class that goes first.

    Others take every slot beyond k. The free slots below it, and then the waiting requests, are a
    birth-death chain: down by one slot at the rate of arrivals, up at the rate of releases, and for
    each that waits by its patience rate. An idle slot costs its price, one that waits the loss.

    Args:
        arrivals: of the class that goes first, whole cluster, 1/s; fewer than releases.
        releases: slots that become free, whole cluster, 1/s.
        patience_rate: 1/s.
        loss: of one that waits, currency per second: patience rate times bid, of the class of the
            lowest bid where several go first.
        slot_price: currency per slot and second.
        most: slots that there are.
    """
    ratio = releases / arrivals
    kept = np.arange(min(most, int(_LARGEST_EXPONENT / np.log(ratio))) + 1)
    # Weights beside that of no free slot and nobody waiting.
    idle = ratio**kept
    waiting = np.arange(1, _longest_queue(arrivals, releases, patience_rate) + 1)
    queued = np.exp(np.cumsum(np.log(arrivals) - np.log(releases + patience_rate * waiting)))
    costs = slot_price * np.cumsum(kept * idle) + loss * (waiting @ queued)
    return int(np.argmin(costs / (np.cumsum(idle) + queued.sum())))


def _longest_queue(arrivals: float, releases: float, patience_rate: float) -> int:
    """Where the chain hardly gets: by patience, or by its drift alone."""
    by_drift = _LARGEST_EXPONENT / np.log(releases / arrivals)
    by_patience = np.inf
    if patience_rate > 0.0:
        by_patience = _QUEUE_DEVIATIONS * np.sqrt(arrivals / patience_rate) + _QUEUE_DEVIATIONS
    return int(np.ceil(min(by_drift, by_patience)))
