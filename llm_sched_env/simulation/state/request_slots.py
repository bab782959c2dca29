"""Recorded requests of several clusters, side by side in the arrays that all of them read."""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.state.layout import RequestStream

_LEAST_ROOM = 64


class RequestSlots:
    """A slot of the same size for the requests of each of N clusters.

    A slot ends with a request that never arrives. Blocks are numbered within a cluster, so
    ``block_starts`` begin anew in each slot, and ``block_ids`` lie in the state of the cluster.

    Args:
        n_clusters: N.

    Attributes:
        stream: the requests of all clusters, as the engine reads them.
        room: places of a slot; cluster k has those from k * room on.
    """

    def __init__(self, n_clusters: int) -> None:
        self._n = n_clusters
        self._allocate(_LEAST_ROOM)

    def _allocate(self, room: int) -> None:
        self.room, places = room, self._n * room
        self.stream = RequestStream(
            np.full(places, np.inf),
            np.zeros(places, np.int32),
            np.zeros(places),
            np.zeros(places),
            np.empty(0),
            np.zeros(places, np.int64),
            np.zeros(0, np.int64),
            np.zeros(places, np.int64),
        )

    def write(self, k: int, own: RequestStream) -> None:
        """Give cluster k its requests, with sessions and blocks and without patience."""
        needed = len(own.arrival_time) + 1
        if needed > self.room:
            before, room = self.stream, self.room
            self._allocate(2 * needed)
            for new, old in zip(self.stream, before, strict=True):
                if len(old):
                    new.reshape(self._n, -1)[:, :room] = old.reshape(self._n, -1)
        first = k * self.room
        self.stream.arrival_time[first : first + self.room] = np.inf
        for name in ("arrival_time", "request_class", "prompt_tokens", "output_tokens", "session"):
            getattr(self.stream, name)[first : first + needed - 1] = getattr(own, name)
        self.stream.block_starts[first : first + needed] = own.block_starts
