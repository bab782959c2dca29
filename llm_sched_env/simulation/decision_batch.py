"""Clusters that run from decision to decision of an agent."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.simulation.engine import advance_to_decisions
from llm_sched_env.simulation.scheduling.rules import EventDispatch
from llm_sched_env.simulation.stepped_batch import SteppedBatch


class DecisionBatch(SteppedBatch):
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

        def act(actions: np.ndarray, claims: np.ndarray, ticket: int, part: int, rows: int) -> None:
            advance_to_decisions(
                self.clusters,
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

        return self._step(act, actions)
