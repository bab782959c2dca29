"""How well are the coefficients of a curve known, when its residuals hang together?

Iteration times go up in steps (kernels work on whole tiles), so neighbouring residuals are alike
and intervals for independent residuals would be far too short. The covariance is the sandwich
with the long-run variance of the scores along the tokens, estimated by equally weighted cosines,
and Student's t with as many degrees of freedom: Lazarus, Lewis, Stock and Watson, *HAR inference:
recommendations for practice*, J. Bus. Econ. Stat. 36 (2018), with their 0.4 n^(2/3) cosines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEVEL = 0.95


@dataclass(frozen=True)
class Coefficient:
    """An estimate with its 95% interval."""

    value: float
    ci95: tuple[float, float]


class Uncertainty:
    """What the residuals of a (weighted) least-squares fit say about its p coefficients.

    Args:
        jacobian: derivatives of the curve by the coefficients, rows in order of tokens; (K, p).
        residuals: shape (K,).
        weights: of the squared residuals; shape (K,).
    """

    def __init__(self, jacobian: np.ndarray, residuals: np.ndarray, weights: np.ndarray) -> None:
        n, p = jacobian.shape
        # Columns of one size: tokens and ones differ by thousands.
        scale = np.sqrt(weights @ jacobian**2)
        scaled = jacobian / scale
        bread = np.linalg.inv(scaled.T @ (weights[:, None] * scaled))
        scores = scaled * (weights * residuals)[:, None]
        self._freedom = max(1, round(0.4 * n ** (2 / 3)))
        angles = np.pi / n * np.outer(np.arange(1, self._freedom + 1), np.arange(n) + 0.5)
        cosines = np.sqrt(2.0) * np.cos(angles) @ scores
        meat = cosines.T @ cosines / self._freedom * (n / (n - p))
        self._covariance = bread @ meat @ bread / np.outer(scale, scale)

    def coefficient(self, value: float, gradient: Sequence[float]) -> Coefficient:
        """A function of the coefficients with its interval, by the delta method."""
        from scipy.stats import t

        direction = np.asarray(gradient)
        deviation = math.sqrt(max(0.0, direction @ self._covariance @ direction))
        half = float(t.ppf((1 + _LEVEL) / 2, self._freedom)) * deviation
        return Coefficient(float(value), (float(value) - half, float(value) + half))


def weighted_line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of weighted least squares; ``x`` must not be constant."""
    total = weights.sum()
    x_mean, y_mean = weights @ x / total, weights @ y / total
    slope = weights @ ((x - x_mean) * (y - y_mean)) / (weights @ (x - x_mean) ** 2)
    return float(y_mean - slope * x_mean), float(slope)
