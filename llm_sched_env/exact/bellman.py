"""One sweep of dynamic programming over (queue row, cluster), in compiled loops.

``h[r, m]`` is the relative value, in currency, of doing nothing in a state until the next event;
``values[r, m]`` that of acting first, with several actions after one another where that is better.
Actions are numbered as in `cluster_states`; a choice is WAIT or ``action * n + target``.
"""

from __future__ import annotations

import numba
import numpy as np

from llm_sched_env.exact.cluster_states import DECODED, ClusterTables
from llm_sched_env.exact.queue_states import NO_ROW, QueueTables

WAIT = -1


@numba.njit(cache=True)
def queue_of(action: int, n_classes: int) -> int:
    """The queue from which an action takes a request."""
    return action if action < 2 * n_classes else action - n_classes


@numba.njit(cache=True)
def mean_value(values: np.ndarray, clusters: ClusterTables, m: int, action: int) -> float:
    """Expected value when the action's GPU is drawn; ``values`` of the row after it."""
    mean = 0.0
    for k in range(clusters.target_counts[m, action]):
        mean += clusters.target_shares[m, action, k] * values[clusters.targets[m, action, k]]
    return mean


@numba.njit(cache=True)
def best_values(
    h: np.ndarray,
    queues: QueueTables,
    clusters: ClusterTables,
    random_gpu: bool,
    values: np.ndarray,
    choices: np.ndarray,
) -> None:
    """Fill ``values`` and ``choices``, shape (R, M), with the best actions.

    An action takes a request off a queue, so it leads to an earlier row: rows in their order are
    final when they are read. With ``random_gpu`` an action uses a random GPU, else the best one;
    of equals the first stays.
    """
    n_rows, n_clusters = h.shape
    n_classes = queues.counts.shape[1] // 2
    most_targets = clusters.targets.shape[2]
    for r in range(n_rows):
        for m in range(n_clusters):
            values[r, m] = h[r, m] if queues.may_wait[r] else -np.inf
            choices[r, m] = WAIT
        for action in range(3 * n_classes):
            rest = queues.fewer[r, queue_of(action, n_classes)]
            if rest == NO_ROW:
                continue
            for m in range(n_clusters):
                n_targets = clusters.target_counts[m, action]
                if random_gpu and n_targets > 0:
                    mean = mean_value(values[rest], clusters, m, action)
                    if mean > values[r, m]:
                        values[r, m] = mean
                        choices[r, m] = action * most_targets
                elif not random_gpu:
                    for k in range(n_targets):
                        value = values[rest, clusters.targets[m, action, k]]
                        if value > values[r, m]:
                            values[r, m] = value
                            choices[r, m] = action * most_targets + k


@numba.njit(cache=True)
def followed_values(
    h: np.ndarray,
    queues: QueueTables,
    clusters: ClusterTables,
    actions: np.ndarray,
    values: np.ndarray,
) -> None:
    """Fill ``values`` with those of given actions (WAIT or a number), each on a random GPU."""
    n_rows, n_clusters = h.shape
    n_classes = queues.counts.shape[1] // 2
    for r in range(n_rows):
        for m in range(n_clusters):
            action = actions[r, m]
            if action != WAIT:
                rest = queues.fewer[r, queue_of(action, n_classes)]
                values[r, m] = mean_value(values[rest], clusters, m, action)
            else:
                values[r, m] = h[r, m] if queues.may_wait[r] else -np.inf


@numba.njit(cache=True)
def drifts(
    h: np.ndarray,
    values: np.ndarray,
    queues: QueueTables,
    clusters: ClusterTables,
    arrivals: np.ndarray,
    patience: np.ndarray,
    overflow_prices: np.ndarray,
    out: np.ndarray,
) -> None:
    """Revenue plus expected change of value, per second of waiting; shape (R, M).

    An arrival at a full queue is paid its overflow price and gone; the controller may act then.
    Rows in which nobody may wait are left alone.
    """
    n_rows, n_clusters = h.shape
    n_classes = arrivals.shape[0]
    for r in range(n_rows):
        if not queues.may_wait[r]:
            continue
        for m in range(n_clusters):
            own, total = h[r, m], clusters.revenue[m]
            for e in range(clusters.event_counts[m]):
                i = clusters.event_classes[m, e]
                row = r if i == DECODED else queues.more[r, n_classes + i]
                gain = values[row, clusters.event_targets[m, e]] - own
                total += clusters.event_rates[m, e] * gain
            out[r, m] = total
        for i in range(n_classes):
            row, price = queues.more[r, i], 0.0
            if row == NO_ROW:
                row, price = r, overflow_prices[i]
            for m in range(n_clusters):
                out[r, m] += arrivals[i] * (values[row, m] + price - h[r, m])
        for j in range(2 * n_classes):
            row = queues.fewer[r, j]
            if row != NO_ROW:
                rate = patience[j % n_classes] * queues.counts[r, j]
                for m in range(n_clusters):
                    out[r, m] += rate * (values[row, m] - h[r, m])


@numba.njit(cache=True)
def summary(
    drift: np.ndarray, may_wait: np.ndarray, row_rates: np.ndarray, cluster_rates: np.ndarray
) -> tuple[float, float, float]:
    """Least and greatest drift, and the mean weighted by the time that a state lasts."""
    least, greatest, weighted, weight = np.inf, -np.inf, 0.0, 0.0
    for r in range(drift.shape[0]):
        if may_wait[r]:
            for m in range(drift.shape[1]):
                own = drift[r, m]
                least, greatest = min(least, own), max(greatest, own)
                lasts = 1.0 / (row_rates[r] + cluster_rates[m])
                weighted += lasts * own
                weight += lasts
    return least, greatest, weighted / weight


@numba.njit(cache=True)
def relax(
    h: np.ndarray,
    drift: np.ndarray,
    gain: float,
    damping: float,
    may_wait: np.ndarray,
    row_rates: np.ndarray,
    cluster_rates: np.ndarray,
) -> None:
    """Move h towards drift = gain everywhere, each state by the time that it lasts."""
    for r in range(h.shape[0]):
        if may_wait[r]:
            for m in range(h.shape[1]):
                rate = row_rates[r] + cluster_rates[m]
                h[r, m] += damping * (drift[r, m] - gain) / rate
