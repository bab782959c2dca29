"""Engines in real time, in a process each; the router is the process of the scheduler.

Decisions are taken while engines compute: the router hears of an iteration's end through a pipe,
as that of a serving cluster does, and says through it who joins the next one.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for_any

import numpy as np
from typing_extensions import Self

from llm_sched_env.serving.clocks import WallClock
from llm_sched_env.serving.engine_process import (
    Begin,
    EngineProcess,
    Kept,
    Made,
    Park,
    Parked,
    Ready,
    Start,
    Tell,
)
from llm_sched_env.serving.engine_settings import EngineSettings
from llm_sched_env.serving.real_machine import Iteration
from llm_sched_env.serving.shared_caches import forget_cache
from llm_sched_env.simulation.machine import Ended, Sent
from llm_sched_env.simulation.state.layout import RequestStream

_NEVER = 3600.0  # seconds of a wait that nothing is due in


class WorkerMachine:
    """Engines as GPUs of a cluster.

    An error or an interrupt on the way to or from an engine ends all of them, since nobody knows
    any more what each has heard; the next run starts new ones.

    Args:
        settings: of each engine.
        workers: engines, one a GPU.

    Attributes:
        iterations: of each GPU, those that have ended.
        events: what happened in the cluster, as the scheduler told it.

    Raises:
        WorkerError: here and in all methods, if an engine fails or its process ends.
    """

    def __init__(self, settings: EngineSettings, workers: int) -> None:
        self._settings, self._workers = settings, workers
        self._engines: list[EngineProcess] = []
        self._prefix = f"llmsched_{secrets.token_hex(6)}"  # of names of shared memory
        self._clock = WallClock()
        self.stream: RequestStream | None = None
        self.iterations: list[list[Iteration]] = []
        self.events: list[np.ndarray] = []
        self._shared: dict[int, str] = {}  # names that may be taken, by request
        self._forget_run()
        self._start_engines()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def processes(self) -> list[int]:
        """Numbers that the operating system knows the engines by, in order of GPUs."""
        return [engine.process.pid or 0 for engine in self._engines]

    def close(self) -> None:
        """Let the iterations that run end, and stop."""
        while self._engines:
            self._engines.pop().close()
        self._forget_run()

    def finish(self) -> None:
        """The run is over: wait for the iterations that still run, which nobody learns of."""
        while any(self._busy):
            self._receive(None)
        self._ended.clear()

    def made(self) -> dict[int, list[int]]:
        """Tokens of each request so far, in order; none if the engines of the run are gone."""
        self._made: list[Made] = []
        for gpu in range(len(self._engines)):
            self._send(gpu, Tell())
        while len(self._made) < len(self._engines):
            self._receive(None)
        return {r: tokens for made in self._made for r, tokens in made.tokens.items()}

    def begin(self, stream: RequestStream) -> None:
        """Every engine is empty, and time 0 is now."""
        self.iterations, self.events = [[] for _ in range(self._workers)], []
        self.stream = stream
        if not self._engines:
            self._start_engines()
        self._awaited = self._workers
        for gpu in range(self._workers):
            self._send(gpu, Begin(stream))
        self._wait_until_ready()
        self._forget_run()
        self._clock.start()

    def park(self, gpu: int, request: int) -> None:
        """As :meth:`.Machine.park`; the engine does so before its next iteration."""
        self._parked[request] = None
        self._shared[request] = name = f"{self._prefix}_{request}"
        self._send(gpu, Park(request, name))

    def drop(self, request: int) -> None:
        """As :meth:`.Machine.drop`."""
        self._taken(request)
        forget_cache(self._shared.pop(request))

    def start(self, gpu: int, sent: Sequence[Sent], time: float) -> None:
        """As :meth:`.Machine.start`; the real time is now."""
        del time
        kept = {r: self._taken(r) for r, _ in sent if r in self._parked}
        self._busy[gpu] = True
        self._send(gpu, Start(tuple(sent), kept))

    def wait(self, until: float) -> Ended | None:
        """As :meth:`.Machine.wait`."""
        while not self._ended:
            left = min(until - self._clock.now(), _NEVER)
            if not self._receive(max(0.0, left)):
                return None
        gpu, found = self._ended.popleft()
        self.iterations[gpu].append(found)
        return Ended(gpu, found.start + found.seconds, found.prefilled, found.completed)

    def applied(self, ended: Ended, time: float) -> None:
        """As :meth:`.Machine.applied`."""
        self.iterations[ended.gpu][-1].end = time

    def told(self, events: np.ndarray) -> None:
        """As :meth:`.Machine.told`."""
        self.events.append(events)

    def _start_engines(self) -> None:
        self._awaited = self._workers
        with self._all_or_none():
            for gpu in range(self._workers):
                self._engines.append(EngineProcess(self._settings, gpu))
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        while self._awaited:
            self._receive(None)

    def _taken(self, request: int) -> Kept:
        """What a parked request takes along, once its engine has put it there."""
        while (kept := self._parked[request]) is None:
            self._receive(None)
        del self._parked[request]
        return kept

    def _send(self, gpu: int, message: Begin | Park | Start | Tell) -> None:
        with self._all_or_none():
            self._engines[gpu].send(message)

    def _receive(self, seconds: float | None) -> bool:
        """Take in what engines say within so many seconds; whether any did."""
        with self._all_or_none():
            ready = wait_for_any([engine.connection for engine in self._engines], seconds)
            for gpu, engine in enumerate(self._engines):
                if engine.connection in ready:
                    self._take_in(gpu, engine.receive())
            return bool(ready)

    def _take_in(self, gpu: int, answer: Ready | Parked | Iteration | Made) -> None:
        if isinstance(answer, Iteration):
            self._busy[gpu] = False
            answer.start -= self._clock.origin
            for request, _ in answer.sent:
                self._shared.pop(request, None)  # the engine has read it
            self._ended.append((gpu, answer))
        elif isinstance(answer, Parked):
            self._parked[answer.request] = answer.kept
        elif isinstance(answer, Made):
            self._made.append(answer)
        else:
            self._awaited -= 1

    @contextmanager
    def _all_or_none(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            while self._engines:
                self._engines.pop().close(grace=0.0)
            self._forget_run()
            raise

    def _forget_run(self) -> None:
        """No engine is at work, and none holds a cache."""
        for name in self._shared.values():
            forget_cache(name)
        self._shared.clear()
        self._busy = [False] * self._workers
        self._ended: deque[tuple[int, Iteration]] = deque()
        self._parked: dict[int, Kept | None] = {}  # None: the engine has yet to say so
