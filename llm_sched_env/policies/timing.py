"""Wall time spent simulating, without loading, compiling and planning."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Span(NamedTuple):
    """An interval of wall time, seconds since the epoch, so that machines have the same."""

    start: float
    end: float


@contextmanager
def timed(spans: list[Span]) -> Iterator[None]:
    """Append when the block ran."""
    # The fine clock for the length: the other may be coarse, or be set.
    start, started = time.time(), time.perf_counter()
    yield
    spans.append(Span(start, start + time.perf_counter() - started))


def covered_seconds(spans: Iterable[Span]) -> float:
    """Seconds in which at least one of the spans ran."""
    covered, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered
