"""Threads that advance the rows of a batch together, in code that releases the interpreter lock."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from llm_sched_env.errors import checked_integer
from llm_sched_env.simulation.compiled import COMPILED
from llm_sched_env.simulation.row_claims import TICKETS, packed

Work = Callable[[np.ndarray, int, int, int], None]
"""``work(claims, ticket, part, rows)``: claims and runs rows; part 0 waits until all are done."""


def available_processors() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _serve(tasks: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while True:
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
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] | None = None

    def run(self, work: Work, first: int, last: int) -> None:
        """Run rows first..last-1 and return when all are done."""
        parts = min(self.threads, last - first)
        self._ticket = (self._ticket + 1) % TICKETS
        ticket, rows = self._ticket, last - first
        # One int64 per part, and the number of rows done. New for each call: nothing that a thread
        # of an interrupted call still does can reach it.
        claims = np.zeros(self.threads + 1, np.int64)
        for part in range(self.threads):
            start = first + rows * min(part, parts) // max(parts, 1)
            end = first + rows * min(part + 1, parts) // max(parts, 1)
            claims[part] = packed(ticket, start, end)
        for part in range(1, parts):
            self._helpers().put(lambda part=part: work(claims, ticket, part, rows))  # type: ignore[misc]
        work(claims, ticket, 0, rows)

    def _helpers(self) -> queue.SimpleQueue[Callable[[], None] | None]:
        if self._tasks is None:
            self._tasks = queue.SimpleQueue()
            for _ in range(self.threads - 1):
                threading.Thread(
                    target=_serve, args=(self._tasks,), name="llm-sched-env", daemon=True
                ).start()
                weakref.finalize(self, self._tasks.put, None)
        return self._tasks

    def __getstate__(self) -> dict[str, Any]:
        return {"threads": self.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["threads"])  # type: ignore[misc]
