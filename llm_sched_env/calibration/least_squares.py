"""Least squares with intervals for correlated residuals of unequal size.

Iteration times go up in steps (kernels work on whole tiles), and longer iterations vary more: the
usual intervals, for independent residuals of equal size, would be too short. Here errors have a
standard deviation that is a power of the time, its exponent by maximum likelihood (Harvey,
Econometrica 44, 1976), and are correlated from row to row like a first-order autoregression
(after correction of the small-sample bias of its coefficient; Kendall, Biometrika 41, 1954).
Intervals follow by the delta method, with Student's t of as many degrees of freedom as so many
correlated rows are worth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEVEL = 0.95
_LARGEST_EXPONENT = 2.0
_LARGEST_CORRELATION = 0.95
_FEWEST_DEGREES = 2.0


@dataclass(frozen=True)
class Coefficient:
    """An estimate with its 95% interval."""

    value: float
    ci95: tuple[float, float]


class Uncertainty:
    """What the residuals of a (weighted) least-squares fit say about its p coefficients.

    Args:
        jacobian: derivatives of the curve by the coefficients, rows in order of tokens; (K, p).
        seconds: that were measured; shape (K,).
        fitted: seconds of the curve, > 0; shape (K,).
        weights: of the squared residuals; shape (K,).
    """

    def __init__(
        self, jacobian: np.ndarray, seconds: np.ndarray, fitted: np.ndarray, weights: np.ndarray
    ) -> None:
        n, p = jacobian.shape
        # Columns of one size: tokens and ones differ by thousands.
        scale = np.sqrt(weights @ jacobian**2)
        scaled = weights[:, None] * jacobian / scale
        bread = np.linalg.inv(scaled.T @ (jacobian / scale))
        sizes = _error_sizes(seconds - fitted, fitted)
        standard = (seconds - fitted) / sizes
        correlation = _correlation(standard)
        worth = (1 - correlation) / (1 + correlation)
        self._freedom = max(_FEWEST_DEGREES, n * worth - p)
        variance = standard @ standard * worth / self._freedom
        scores = scaled * sizes[:, None]
        meat = variance * scores.T @ _times_correlations(scores, correlation)
        self._covariance = bread @ meat @ bread / np.outer(scale, scale)

    def coefficient(self, value: float, gradient: Sequence[float]) -> Coefficient:
        """A function of the coefficients with its interval, by the delta method."""
        from scipy.stats import t

        direction = np.asarray(gradient)
        deviation = math.sqrt(max(0.0, direction @ self._covariance @ direction))
        half = float(t.ppf((1 + _LEVEL) / 2, self._freedom)) * deviation
        return Coefficient(float(value), (float(value) - half, float(value) + half))


def _error_sizes(residuals: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Standard deviations of the errors, up to a factor: the likeliest power of the time."""
    from scipy.optimize import minimize_scalar

    logs = np.log(fitted / np.exp(np.log(fitted).mean()))
    if not residuals.any():
        return np.ones(len(logs))

    def loss(exponent: float) -> float:
        return math.log(np.mean((residuals * np.exp(-exponent * logs)) ** 2))

    best = minimize_scalar(loss, bounds=(0.0, _LARGEST_EXPONENT), method="bounded")
    return np.asarray(np.exp(best.x * logs))


def _correlation(standard: np.ndarray) -> float:
    """Correlation of errors in neighbouring rows, 0 if it looks negative."""
    square, n = float(standard @ standard), len(standard)
    raw = float(standard[1:] @ standard[:-1]) / square if square > 0 else 0.0
    return min(_LARGEST_CORRELATION, max(0.0, raw + (1 + 3 * raw) / n))


def _times_correlations(columns: np.ndarray, correlation: float) -> np.ndarray:
    """The matrix of correlation^|i - j| times columns; O(n) by a filter in both directions."""
    from scipy.signal import lfilter

    def forward(values: np.ndarray) -> np.ndarray:
        return np.asarray(lfilter([1.0], [1.0, -correlation], values, axis=0))

    return np.asarray(forward(columns) + forward(columns[::-1])[::-1] - columns)


def weighted_line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of weighted least squares; ``x`` must not be constant."""
    total = weights.sum()
    x_mean, y_mean = weights @ x / total, weights @ y / total
    slope = weights @ ((x - x_mean) * (y - y_mean)) / (weights @ (x - x_mean) ** 2)
    return float(y_mean - slope * x_mean), float(slope)
