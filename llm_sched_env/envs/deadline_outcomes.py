"""How many completed requests of a step met the deadlines of their class, and how many did not."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.simulation.simulation import SimulationBatch
from llm_sched_env.simulation.state.layout import DEADLINE_COUNTS


class DeadlineOutcomes:
    """Counts of N clusters since their last steps.

    Args:
        batch: the clusters.
    """

    def __init__(self, batch: SimulationBatch) -> None:
        self._batch = batch
        self._counted = self.none()

    def none(self) -> np.ndarray:
        """No outcomes; int64, shape (N, 3, I), rows as in :data:`DEADLINE_COUNTS`."""
        shape = (self._batch.n_clusters, len(DEADLINE_COUNTS), self._batch.instance.n_classes)
        return np.zeros(shape, np.int64)

    def begin(self, k: int) -> None:
        """Cluster k counts from now on."""
        self._counted[k] = self._now(k, k + 1)[0]

    def take(self, outcomes: np.ndarray | None, first: int, last: int) -> None:
        """Write the outcomes of clusters first..last-1 since they were last taken."""
        assert outcomes is not None
        now = self._now(first, last)
        outcomes[first:last] = now - self._counted[first:last]
        self._counted[first:last] = now

    def _now(self, first: int, last: int) -> np.ndarray:
        totals = self._batch.states.totals[first:last]
        n_classes = self._batch.instance.n_classes
        counts = np.stack([totals[name] for name in DEADLINE_COUNTS], axis=1)
        summed: np.ndarray = counts.reshape(*counts.shape[:2], n_classes, -1).sum(axis=3)
        return summed


def outcome_info(outcomes: np.ndarray) -> dict[str, Any]:
    """Outcomes of a cluster, shape (3, I), by name, as copies."""
    return {name: row.copy() for name, row in zip(DEADLINE_COUNTS, outcomes, strict=True)}


def outcome_infos(outcomes: np.ndarray) -> dict[str, Any]:
    """Outcomes of N clusters, shape (N, 3, I), by name, as Gymnasium nests infos."""
    every = np.ones(len(outcomes), np.bool_)
    named = {name: outcomes[:, row].copy() for row, name in enumerate(DEADLINE_COUNTS)}
    return named | {f"_{name}": every for name in named}
