"""Threads over the rows of a batch: each part is one call into code that releases the lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llm_sched_env.errors import checked_integer


def available_processors() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class RowParts:
    """Splits a range of rows into one contiguous part per thread.

    The caller's thread takes the first part. Threads start with the first use and are not
    pickled.

    Args:
        threads: parts, at most one per row.
    """

    def __init__(self, threads: int) -> None:
        self.threads = checked_integer("threads", threads)
        self._pool: ThreadPoolExecutor | None = None

    def run(self, work: Callable[[int, int], None], first: int, last: int) -> None:
        """Call ``work(start, end)`` on parts of first..last-1 and wait for all."""
        parts = min(self.threads, last - first)
        if parts <= 1:
            work(first, last)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1, "llm-sched-env")
        bounds = [first + (last - first) * part // parts for part in range(parts + 1)]
        others = [self._pool.submit(work, bounds[p], bounds[p + 1]) for p in range(1, parts)]
        work(bounds[0], bounds[1])
        for other in others:
            other.result()

    def __getstate__(self) -> dict[str, Any]:
        return {"threads": self.threads, "_pool": None}
