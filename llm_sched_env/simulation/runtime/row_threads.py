"""Threads that advance the rows of a batch together, without the interpreter lock."""

from __future__ import annotations

import ctypes
import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from llm_sched_env.errors import checked_integer
from llm_sched_env.simulation.runtime.compiled import COMPILED
from llm_sched_env.simulation.runtime.row_claims import TICKETS, await_change, packed

Work = Callable[[np.ndarray, int, int, int], None]
"""``work(claims, ticket, part, rows)``: claims and runs rows; part 0 waits until all are done."""


def available_processors() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Reads of a counter before a helper sleeps, some tenths of a millisecond: waking a processor that
# has gone idle can take as long as a step, and the next step is often near.
_READS_BEFORE_SLEEP = 300_000

Tasks = queue.SimpleQueue[Callable[[], None] | None]


def _processor_reader() -> Callable[[], int] | None:
    """A function that tells the calling thread's processor, where the system can move threads."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        reader: Callable[[], int] = ctypes.CDLL(None).sched_getcpu
    except (AttributeError, OSError, TypeError):
        return None
    return reader


_current_processor = _processor_reader()


def _serve(tasks: Tasks, posted: np.ndarray) -> None:
    """Run tasks until one is None."""
    while True:
        if tasks.empty():
            await_change(posted, int(posted[0]), _READS_BEFORE_SLEEP)
        task = tasks.get()
        if task is None:
            return
        task()
        del task  # it holds the batch, whose end ends this thread


class RowThreads:
    """The caller's thread and its helpers, which start with the first use and are not pickled.

    Args:
        threads: how many, the caller's included.
    """

    def __init__(self, threads: int) -> None:
        self.threads = checked_integer("threads", threads) if COMPILED else 1
        self._ticket = 0
        self._tasks: Tasks | None = None
        self._posted = np.zeros(1, np.int64)  # tasks so far
        self._helpers: list[int] = []  # thread ids
        self._process = 0  # where they run
        self._processor = -1  # that they stay off

    def run(self, work: Work, first: int, last: int) -> None:
        """Run rows first..last-1 and return when all are done."""
        rows = last - first
        parts = max(1, min(self.threads, rows))
        if parts == 1:
            work(np.array([packed(0, first, last), 0]), 0, 0, rows)
            return
        self._ticket = ticket = (self._ticket + 1) % TICKETS
        # One int64 per part, and the number of rows done. New for each call: nothing that a thread
        # of an interrupted call still does can reach it.
        claims = np.zeros(parts + 1, np.int64)
        for part in range(parts):
            bounds = (first + rows * edge // parts for edge in (part, part + 1))
            claims[part] = packed(ticket, *bounds)
        tasks = self._started()
        self._keep_helpers_away()
        self._posted += parts - 1
        for part in range(1, parts):
            tasks.put(lambda part=part: work(claims, ticket, part, rows))  # type: ignore[misc]
        work(claims, ticket, 0, rows)

    def _started(self) -> Tasks:
        """The queue that the helpers serve; they start with its first use in this process."""
        if self._tasks is None or self._process != os.getpid():
            self._tasks, self._process, self._helpers = queue.SimpleQueue(), os.getpid(), []
            for _ in range(self.threads - 1):
                thread = threading.Thread(
                    target=_serve,
                    args=(self._tasks, self._posted),
                    name="llm-sched-env",
                    daemon=True,
                )
                thread.start()
                self._helpers.append(thread.native_id or 0)
                weakref.finalize(self, self._tasks.put, None)
        return self._tasks

    def _keep_helpers_away(self) -> None:
        """Keep helpers off the caller's processor.

        Some schedulers wake a helper there, where it gets nothing done, and leave it: each call
        is over before they balance the load.
        """
        if _current_processor is None:
            return
        processor = _current_processor()
        if processor == self._processor:
            return
        self._processor = processor
        others = os.sched_getaffinity(0) - {processor}
        if others:
            for helper in self._helpers:
                os.sched_setaffinity(helper, others)

    def __getstate__(self) -> dict[str, Any]:
        return {"threads": self.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["threads"])  # type: ignore[misc]
