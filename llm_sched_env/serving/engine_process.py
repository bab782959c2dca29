"""An engine in a process of its own: what its router tells it through a pipe, and its answers.

Messages are small: numbers, names, and a stream of requests when a run begins. KV caches go from
engine to engine through shared memory (shared_caches.py), not through the router.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import NamedTuple

from llm_sched_env.errors import LLMSchedError, WorkerError
from llm_sched_env.serving.clocks import WallClock
from llm_sched_env.serving.engine import Engine
from llm_sched_env.serving.engine_settings import EngineSettings
from llm_sched_env.serving.real_machine import Iteration, iterated
from llm_sched_env.serving.shared_caches import share_cache, take_cache
from llm_sched_env.simulation.machine import Sent
from llm_sched_env.simulation.state.layout import RequestStream

_GRACE = 5.0  # seconds for an iteration to end, when the router is gone


class Begin(NamedTuple):
    """Be empty, and serve the requests of a stream; answered by Ready."""

    stream: RequestStream


class Park(NamedTuple):
    """Take a prefilled request out of its slot; answered by Parked."""

    request: int
    name: str  # of its cache in shared memory


class Kept(NamedTuple):
    """What a request takes along."""

    name: str  # of its cache in shared memory
    length: int  # of the cache, tokens
    next_token: int  # that its prefill has yielded


class Start(NamedTuple):
    """Run an iteration; answered by an Iteration."""

    sent: tuple[Sent, ...]
    kept: dict[int, Kept]  # of those who come from a line, by request


class Tell(NamedTuple):
    """Say what was made; answered by Made."""


class Ready(NamedTuple):
    """The engine is empty."""


class Parked(NamedTuple):
    """The cache of a request is in shared memory."""

    request: int
    kept: Kept


class Made(NamedTuple):
    """Output tokens of each request so far."""

    tokens: dict[int, list[int]]


class Failed(NamedTuple):
    """The engine cannot go on."""

    reason: str
    trace: str


class EngineProcess:
    """The router's end of an engine: starts its process, and talks to it.

    Args:
        settings: of the engine.
        gpu: its number.

    Attributes:
        connection: readable when there is an answer, or the process has ended.
        process: that runs the engine.
    """

    def __init__(self, settings: EngineSettings, gpu: int) -> None:
        # Not a copy of this process: threads and CUDA do not survive that.
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(
            target=run_engine, args=(settings, other), name=f"engine {gpu}", daemon=True
        )
        with _without_interrupts():
            self.process.start()
        # The only copy of the other end is now the engine's, so that its end can be seen.
        other.close()

    def send(self, message: Begin | Park | Start | Tell) -> None:
        """Tell the engine something; raises WorkerError if its process has ended."""
        try:
            self.connection.send(message)
        except OSError:
            raise self._ended() from None

    def receive(self) -> Ready | Parked | Iteration | Made:
        """Wait for the next answer.

        Raises:
            WorkerError: if the engine has failed or its process has ended.
        """
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(answer, Failed):
            cause = RuntimeError(f"in the process of {self.process.name}:\n{answer.trace}")
            raise WorkerError(f"{self.process.name}: {answer.reason}") from cause
        assert isinstance(answer, (Ready, Parked, Iteration, Made))
        return answer

    def close(self, grace: float = _GRACE) -> None:
        """Let the process end, or end it.

        Args:
            grace: seconds that an iteration may still take.
        """
        self.connection.close()
        self.process.join(grace)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _ended(self) -> WorkerError:
        self.process.join(_GRACE)
        code = self.process.exitcode
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        return WorkerError(
            f"{self.process.name}: its process ended during the run ({how}); if memory ran out, "
            "take fewer workers or batch slots, or a smaller shape"
        )


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that start here never see a Ctrl-C of their terminal: their router decides."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Starts a process on first use and lets interrupts through after it, so not in between.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_engine(settings: EngineSettings, connection: Connection) -> None:
    """Make an engine and serve its router, until that closes the pipe or ends.

    Args:
        settings: of the engine.
        connection: to the router.
    """
    gc.disable()  # its pauses would be counted as iterations
    # Without a router there is nobody to tell.
    with suppress(EOFError, OSError):
        try:
            engine = settings.engine()
            engine.warm_up()
            connection.send(Ready())
            while True:
                connection.send(_answer(engine, connection.recv()))
        except (EOFError, BrokenPipeError, ConnectionError):
            return
        except Exception as error:  # noqa: BLE001 - raised where the run waits
            said = str(error) if isinstance(error, LLMSchedError) else repr(error)
            connection.send(Failed(said, traceback.format_exc()))


def _answer(
    engine: Engine, message: Begin | Park | Start | Tell
) -> Ready | Parked | Iteration | Made:
    if isinstance(message, Begin):
        engine.begin(message.stream)
        gc.collect()
        return Ready()
    if isinstance(message, Park):
        cache, token = engine.park(message.request)
        share_cache(message.name, cache)
        return Parked(message.request, Kept(message.name, cache.shape[3], token))
    if isinstance(message, Tell):
        return Made(engine.made)
    parked = {}
    for request, (name, length, token) in message.kept.items():
        parked[request] = engine.blank(length)[0], token
        take_cache(name, parked[request][0])
    # From 0 on: by the clock that all processes of a machine share.
    return iterated(engine, WallClock(origin=0.0), message.sent, parked)
