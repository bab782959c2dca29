"""Fit a sum of terms to iteration times: non-negative, by relative errors, despite stragglers.

Times span a factor of ten, and what counts is how far off a request's wait is as a share of it, so
squares of relative errors are minimised: rows are divided by their seconds, and once a first fit is
there by what it says (else noise, which divides by too little as often as by too much, would bias
the fit towards short times). Iterations far from those of the same kind are left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter
from scipy.optimize import nnls

from llm_sched_env.errors import CalibrationError

_ROUNDS = 20
_NEIGHBOURS = 31  # iterations of the same kind that one is compared with
_FEWEST_NEIGHBOURS = 3
_DEVIATIONS, _LEAST_DEVIATION = 6.0, 0.1  # robust standard deviations, and a share of the time
_LEAST_SECONDS = 1e-6  # of the constant term: an iteration takes time
_SAME = 1e-3  # spread over mean of a column that is constant
_DEPENDENT = 1e-3  # share of a column's variance that others leave unexplained


@dataclass(frozen=True)
class Stragglers:
    """Iterations that were left out, since others like them took another time.

    Attributes:
        count: how many.
        share: of all iterations of this mode.
        excess_seconds: that they took beyond the fit, in all.
        excess_share: of the measured time of this mode.
    """

    count: int
    share: float
    excess_seconds: float
    excess_share: float


@dataclass(frozen=True, eq=False)
class RelativeFit:
    """Coefficients >= 0 by name.

    Attributes:
        coefficients: by column.
        unidentified: columns that the rows cannot tell, and why; their coefficient is 0.
        at_zero: columns whose coefficient would be negative.
        stragglers: what was left out.
    """

    coefficients: dict[str, float]
    unidentified: dict[str, str]
    at_zero: tuple[str, ...]
    stragglers: Stragglers


def fit_relative(columns: Mapping[str, np.ndarray], seconds: np.ndarray) -> RelativeFit:
    """Fit seconds as a sum of columns, each times a coefficient >= 0.

    Args:
        columns: by name, shape (K,) each; the first is constant. Of columns that depend on each
            other the earlier ones are kept.
        seconds: measured, > 0; shape (K,).

    Raises:
        CalibrationError: if there is no row.
    """
    if len(seconds) == 0:
        raise CalibrationError("fit of iteration times: no iteration to fit to")
    unidentified = unidentified_columns(columns)
    kept = [name for name in columns if name not in unidentified]
    design = np.column_stack([columns[name] for name in kept])
    kind = np.lexsort(tuple(columns[name] for name in reversed(kept)))
    inside, scale = np.ones(len(seconds), bool), seconds
    for _ in range(_ROUNDS):
        found = _non_negative(design[inside] / scale[inside, None], (seconds / scale)[inside])
        found[0] = max(found[0], _LEAST_SECONDS)
        fitted = design @ found
        before, inside = inside, _like_their_kind(seconds / fitted - 1.0, kind)
        settled = np.array_equal(before, inside) and np.allclose(fitted, scale, rtol=1e-9)
        scale = fitted
        if settled:
            break
    coefficients = dict.fromkeys(columns, 0.0) | dict(zip(kept, found.tolist(), strict=True))
    excess = float((seconds - fitted)[~inside].sum())
    left_out = int((~inside).sum())
    return RelativeFit(
        coefficients,
        unidentified,
        tuple(name for name in kept if coefficients[name] == 0.0),
        Stragglers(left_out, left_out / len(seconds), excess, excess / float(seconds.sum())),
    )


def unidentified_columns(columns: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Columns that are constant or follow from those before them, and in which way."""
    names = list(columns)
    kept: list[str] = names[:1]
    faults: dict[str, str] = {}
    for name in names[1:]:
        column = columns[name]
        if np.std(column) <= _SAME * abs(np.mean(column)):
            faults[name] = "it was the same in every iteration"
            continue
        others = np.column_stack([columns[other] for other in kept])
        others = others / np.linalg.norm(others, axis=0)
        left = column - others @ np.linalg.lstsq(others, column, rcond=None)[0]
        if np.var(left) <= _DEPENDENT * np.var(column):
            known = " and ".join(kept[1:])
            faults[name] = f"it followed from {known} in every iteration"
            continue
        kept.append(name)
    return faults


def _non_negative(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Non-negative least squares with columns of one size, which the solver needs."""
    size = np.linalg.norm(rows, axis=0)
    found, _ = nnls(rows / size, targets)
    solution: np.ndarray = found / size
    return solution


def _like_their_kind(errors: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Which iterations are off by about as much as those next to them in ``kind``; bool.

    A law that is off for all iterations of a kind makes none of them a straggler.
    """
    width = min(_NEIGHBOURS, len(errors) // 2 * 2 - 1)
    inside = np.ones(len(errors), bool)
    if width < _FEWEST_NEIGHBOURS:
        return inside
    ordered = errors[kind]
    apart = np.abs(ordered - median_filter(ordered, width, mode="nearest"))
    limit = max(_DEVIATIONS * 1.4826 * float(np.median(apart)), _LEAST_DEVIATION)
    inside[kind] = apart <= limit
    return inside
