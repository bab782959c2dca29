"""States of the truncated queues, and of the traffic, as rows of a table.

A row counts the waiting requests, per class before prefill, then per class before decode, and knows
the state of the traffic, if arrivals come in bursts. Row numbers grow with the number of waiting
requests, so whatever takes one off a queue leads to an earlier row.
"""

from __future__ import annotations

from itertools import product
from math import comb
from typing import NamedTuple

import numpy as np

NO_ROW = -1


class QueueTables(NamedTuple):
    """R rows for I classes and S states of the traffic, 1 if its rates are constant.

    Queue j < I is prefill of class j, queue I + j decode of class j.

    Attributes:
        counts: waiting requests, shape (R, 2I).
        more: the row with one more, or NO_ROW beyond the limits, shape (R, 2I).
        fewer: the row with one fewer, or NO_ROW if there is none, shape (R, 2I).
        may_wait: False where one prefilled request too many waits: it must be placed at once,
            shape (R,).
        traffic: state of the traffic, shape (R,).
        switched: the row with the same queues in each state of the traffic, shape (R, S).
    """

    counts: np.ndarray
    more: np.ndarray
    fewer: np.ndarray
    may_wait: np.ndarray
    traffic: np.ndarray
    switched: np.ndarray


def count_rows(n_classes: int, queue_limit: int, decode_limit: int, n_traffic: int = 1) -> int:
    """R, without listing the rows."""
    prefill_queues: int = (queue_limit + 1) ** n_classes
    return n_traffic * prefill_queues * comb(decode_limit + 1 + n_classes, n_classes)


def queue_tables(
    n_classes: int, queue_limit: int, decode_limit: int, n_traffic: int = 1
) -> QueueTables:
    """All rows with <= queue_limit of each class before prefill, <= decode_limit + 1 prefilled."""
    lines = product(range(decode_limit + 2), repeat=n_classes)
    decode_lines = [line for line in lines if sum(line) <= decode_limit + 1]
    prefill_queues = product(range(queue_limit + 1), repeat=n_classes)
    lengths = [queues + line for queues in prefill_queues for line in decode_lines]
    lengths.sort(key=lambda row: (sum(row), row))
    # Rows of the same queues lie side by side, one for each state of the traffic.
    index = {row: n_traffic * k for k, row in enumerate(lengths)}
    counts = np.repeat(np.array(lengths, dtype=np.int64), n_traffic, axis=0)
    more = np.full(counts.shape, NO_ROW, dtype=np.int64)
    fewer = np.full_like(more, NO_ROW)
    states = np.arange(n_traffic)
    for row, first in index.items():
        for j in range(2 * n_classes):
            longer = (*row[:j], row[j] + 1, *row[j + 1 :])
            if longer in index:
                more[first + states, j] = index[longer] + states
                fewer[index[longer] + states, j] = first + states
    may_wait = counts[:, n_classes:].sum(axis=1) <= decode_limit
    traffic = np.tile(states, len(lengths))
    switched = (np.arange(len(counts)) - traffic)[:, None] + states
    return QueueTables(counts, more, fewer, may_wait, traffic, switched)
