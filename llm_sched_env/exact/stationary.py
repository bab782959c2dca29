"""Stationary distribution of a policy's Markov chain on a tiny system."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from llm_sched_env.errors import PlanError
from llm_sched_env.exact.bellman import WAIT, queue_of
from llm_sched_env.exact.cluster_states import DECODED, ClusterTables
from llm_sched_env.exact.queue_states import NO_ROW, QueueTables
from llm_sched_env.exact.tiny_system import TinySystem

_DAMPING = 0.95
_MOST_STEPS = 100_000
_CLOSE = 1e-11


@dataclass(frozen=True, eq=False)
class StationaryLaw:
    """Long-run law of a policy that loses arrivals at full queues.

    Attributes:
        time: share of time spent waiting in each state, shape (R, M).
        visits: how often each state is entered, before a decision there, 1/s, shape (R, M).
    """

    time: np.ndarray
    visits: np.ndarray


def stationary_law(system: TinySystem, choices: np.ndarray, *, random_gpu: bool) -> StationaryLaw:
    """The law under choices (WAIT or ``action * n + target``), from the empty cluster.

    Raises:
        PlanError: if the iteration does not converge.
    """
    rates = system.row_rates[:, None] + system.cluster_rates[None, :]
    jumps = np.zeros(system.shape)
    jumps[0, _empty_cluster(system)] = 1.0
    visits = np.empty(system.shape)
    patience = system.instance.patience_rates
    tables = (
        system.queues, system.cluster_tables, system.arrivals, system.switches, patience,
    )  # fmt: skip
    for _ in range(_MOST_STEPS):
        # Jumps of the chain between states in which it waits, as often as it leaves them.
        _enter(jumps / rates, *tables, choices, random_gpu, visits)
        moved = np.where(choices == WAIT, visits, 0.0)
        moved /= moved.sum()
        change = float(np.abs(moved - jumps).sum())
        jumps += _DAMPING * (moved - jumps)
        if change < _CLOSE:
            time = jumps / rates
            time /= time.sum()
            _enter(time, *tables, choices, random_gpu, visits)
            return StationaryLaw(time, visits)
    raise PlanError(
        f"stationary law of {system.instance.name!r}: got changes of {change:.2g} after "
        f"{_MOST_STEPS} steps, expected less than {_CLOSE:g}; the chain mixes too slowly"
    )


def _empty_cluster(system: TinySystem) -> int:
    slots = system.n_gpus * system.instance.hardware.batch_slots
    return int(np.flatnonzero(system.free_slots == slots)[0])


@numba.njit(cache=True)
def _after_events(
    time: np.ndarray,
    queues: QueueTables,
    clusters: ClusterTables,
    arrivals: np.ndarray,
    switches: np.ndarray,
    patience: np.ndarray,
    visits: np.ndarray,
) -> None:
    """Add the rates at which events lead to states."""
    n_states, n_classes = arrivals.shape
    for r in np.flatnonzero(queues.may_wait):
        for m in np.flatnonzero(time[r]):
            for e in range(clusters.event_counts[m]):
                i = clusters.event_classes[m, e]
                row = r if i == DECODED else queues.more[r, n_classes + i]
                rate = time[r, m] * clusters.event_rates[m, e]
                visits[row, clusters.event_targets[m, e]] += rate
        for i in range(n_classes):
            row = queues.more[r, i]
            visits[r if row == NO_ROW else row] += arrivals[queues.traffic[r], i] * time[r]
        for s in range(n_states):
            rate = switches[queues.traffic[r], s]
            if rate > 0.0:
                visits[queues.switched[r, s]] += rate * time[r]
        for j in range(2 * n_classes):
            row = queues.fewer[r, j]
            if row != NO_ROW:
                visits[row] += patience[j % n_classes] * queues.counts[r, j] * time[r]


@numba.njit(cache=True)
def _enter(
    time: np.ndarray,
    queues: QueueTables,
    clusters: ClusterTables,
    arrivals: np.ndarray,
    switches: np.ndarray,
    patience: np.ndarray,
    choices: np.ndarray,
    random_gpu: bool,
    visits: np.ndarray,
) -> None:
    """Rates at which states are entered, by an event or by an action in another one."""
    n_classes, most_targets = arrivals.shape[1], clusters.targets.shape[2]
    visits[:] = 0.0
    _after_events(time, queues, clusters, arrivals, switches, patience, visits)
    # Actions lead to earlier rows: the latest first, so that all visits of a row are known.
    for r in range(time.shape[0] - 1, -1, -1):
        for m in np.flatnonzero(choices[r] != WAIT):
            action, chosen = choices[r, m] // most_targets, choices[r, m] % most_targets
            after = visits[queues.fewer[r, queue_of(action, n_classes)]]
            if random_gpu:
                for k in range(clusters.target_counts[m, action]):
                    share = clusters.target_shares[m, action, k]
                    after[clusters.targets[m, action, k]] += share * visits[r, m]
            else:
                after[clusters.targets[m, action, chosen]] += visits[r, m]
