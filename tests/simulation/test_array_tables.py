"""Compiled functions read arrays through addresses as they would from the tuple itself."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import pytest

from llm_sched_env.simulation.runtime.array_tables import (
    ArraysPointer,
    address_table,
    pointer_to_row,
)
from llm_sched_env.simulation.runtime.compiled import COMPILED

pytestmark = pytest.mark.skipif(not COMPILED, reason="without compilation there are no addresses")

RECORD = np.dtype([("count", np.int64), ("share", np.float64)])


class Inner(NamedTuple):
    """A tuple in a tuple."""

    lengths: np.ndarray
    empty: np.ndarray


class Outer(NamedTuple):
    """Arrays of each kind that the engine has."""

    records: np.ndarray
    inner: Inner
    table: np.ndarray
    cube: np.ndarray
    marks: np.ndarray


INNER = ArraysPointer("Inner", {"lengths": (np.float64, 1), "empty": (np.int64, 1)})
OUTER = ArraysPointer(
    "Outer",
    {
        "records": (RECORD, 1),
        "inner": INNER,
        "table": (np.int32, 2),
        "cube": (np.float64, 3),
        "marks": (np.int64, 1),
    },
)
row_of = pointer_to_row(OUTER)


@numba.njit
def read_and_write(rows, k):
    """Something of each array, and a change in two of them."""
    row = row_of(rows, k)
    row.records[1].count += 5
    row.table[1, 2] = 7
    return (
        row.records[1].count + row.records[0].share,
        row.inner.lengths.sum(),
        len(row.inner.empty),
        row.table[1].sum(),
        row.cube[1, 0, 2] + row.cube.shape[2],
        row.marks[-1],
    )


def stacked(n, seed):
    """N tuples."""
    rng = np.random.default_rng(seed)
    records = np.zeros((n, 2), RECORD)
    records["count"], records["share"] = rng.integers(0, 9, (n, 2)), rng.random((n, 2))
    return Outer(
        records,
        Inner(rng.random((n, 4)), np.empty((n, 0), np.int64)),
        rng.integers(0, 9, (n, 2, 3)).astype(np.int32),
        rng.random((n, 2, 1, 3)),
        rng.integers(0, 9, (n, 5)),
    )


def test_what_is_read_and_written_is_what_is_in_the_arrays():
    arrays = stacked(3, 0)
    before = stacked(3, 0)
    rows = address_table(OUTER, arrays)
    for k in range(3):
        read = read_and_write(rows, k)
        assert arrays.records["count"][k, 1] == before.records["count"][k, 1] + 5
        assert arrays.table[k, 1, 2] == 7
        assert read == pytest.approx(
            (
                arrays.records["count"][k, 1] + arrays.records["share"][k, 0],
                arrays.inner.lengths[k].sum(),
                0,
                arrays.table[k, 1].sum(),
                arrays.cube[k, 1, 0, 2] + 3,
                arrays.marks[k, -1],
            ),
            rel=1e-15,
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"table": np.zeros((3, 2, 3), np.int64)},
        {"marks": np.zeros((3, 5, 1), np.int64)},
        {"marks": np.zeros((3, 10), np.int64)[:, ::2]},
        {"inner": Inner(np.zeros((3, 4), np.float32), np.empty((3, 0), np.int64))},
    ],
    ids=["another type", "another dimension", "gaps", "another type inside"],
)
def test_what_compiled_code_would_misread_is_refused(wrong):
    with pytest.raises(TypeError, match="compiled code reads"):
        address_table(OUTER, stacked(3, 1)._replace(**wrong))
