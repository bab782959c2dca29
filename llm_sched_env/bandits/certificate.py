"""What is known of the difference between the offline parameter and the true one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm_sched_env.errors import ConfigurationError, is_finite_number

_ROUNDING = 1e-9


class Certificate:
    """An ellipsoid: ``(theta_off - theta)' M (theta_off - theta) <= rho^2`` with M >= 0.

    M is kept by its eigenvectors and the eigenvalues of M^-1, each from 0 (no difference in that
    direction) to infinity (any difference: M is zero there).

    Args:
        directions: orthonormal eigenvectors as columns, shape (d, d).
        spreads: eigenvalues of M^-1, each in [0, inf], shape (d,).
        rho: the bound, >= 0.

    Attributes:
        inverse: M^-1 on the directions with a bound, zero on the others, shape (d, d).
        rho: the bound.

    Raises:
        ConfigurationError: for a matrix that is not symmetric and positive semidefinite, or a
            negative bound.

    Example:
        >>> known = Certificate.of_matrix(np.diag([1.0, 0.0]), rho=0.5)
        >>> known.support(np.array([[2.0, 0.0], [0.0, 1.0]]))
        array([ 1., inf])
    """

    def __init__(
        self, directions: np.ndarray, spreads: Sequence[float] | np.ndarray, rho: float
    ) -> None:
        if not is_finite_number(rho):
            raise ConfigurationError("rho", rho, "a finite number >= 0")
        self.rho = float(rho)
        found = np.asarray(spreads, float)
        self.bounded = np.asarray(directions, float)[:, np.isfinite(found)]
        self.unbounded = np.asarray(directions, float)[:, ~np.isfinite(found)]
        self._root = self.bounded * np.sqrt(found[np.isfinite(found)])
        self.inverse = self._root @ self._root.T

    @classmethod
    def of_matrix(cls, matrix: np.ndarray, rho: float) -> Certificate:
        """From M itself; directions with M = 0 have no bound."""
        values, vectors = _eigen(matrix)
        with np.errstate(divide="ignore"):
            return cls(vectors, 1.0 / values, rho)

    @classmethod
    def of_inverse(cls, inverse: np.ndarray, rho: float) -> Certificate:
        """From M^-1; directions in which it is 0 have no difference at all."""
        values, vectors = _eigen(inverse)
        return cls(vectors, values, rho)

    @classmethod
    def euclidean(cls, dimension: int, rho: float) -> Certificate:
        """M = I: the length of the difference is at most rho."""
        return cls(np.eye(dimension), np.ones(dimension), rho)

    @property
    def dimension(self) -> int:
        """Entries d of the parameters."""
        return len(self.inverse)

    def support(self, rows: np.ndarray) -> np.ndarray:
        """The largest z' (theta_off - theta) for each row z, shape (K,): rho |z|_{M^-1}.

        Infinite for a row that leaves the range of M.
        """
        width: np.ndarray = self.rho * np.linalg.norm(rows @ self._root, axis=1)
        if self.unbounded.shape[1]:
            outside = np.linalg.norm(rows @ self.unbounded, axis=1)
            width[outside > _ROUNDING * np.linalg.norm(rows, axis=1)] = np.inf
        return width

    def holds_for(self, difference: np.ndarray) -> bool:
        """Whether a difference of the parameters, shape (d,), is within the ellipsoid."""
        spread = self._root.T @ self._root
        inside = self.bounded.T @ difference
        lengths = np.sqrt(np.diag(spread))
        scaled = np.divide(inside, lengths, out=np.zeros_like(inside), where=lengths > 0)
        flat = np.abs(inside[lengths == 0.0])
        return bool(scaled @ scaled <= self.rho**2 * (1 + _ROUNDING) and (flat <= _ROUNDING).all())


def _eigen(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, those of rounding as zero, and eigenvectors of a matrix >= 0."""
    found = np.asarray(matrix, float)
    size = float(np.abs(found).max(initial=0.0))
    square = found.ndim == 2 and found.shape[0] == found.shape[1]
    if not square or not np.isfinite(size) or np.abs(found - found.T).max() > _ROUNDING * size:
        raise ConfigurationError("M", found.tolist(), "a symmetric matrix of finite numbers")
    values, vectors = np.linalg.eigh(found)
    if values[0] < -_ROUNDING * size:
        raise ConfigurationError("M", found.tolist(), "a positive semidefinite matrix")
    return np.where(values > _ROUNDING * size, values, 0.0), vectors
