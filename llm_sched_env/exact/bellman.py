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
def _take_best_gpu(
    values: np.ndarray,
    choices: np.ndarray,
    after: np.ndarray,
    clusters: ClusterTables,
    action: int,
) -> None:
    """Where an action on the best GPU for it is better, take it; ``after``: values of its row."""
    most_targets = clusters.targets.shape[2]
    for m in range(values.shape[0]):
        for k in range(clusters.target_counts[m, action]):
            value = after[clusters.targets[m, action, k]]
            if value > values[m]:
                values[m] = value
                choices[m] = action * most_targets + k


@numba.njit(cache=True)
def _take_random_gpu(
    values: np.ndarray,
    choices: np.ndarray,
    after: np.ndarray,
    clusters: ClusterTables,
    action: int,
) -> None:
    """Where an action on a random GPU is better, take it."""
    for m in range(values.shape[0]):
        if clusters.target_counts[m, action] > 0:
            mean = mean_value(after, clusters, m, action)
            if mean > values[m]:
                values[m] = mean
                choices[m] = action * clusters.targets.shape[2]


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
    final when they are read. Of equals the first stays.
    """
    n_classes = queues.counts.shape[1] // 2
    for r in range(h.shape[0]):
        values[r] = -np.inf
        choices[r] = WAIT
        if queues.may_wait[r]:
            values[r] = h[r]
        for action in range(3 * n_classes):
            rest = queues.fewer[r, queue_of(action, n_classes)]
            if rest != NO_ROW and random_gpu:
                _take_random_gpu(values[r], choices[r], values[rest], clusters, action)
            elif rest != NO_ROW:
                _take_best_gpu(values[r], choices[r], values[rest], clusters, action)


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
def _add_service(
    out: np.ndarray,
    h: np.ndarray,
    values: np.ndarray,
    r: int,
    queues: QueueTables,
    clusters: ClusterTables,
) -> None:
    """Set a row to revenue plus what ends on the GPUs."""
    n_classes = queues.counts.shape[1] // 2
    for m in range(out.shape[0]):
        own, total = h[m], clusters.revenue[m]
        for e in range(clusters.event_counts[m]):
            i = clusters.event_classes[m, e]
            row = r if i == DECODED else queues.more[r, n_classes + i]
            gain = values[row, clusters.event_targets[m, e]] - own
            total += clusters.event_rates[m, e] * gain
        out[m] = total


@numba.njit(cache=True)
def drifts(
    h: np.ndarray,
    values: np.ndarray,
    queues: QueueTables,
    clusters: ClusterTables,
    arrivals: np.ndarray,
    switches: np.ndarray,
    patience: np.ndarray,
    overflow_prices: np.ndarray,
    out: np.ndarray,
) -> None:
    """Revenue plus expected change of value, per second of waiting; shape (R, M).

    An arrival at a full queue is paid its overflow price and gone; the controller may act then, and
    when the traffic switches its state. Rows in which no request may wait are left alone.
    """
    n_states, n_classes = arrivals.shape
    for r in range(h.shape[0]):
        if not queues.may_wait[r]:
            continue
        _add_service(out[r], h[r], values, r, queues, clusters)
        for i in range(n_classes):
            row, price = queues.more[r, i], 0.0
            if row == NO_ROW:
                row, price = r, overflow_prices[i]
            out[r] += arrivals[queues.traffic[r], i] * (values[row] + price - h[r])
        for s in range(n_states):
            rate = switches[queues.traffic[r], s]
            if rate > 0.0:
                out[r] += rate * (values[queues.switched[r, s]] - h[r])
        for j in range(2 * n_classes):
            row = queues.fewer[r, j]
            if row != NO_ROW:
                out[r] += patience[j % n_classes] * queues.counts[r, j] * (values[row] - h[r])


@numba.njit(cache=True)
def summary(
    drift: np.ndarray,
    queues: QueueTables,
    row_rates: np.ndarray,
    cluster_rates: np.ndarray,
) -> tuple[float, float, np.ndarray]:
    """Least and greatest drift, and its mean in each state of the traffic, shape (S,).

    Means are weighted by the time that a state lasts.
    """
    n_states = queues.switched.shape[1]
    least, greatest = np.inf, -np.inf
    weighted, weight = np.zeros(n_states), np.zeros(n_states)
    for r in np.flatnonzero(queues.may_wait):
        for m in range(drift.shape[1]):
            own = drift[r, m]
            least, greatest = min(least, own), max(greatest, own)
            lasts = 1.0 / (row_rates[r] + cluster_rates[m])
            weighted[queues.traffic[r]] += lasts * own
            weight[queues.traffic[r]] += lasts
    return least, greatest, weighted / weight


@numba.njit(cache=True)
def relax(
    h: np.ndarray,
    drift: np.ndarray,
    means: np.ndarray,
    levels: np.ndarray,
    damping: float,
    queues: QueueTables,
    row_rates: np.ndarray,
    cluster_rates: np.ndarray,
) -> None:
    """Move h towards one drift everywhere.

    Each state moves by the time that it lasts, towards the mean drift of its state of the traffic,
    and all of these together by its level.
    """
    for r in np.flatnonzero(queues.may_wait):
        mean, level = means[queues.traffic[r]], levels[queues.traffic[r]]
        for m in range(h.shape[1]):
            rate = row_rates[r] + cluster_rates[m]
            h[r, m] += damping * (drift[r, m] - mean) / rate + level
