"""Clusters whose requests an agent sends to GPUs, one by one, as they arrive."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.simulation.engine import advance_to_arrivals
from llm_sched_env.simulation.scheduling.rules import RoutedDispatch
from llm_sched_env.simulation.state import allocation
from llm_sched_env.simulation.state.layout import EngineState, RequestStream
from llm_sched_env.simulation.state.request_slots import RequestSlots
from llm_sched_env.simulation.stepped_batch import SteppedBatch


class RoutedBatch(SteppedBatch):
    """N clusters that run from arrival to arrival.

    Args:
        instance: classes, hardware and prices.
        rule: scheduler of the GPUs, and how fresh signals are.
        n_gpus: cluster size n.
        n_clusters: N.
        stream: recorded requests of all clusters; default: drawn from the instance.
        own_streams: whether :meth:`give` brings each cluster recorded requests of its own.
        **batch: further arguments of :class:`SimulationBatch`.
    """

    def __init__(
        self,
        instance: Instance,
        rule: RoutedDispatch,
        n_gpus: int,
        n_clusters: int = 1,
        stream: RequestStream | None = None,
        *,
        own_streams: bool = False,
        **batch: Any,
    ) -> None:
        super().__init__(
            instance, rule, n_gpus, n_clusters, _NOBODY if own_streams else stream, **batch
        )
        self._slots: RequestSlots | None = None
        if own_streams:
            self._slots = RequestSlots(n_clusters)
            self.workload = self.workload._replace(recorded=self._slots.stream)

    def give(self, k: int, own: RequestStream) -> None:
        """The recorded requests of cluster k, from its next start or restoration on."""
        assert self._slots is not None
        count = len(own.block_ids)
        if count > self.states.block_ids.shape[1]:
            self.states = allocation.with_blocks(self.states, 2 * count)
            self._fresh = allocation.with_blocks(self._fresh, 2 * count)
        self._slots.write(k, own)
        self.workload = self.workload._replace(recorded=self._slots.stream)
        # The slots of the other clusters may have moved, too.
        firsts = self._slots.room * np.arange(self.n_clusters)
        self.states.clock["first_recorded"][:, 0] = firsts
        self._fresh.clock["first_recorded"] = firsts[k]
        self._fresh.block_ids[0] = 0
        self._fresh.block_ids[0, :count] = own.block_ids

    def restore(self, k: int, snapshot: EngineState) -> None:
        """Continue cluster k from a snapshot of a cluster of the same instance, rule and size.

        With requests of its own, those that it was given last.
        """
        if self._slots is None:
            super().restore(k, snapshot)
            return
        super().restore(k, snapshot._replace(block_ids=self._fresh.block_ids[0]))
        self.states.clock["first_recorded"][k, 0] = k * self._slots.room

    def route(self, gpus: np.ndarray, until: np.ndarray) -> np.ndarray:
        """Send the request of each cluster and advance it to its next arrival or its time.

        Args:
            gpus: that may prefill, RUN_ON or STAND_STILL; int64, shape (N,).
            until: seconds, shape (N,).

        Returns:
            Whether each cluster reached its time without an arrival when it last ran; bool,
            shape (N,), a fresh array.
        """

        def act(gpus: np.ndarray, claims: np.ndarray, ticket: int, part: int, rows: int) -> None:
            advance_to_arrivals(
                self.clusters,
                self.arrivals,
                self._logs,
                gpus,
                until,
                self._status,
                claims,
                ticket,
                part,
                rows,
            )

        return self._step(act, gpus)


_NOBODY = RequestStream(
    np.zeros(1),
    np.zeros(1, np.int32),
    np.ones(1),
    np.ones(1),
    session=np.zeros(1, np.int64),
    block_ids=np.zeros(0, np.int64),
    block_starts=np.zeros(2, np.int64),
)
"""A request without blocks, in the place of those that :meth:`RoutedBatch.give` brings."""
