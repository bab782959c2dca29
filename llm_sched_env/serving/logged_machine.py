"""A machine that goes through the iterations of a run again, in no time: same times, same ends.

Under it the scheduler must take the decisions of that run again, one by one: whatever the engine
did in between, nothing but its times has entered them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm_sched_env.serving.real_machine import Iteration
from llm_sched_env.simulation.machine import Ended, Sent
from llm_sched_env.simulation.machine_load import GpuLoad
from llm_sched_env.simulation.state.layout import RequestStream


class LoggedMachine:
    """Replays iteration times.

    Args:
        iterations: of each GPU, in order.
        chunk_tokens: C.

    Attributes:
        events: what happened in the cluster.
    """

    def __init__(self, iterations: Sequence[Sequence[Iteration]], chunk_tokens: int) -> None:
        self._iterations, self._chunk_tokens = iterations, chunk_tokens
        self.events: list[np.ndarray] = []

    def begin(self, stream: RequestStream) -> None:
        """As :meth:`.Machine.begin`."""
        self._loads = [GpuLoad(stream, self._chunk_tokens) for _ in self._iterations]
        self._begun = [0] * len(self._iterations)
        self._ends: dict[int, float] = {}
        self.events = []

    def park(self, gpu: int, request: int) -> None:
        """Nothing is kept."""

    def drop(self, request: int) -> None:
        """Nothing is kept."""

    def start(self, gpu: int, sent: Sequence[Sent], time: float) -> None:
        """The next iteration of the run; past its end, one that does not end."""
        del time
        self._loads[gpu].join(sent)
        number = self._begun[gpu]
        self._begun[gpu] += 1
        ends = [iteration.end for iteration in self._iterations[gpu][number : number + 1]]
        # Of an iteration that the scheduler did not learn of before the run was over, NaN.
        self._ends[gpu] = ends[0] if ends and np.isfinite(ends[0]) else np.inf

    def wait(self, until: float) -> Ended | None:
        """As :meth:`.Machine.wait`."""
        gpu = min(self._ends, key=lambda g: (self._ends[g], g), default=-1)
        if gpu < 0 or self._ends[gpu] > until or self._ends[gpu] == np.inf:
            return None
        return Ended(gpu, self._ends.pop(gpu), *self._loads[gpu].iterate())

    def applied(self, ended: Ended, time: float) -> None:
        """As :meth:`.Machine.applied`."""

    def told(self, events: np.ndarray) -> None:
        """As :meth:`.Machine.told`."""
        self.events.append(events)
