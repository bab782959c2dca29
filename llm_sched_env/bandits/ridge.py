"""Ridge regression that takes one observation after the other."""

from __future__ import annotations

import numpy as np

from llm_sched_env.errors import ConfigurationError


class Ridge:
    """A Gram matrix V, its inverse and determinant, and b = sum of x y.

    The inverse follows V by the Sherman-Morrison formula: O(d^2) an observation.

    Args:
        gram: V before the first observation, positive definite, shape (d, d).
        target: b before the first observation, shape (d,); default zero.

    Attributes:
        gram: V, shape (d, d).
        inverse: V^-1, shape (d, d).
        target: b, shape (d,).
        log_det_growth: log det V less that of the first V.

    Example:
        >>> ridge = Ridge(np.eye(2))
        >>> ridge.add(np.array([1.0, 0.0]), 2.0)
        >>> ridge.centre
        array([1., 0.])
    """

    def __init__(self, gram: np.ndarray, target: np.ndarray | None = None) -> None:
        self.gram = np.array(gram, float)
        self.inverse = np.linalg.inv(self.gram)
        self.target = np.zeros(len(self.gram)) if target is None else np.array(target, float)
        self.log_det_growth = 0.0

    @property
    def centre(self) -> np.ndarray:
        """V^-1 b, shape (d,)."""
        solution: np.ndarray = self.inverse @ self.target
        return solution

    def add(self, x: np.ndarray, y: float) -> None:
        """Take in one observation."""
        column = self.inverse @ x
        growth = float(x @ column)
        self.inverse -= np.outer(column, column / (1.0 + growth))
        self.gram += np.outer(x, x)
        self.target += x * y
        self.log_det_growth += float(np.log1p(growth))

    def norms(self, actions: np.ndarray) -> np.ndarray:
        """The norm of each row x in V^-1, shape (K,)."""
        return row_norms(actions, self.inverse)


def row_norms(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """sqrt(x' A x) of each row x, shape (K,), for a positive semidefinite A."""
    squares = np.einsum("kd,kd->k", rows @ matrix, rows)
    norms: np.ndarray = np.sqrt(np.maximum(squares, 0.0))
    return norms


def checked_actions(actions: np.ndarray, dimension: int) -> np.ndarray:
    """Actions as an array of shape (K, d) with K >= 1 and finite entries, or an error."""
    found = np.asarray(actions, float)
    if found.ndim != 2 or found.shape[1] != dimension or not len(found):
        raise ConfigurationError(
            "actions: shape", found.shape, f"(K, {dimension}) with K >= 1, one action a row"
        )
    if not np.isfinite(found).all():
        raise ConfigurationError("actions", "NaN or infinity", "finite numbers")
    return found


def checked_observation(x: np.ndarray, y: float, dimension: int) -> tuple[np.ndarray, float]:
    """An action and its reward as floats of the right shape, or an error."""
    found = np.asarray(x, float)
    if found.shape != (dimension,) or not np.isfinite(found).all():
        raise ConfigurationError("x", found.tolist(), f"{dimension} finite numbers")
    if not np.isfinite(y):
        raise ConfigurationError("y", y, "a finite number")
    return found, float(y)
