"""Select rows by the values of their columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from research.framework.study import Row


def selected(rows: list[Row], **wanted: Any) -> list[Row]:
    """The rows that have these values, in their order."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def column(rows: list[Row], name: str, **wanted: Any) -> np.ndarray:
    """A column of the rows that have these values, shape (N,), N > 0.

    Raises:
        ValueError: if no row has them.
    """
    values = [row[name] for row in selected(rows, **wanted)]
    if not values:
        raise ValueError(f"rows: got none with {wanted}, expected values that occur")
    return np.array(values)
