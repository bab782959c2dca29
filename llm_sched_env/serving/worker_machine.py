"""Engines in real time: a thread each, which runs an iteration when the scheduler has said so."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from typing_extensions import Self

from llm_sched_env.serving.clocks import WallClock
from llm_sched_env.serving.engine import Engine
from llm_sched_env.serving.real_machine import Iteration, iterated
from llm_sched_env.simulation.machine import Ended, Sent
from llm_sched_env.simulation.machine_load import Content
from llm_sched_env.simulation.state.layout import RequestStream

_NEVER = 3600.0  # seconds of a wait that nothing is due in


class WorkerMachine:
    """Engines as GPUs of a cluster.

    Args:
        engines: one a GPU.

    Attributes:
        iterations: of each GPU, those that have ended.
        events: what happened in the cluster, as the scheduler told it.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = list(engines)
        self._reports: queue.SimpleQueue[tuple[int, Iteration | BaseException]] = (
            queue.SimpleQueue()
        )
        self._inboxes: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in engines]
        self._threads = [
            threading.Thread(target=self._work, args=(gpu,), name=f"engine {gpu}", daemon=True)
            for gpu in range(len(self._engines))
        ]
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            self._reports.get()  # each has warmed up
        self._busy = [False] * len(self._engines)
        self._clock = WallClock()
        self.stream: RequestStream | None = None
        self.iterations: list[list[Iteration]] = []
        self.events: list[np.ndarray] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the iterations that run end, and stop."""
        for inbox in self._inboxes:
            inbox.put(None)
        for thread in self._threads:
            thread.join()

    def finish(self) -> None:
        """The run is over: wait for the iterations that still run, which nobody learns of."""
        while any(self._busy):
            gpu, found = self._reports.get()
            self._busy[gpu] = False
            if isinstance(found, BaseException):
                raise found

    def made(self) -> dict[int, list[int]]:
        """Tokens of each request so far, in order."""
        return {r: tokens for engine in self._engines for r, tokens in engine.made.items()}

    def begin(self, stream: RequestStream) -> None:
        """Every engine is empty, and time 0 is now."""
        self.stream = stream
        self.iterations, self.events = [[] for _ in self._engines], []
        self._parked: dict[int, Any] = {}
        for engine in self._engines:
            engine.begin(stream)
        self._clock.start()

    def now(self) -> float:
        """Seconds since the run began."""
        return self._clock.now()

    def park(self, gpu: int, request: int) -> None:
        """As :meth:`.Machine.park`."""
        self._parked[request] = self._engines[gpu].park(request)

    def drop(self, request: int) -> None:
        """As :meth:`.Machine.drop`."""
        del self._parked[request]

    def start(self, gpu: int, sent: Sequence[Sent], time: float) -> None:
        """As :meth:`.Machine.start`; the real time is now."""
        del time
        parked = {r: self._parked.pop(r) for r, _ in sent if r in self._parked}
        self._busy[gpu] = True
        self._inboxes[gpu].put((tuple(sent), parked))

    def wait(self, until: float) -> Ended | None:
        """As :meth:`.Machine.wait`."""
        left = min(until - self.now(), _NEVER)
        try:
            gpu, found = self._reports.get(timeout=left) if left > 0 else self._reports.get_nowait()
        except queue.Empty:
            return None
        self._busy[gpu] = False
        if isinstance(found, BaseException):
            raise found
        self.iterations[gpu].append(found)
        return Ended(gpu, found.start + found.seconds, found.prefilled, found.completed)

    def applied(self, ended: Ended, time: float) -> None:
        """As :meth:`.Machine.applied`."""
        self.iterations[ended.gpu][-1].end = time

    def told(self, events: np.ndarray) -> None:
        """As :meth:`.Machine.told`."""
        self.events.append(events)

    def _work(self, gpu: int) -> None:
        self._engines[gpu].warm_up()  # the first calls of a thread take longer
        self._reports.put((gpu, Iteration(0.0, 0.0, Content(0, 0, 0, 0), ())))
        while (message := self._inboxes[gpu].get()) is not None:
            self._reports.put((gpu, self._iterated(gpu, *message)))

    def _iterated(self, gpu: int, *message: Any) -> Iteration | BaseException:
        try:
            return iterated(self._engines[gpu], self._clock, *message)
        except BaseException as error:  # noqa: BLE001 - raised where the run waits
            return error
