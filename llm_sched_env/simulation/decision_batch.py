"""Clusters that run from decision to decision of an agent."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.simulation.engine import advance_to_decisions
from llm_sched_env.simulation.events.decisions import RUN_ON, STAND_STILL
from llm_sched_env.simulation.events.event_loop import FINISHED, NEEDS_CAPACITY
from llm_sched_env.simulation.scheduling.rules import EventDispatch
from llm_sched_env.simulation.simulation import SimulationBatch


class DecisionBatch(SimulationBatch):
    """N clusters that run from decision to decision.

    Args:
        instance: classes, hardware and prices.
        rule: router and pools.
        n_gpus: cluster size n.
        n_clusters: N.
        wake_interval: longest wait while something can be done, seconds; None: until an event.
        **batch: further arguments of :class:`SimulationBatch`.
    """

    def __init__(
        self,
        instance: Instance,
        rule: EventDispatch,
        n_gpus: int,
        n_clusters: int = 1,
        wake_interval: float | None = None,
        **batch: Any,
    ) -> None:
        super().__init__(instance, rule, n_gpus, n_clusters, **batch)
        self._wake_interval = np.inf if wake_interval is None else float(wake_interval)

    def decide(self, actions: np.ndarray, until: np.ndarray) -> np.ndarray:
        """Act in each cluster and advance it to its next decision or its time.

        Args:
            actions: trusted to be possible, RUN_ON or STAND_STILL; int64, shape (N,).
            until: seconds, shape (N,).

        Returns:
            Whether each cluster reached its time without a decision when it last ran; bool,
            shape (N,), a fresh array.
        """

        def work(claims: np.ndarray, ticket: int, part: int, rows: int) -> None:
            advance_to_decisions(
                clusters,
                self.arrivals,
                self._logs,
                actions,
                self._wake_interval,
                until,
                self._status,
                claims,
                ticket,
                part,
                rows,
            )

        while True:
            clusters = self.clusters
            self._threads.run(work, 0, self.n_clusters)
            stopped = self._status == NEEDS_CAPACITY
            if not stopped.any():
                finished: np.ndarray = self._status == FINISHED
                return finished
            actions = np.where(stopped, RUN_ON, STAND_STILL)
            self._grow()
