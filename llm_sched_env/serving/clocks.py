"""The clock of a run: that of the wall, or one that stands still while others use the processor.

On a CPU that several programs share, an iteration lasts as long as the operating system lets it.
The processor's clock counts the time that this thread computes, and the time that it sleeps until
something is due: the run is as if nobody else computed, but for caches and memory that they share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from llm_sched_env.errors import ConfigurationError, one_of

_NEVER = 3600.0  # seconds of a wait that nothing is due in


class Clock(Protocol):
    """Seconds since it was started."""

    def start(self) -> None:
        """Time 0 is now."""

    def now(self) -> float:
        """Seconds."""

    def sleep(self, until: float) -> None:
        """Do nothing until a time, seconds."""


class WallClock:
    """Real time.

    Args:
        origin: :func:`time.perf_counter` at time 0, which is one clock for all processes of a
            machine; default: now.

    Attributes:
        origin: likewise.
    """

    def __init__(self, origin: float | None = None) -> None:
        self.origin = time.perf_counter() if origin is None else origin

    def start(self) -> None:
        """As :meth:`Clock.start`."""
        self.origin = time.perf_counter()

    def now(self) -> float:
        """As :meth:`Clock.now`."""
        return time.perf_counter() - self.origin

    def sleep(self, until: float) -> None:
        """As :meth:`Clock.sleep`."""
        time.sleep(min(max(0.0, until - self.now()), _NEVER))


class ProcessorClock:
    """Time that this thread computes or sleeps for want of work."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """As :meth:`Clock.start`."""
        self._origin = time.thread_time()

    def now(self) -> float:
        """As :meth:`Clock.now`."""
        return time.thread_time() - self._origin

    def sleep(self, until: float) -> None:
        """As :meth:`Clock.sleep`; it is ``until`` then, however late the thread is woken."""
        left = min(until - self.now(), _NEVER)
        if left > 0.0:
            time.sleep(left)
            self._origin = time.thread_time() - until


CLOCKS: dict[str, Callable[[], Clock]] = {"wall": WallClock, "processor": ProcessorClock}


def clock_of(name: str, device: str = "cpu", workers: int = 1) -> Clock:
    """A clock by name.

    Args:
        name: of ``CLOCKS``.
        device: of the engine.
        workers: engines.

    Raises:
        ConfigurationError: for one that does not exist, or cannot tell the time of these engines.

    Example:
        >>> clock = clock_of("processor")
        >>> clock.sleep(0.01)
        >>> 0.01 <= clock.now() < 1.0
        True
    """
    if name not in CLOCKS:
        raise ConfigurationError("clock", name, one_of(CLOCKS))
    if name == "processor" and (device != "cpu" or workers > 1):
        raise ConfigurationError(
            "clock", name, "wall: the processor's clock is that of one engine on a CPU"
        )
    return CLOCKS[name]()
