"""What a machine owes the scheduler: it runs iterations and says when they have ended.

The engine's state, rules and agents are those of the simulator; time and ends of iterations come
from whoever meets :class:`Machine`: a real engine (:mod:`llm_sched_env.serving`), or a clock that
goes through logged iterations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from llm_sched_env.simulation.state.layout import RequestStream


class Sent(NamedTuple):
    """A request that joins a GPU at the boundary before its next iteration."""

    request: int  # its number, in order of arrival
    is_prefill: bool  # else a decode


class Ended(NamedTuple):
    """An iteration of a GPU that has ended."""

    gpu: int
    time: float  # seconds since the machine's beginning
    prefilled: tuple[int, ...]  # the request whose prefill it ended, if any
    completed: tuple[int, ...]  # requests that have all their tokens now


class Machine(Protocol):
    """GPUs that run one iteration after the other, each on its own."""

    def begin(self, stream: RequestStream) -> None:
        """Time 0 is now; ``stream`` has the lengths of all requests that will come."""

    def park(self, gpu: int, request: int) -> None:
        """A prefilled request waits for a decode slot: it leaves its slot and keeps its cache."""

    def drop(self, request: int) -> None:
        """A parked request has given up."""

    def start(self, gpu: int, sent: Sequence[Sent], time: float) -> None:
        """Begin the next iteration of a GPU that runs none.

        Args:
            gpu: which has work.
            sent: who joins it at this boundary.
            time: at which the scheduler decided so, seconds.
        """

    def wait(self, until: float) -> Ended | None:
        """The next iteration to end, or None when ``until`` (seconds) has come before it did."""

    def applied(self, ended: Ended, time: float) -> None:
        """The scheduler takes the iteration for ended at ``time``, never before its last event."""

    def told(self, events: np.ndarray) -> None:
        """What has happened in the cluster, in order: records of ``layout.EVENT``."""
