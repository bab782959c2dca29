"""Work stealing: each thread owns a part of the rows and helps the others when done.

An owner takes rows from the front of its part, helpers from the back, so that a row mostly stays
with one thread, and in its cache, from call to call; a thread that wakes late has less to do.
A part is one int64: the ticket of the call, the next row, and one past the last. A thread of an
earlier call holds an old ticket and gets nothing.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.runtime.atomics import atomic_load, compare_and_swap
from llm_sched_env.simulation.runtime.compiled import compiled, entry_point

_ROW_BITS = 21
_ROW_MASK = (1 << _ROW_BITS) - 1
MOST_ROWS = _ROW_MASK
"""Clusters that a batch may have."""
TICKETS = 1 << 20


def packed(ticket: int, first: int, last: int) -> int:
    """A part with rows first..last-1."""
    return (ticket << 2 * _ROW_BITS) | (first << _ROW_BITS) | last


@entry_point
def await_change(values: np.ndarray, old: int, reads: int) -> None:
    """Return when ``values[0]`` is no longer ``old``, or after so many reads; holds no lock."""
    while reads > 0 and atomic_load(values, 0) == old:
        reads -= 1


@compiled
def claim_row(parts: np.ndarray, part: int, ticket: int, from_front: bool) -> int:
    """A row of a part that is now the caller's, or -1 when none is left of this ticket."""
    while True:
        value = atomic_load(parts, part)
        first = (value >> _ROW_BITS) & _ROW_MASK
        last = value & _ROW_MASK
        if value >> (2 * _ROW_BITS) != ticket or first >= last:
            return -1
        if from_front:
            if compare_and_swap(parts, part, value, value + (1 << _ROW_BITS)):
                return first
        elif compare_and_swap(parts, part, value, value - 1):
            return last - 1
