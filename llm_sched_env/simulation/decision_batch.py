"""Clusters whose requests are admitted and routed one by one, from outside."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.instance import Instance
from llm_sched_env.simulation.decisions import RUN_ON, STAND_STILL
from llm_sched_env.simulation.engine import advance_to_decisions
from llm_sched_env.simulation.event_loop import FINISHED, NEEDS_CAPACITY
from llm_sched_env.simulation.rules import EventDispatch
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

    def decide(self, actions: np.ndarray, until: np.ndarray, first: int, last: int) -> np.ndarray:
        """Act in clusters first..last-1 and advance each to its next decision or its time.

        Args:
            actions: trusted to be possible, or RUN_ON; int64, shape (N,).
            until: seconds, shape (N,).
            first: the first cluster.
            last: one past the last cluster.

        Returns:
            Whether each of these clusters has reached its time without a decision, bool.
        """

        def work(claims: np.ndarray, ticket: int, part: int, rows: int) -> None:
            advance_to_decisions(
                states,
                self.workload,
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
            states = self.states
            self._threads.run(work, first, last)
            status = self._status[first:last]
            stopped = self._status == NEEDS_CAPACITY
            if not stopped[first:last].any():
                done: np.ndarray = status == FINISHED
                return done
            actions = np.where(stopped, RUN_ON, STAND_STILL)
            self._grow()
