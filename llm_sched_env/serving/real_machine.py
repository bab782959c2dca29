"""One engine in real time, in the thread of its scheduler: decide, iterate, decide, ...

So do the loops of serving engines. Nothing is handed from thread to thread between iterations:
on a busy CPU each hand-over would wait for the operating system longer than the decision takes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import Self

from llm_sched_env.serving.clocks import Clock, WallClock
from llm_sched_env.serving.engine import Engine
from llm_sched_env.simulation.machine import Ended, Sent
from llm_sched_env.simulation.machine_load import Content
from llm_sched_env.simulation.state.layout import RequestStream


@dataclass
class Iteration:
    """An iteration that ran.

    Attributes:
        start: seconds since the run began.
        seconds: until its tokens were there.
        content: what it did.
        sent: who joined before it.
        prefilled: whose prefill it ended, if any.
        completed: who has all tokens since.
        end: when the scheduler learned that it had ended; NaN: it did not, the run was over.
        cpu_seconds: of ``seconds``, those that the thread was on the processor.
    """

    start: float
    seconds: float
    content: Content
    sent: tuple[Sent, ...]
    prefilled: tuple[int, ...] = ()
    completed: tuple[int, ...] = ()
    end: float = math.nan
    cpu_seconds: float = math.nan


class RealMachine:
    """An engine as the only GPU of a cluster.

    Arrivals during an iteration are told to the scheduler at its end, as of when they arrived.

    Args:
        engine: the GPU.
        clock: of the run.

    Attributes:
        iterations: of each GPU, those that have ended.
        events: what happened in the cluster, as the scheduler told it.
    """

    def __init__(self, engine: Engine, clock: Clock | None = None) -> None:
        self._engine, self._clock = engine, clock or WallClock()
        engine.warm_up()
        self._next: tuple[Sent, ...] | None = None  # who joins the iteration that is to begin
        self.stream: RequestStream | None = None
        self.iterations: list[list[Iteration]] = [[]]
        self.events: list[np.ndarray] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is left running."""

    def finish(self) -> None:
        """The run is over; an iteration that was to begin does not."""
        self._next = None

    def made(self) -> dict[int, list[int]]:
        """Tokens of each request so far, in order."""
        return self._engine.made

    def begin(self, stream: RequestStream) -> None:
        """The engine is empty, and time 0 is now."""
        self.stream = stream
        self.iterations, self.events = [[]], []
        self._parked: dict[int, Any] = {}
        self._next = None
        self._engine.begin(stream)
        self._clock.start()

    def park(self, gpu: int, request: int) -> None:
        """As :meth:`.Machine.park`."""
        del gpu
        self._parked[request] = self._engine.park(request)

    def drop(self, request: int) -> None:
        """As :meth:`.Machine.drop`."""
        del self._parked[request]

    def start(self, gpu: int, sent: Sequence[Sent], time: float) -> None:
        """As :meth:`.Machine.start`; it runs in the next wait."""
        del gpu, time
        self._next = tuple(sent)

    def wait(self, until: float) -> Ended | None:
        """As :meth:`.Machine.wait`; an iteration that has begun ends, whenever that is."""
        if self._next is None:
            self._clock.sleep(until)
            return None
        sent, self._next = self._next, None
        parked = {r: self._parked.pop(r) for r, _ in sent if r in self._parked}
        found = iterated(self._engine, self._clock, sent, parked)
        self.iterations[0].append(found)
        return Ended(0, found.start + found.seconds, found.prefilled, found.completed)

    def applied(self, ended: Ended, time: float) -> None:
        """As :meth:`.Machine.applied`."""
        del ended
        self.iterations[0][-1].end = time

    def told(self, events: np.ndarray) -> None:
        """As :meth:`.Machine.told`."""
        self.events.append(events)


def iterated(
    engine: Engine, clock: Clock, sent: tuple[Sent, ...], parked: dict[int, Any]
) -> Iteration:
    """Run an engine's next iteration.

    Args:
        engine: which.
        clock: of the run.
        sent: who joins it.
        parked: caches of those who come from elsewhere.
    """
    start, cpu_start = clock.now(), time.thread_time()
    engine.join(sent, parked)
    content = engine.content()
    prefilled, completed = engine.iterate()
    seconds = clock.now() - start
    cpu_seconds = time.thread_time() - cpu_start
    return Iteration(start, seconds, content, sent, prefilled, completed, cpu_seconds=cpu_seconds)
