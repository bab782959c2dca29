"""Clusters that stop where an agent has to decide, each at its own time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llm_sched_env.simulation.events.decisions import RUN_ON, STAND_STILL
from llm_sched_env.simulation.events.event_loop import FINISHED, NEEDS_CAPACITY
from llm_sched_env.simulation.simulation import SimulationBatch

Advance = Callable[[np.ndarray, np.ndarray, int, int, int], None]
"""Runs rows that are claimed (row_claims.py): actions, claims, ticket, part, number of rows."""


class SteppedBatch(SimulationBatch):
    """N clusters that run from one decision of an agent to the next."""

    def _step(self, advance: Advance, actions: np.ndarray) -> np.ndarray:
        """Act in each cluster and run it until it stops, with more room for requests if needed.

        Args:
            advance: one compiled call.
            actions: RUN_ON, STAND_STILL, or what ``advance`` takes; int64, shape (N,).

        Returns:
            Whether each cluster reached its time without a decision when it last ran; bool,
            shape (N,), a fresh array.
        """

        def work(claims: np.ndarray, ticket: int, part: int, rows: int) -> None:
            advance(actions, claims, ticket, part, rows)

        while True:
            self._threads.run(work, 0, self.n_clusters)
            stopped = self._status == NEEDS_CAPACITY
            if not stopped.any():
                finished: np.ndarray = self._status == FINISHED
                return finished
            actions = np.where(stopped, RUN_ON, STAND_STILL)
            self._grow()
