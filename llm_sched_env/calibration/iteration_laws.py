"""Fit the iteration-time laws (1) and (3) to measured iterations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_sched_env.calibration.iteration_times import IterationTimes
from llm_sched_env.calibration.least_squares import Coefficient, Uncertainty, weighted_line
from llm_sched_env.errors import CalibrationError, ConfigurationError

WEIGHTS = ("relative", "equal")
_FEWEST_ROWS = 8
_LEAST_ON_A_SIDE = 2  # distinct token counts that a level or a line needs


@dataclass(frozen=True, eq=False)
class MixedLine:
    """tau_mix = alpha + beta b by ordinary least squares of seconds on tokens (section 6.1).

    Attributes:
        times: the iterations that it was fitted to.
        alpha: intercept, s.
        beta: slope, s per token.
    """

    times: IterationTimes
    alpha: Coefficient
    beta: Coefficient

    def seconds(self, tokens: np.ndarray | float) -> np.ndarray:
        """Iteration times of token counts."""
        return self.alpha.value + self.beta.value * np.asarray(tokens)


@dataclass(frozen=True, eq=False)
class AffineLaw:
    """Law (1), tau(b) = c + a max(0, b - b0), by least squares over its three coefficients.

    Attributes:
        times: the iterations that it was fitted to.
        c: seconds of an iteration of few tokens.
        a: seconds per further token, the two-speed form's beta.
        b0: tokens up to which an iteration takes c seconds.
        gamma: 1/c, decode-only iterations per second.
        alpha: c - a b0, the intercept of the two-speed form.
    """

    times: IterationTimes
    c: Coefficient
    a: Coefficient
    b0: Coefficient
    gamma: Coefficient
    alpha: Coefficient

    def seconds(self, tokens: np.ndarray | float) -> np.ndarray:
        """Iteration times of token counts."""
        beyond = np.maximum(0.0, np.asarray(tokens) - self.b0.value)
        return self.c.value + self.a.value * beyond


def fit_mixed_line(times: IterationTimes) -> MixedLine:
    """Fit alpha and beta; intervals allow for residuals that hang together."""
    _require_rows(times, 2)
    equal = np.ones(len(times))
    alpha, beta = weighted_line(times.tokens, times.seconds, equal)
    _require_growth(beta)
    fitted = alpha + beta * times.tokens
    _require_positive(fitted)
    jacobian = np.column_stack((equal, times.tokens))
    known = Uncertainty(jacobian, times.seconds, fitted, equal)
    return MixedLine(times, known.coefficient(alpha, (1, 0)), known.coefficient(beta, (0, 1)))


def fit_affine_law(times: IterationTimes, weights: str = "relative") -> AffineLaw:
    """Fit c, a and b0.

    Args:
        times: iterations, those of few tokens among them.
        weights: ``relative``: squared relative residuals; ``equal``: squared residuals.
    """
    if weights not in WEIGHTS:
        raise ConfigurationError("weights", weights, " or ".join(WEIGHTS))
    _require_rows(times, 2 * _LEAST_ON_A_SIDE)
    tokens, seconds = times.tokens, times.seconds
    weight = np.ones(len(times)) if weights == "equal" else seconds**-2
    c, a, b0 = _least_squares_hinge(tokens, seconds, weight)
    _require_growth(a)
    beyond = np.maximum(0.0, tokens - b0)
    _require_positive(c + a * beyond)
    jacobian = np.column_stack((np.ones(len(times)), beyond, -a * (tokens > b0)))
    known = Uncertainty(jacobian, seconds, c + a * beyond, weight)
    return AffineLaw(
        times,
        known.coefficient(c, (1, 0, 0)),
        known.coefficient(a, (0, 1, 0)),
        known.coefficient(b0, (0, 0, 1)),
        known.coefficient(1 / c, (-(c**-2), 0, 0)),
        known.coefficient(c - a * b0, (1, -b0, -a)),
    )


def _least_squares_hinge(
    tokens: np.ndarray, seconds: np.ndarray, weights: np.ndarray
) -> tuple[float, float, float]:
    """The level, slope and knot of least squares, exactly (Hudson, JASA 61, 1966).

    For each split of the token counts the best level and the best line meet where they meet: if
    that is between the two sides, it is the best knot there. Otherwise the best is at a count.
    """
    known, first = np.unique(tokens, return_index=True)
    best = (np.inf, 0.0, 0.0, 0.0)
    for k in range(_LEAST_ON_A_SIDE, len(known) - _LEAST_ON_A_SIDE + 1):
        row = first[k]
        level = float(weights[:row] @ seconds[:row] / weights[:row].sum())
        intercept, slope = weighted_line(tokens[row:], seconds[row:], weights[row:])
        knots = [known[k - 1]]
        if slope != 0 and known[k - 1] < (level - intercept) / slope < known[k]:
            knots = [(level - intercept) / slope]
        for knot in knots:
            beyond = np.maximum(0.0, tokens - knot)
            c, a = weighted_line(beyond, seconds, weights)
            loss = float(weights @ (seconds - c - a * beyond) ** 2)
            best = min(best, (loss, c, a, float(knot)))
    return best[1:]


def _require_rows(times: IterationTimes, distinct: int) -> None:
    counts = len(np.unique(times.tokens))
    if len(times) < _FEWEST_ROWS or counts < distinct:
        raise CalibrationError(
            f"iteration times: got {len(times)} rows of {counts} token counts in "
            f"{times.tokens[0]:g} to {times.tokens[-1]:g} tokens, expected at least "
            f"{_FEWEST_ROWS} rows of {distinct} counts; widen --from and --to or measure more"
        )


def _require_growth(slope: float) -> None:
    if slope <= 0:
        raise CalibrationError(
            f"iteration times: got {slope:.3g} s per further token, expected times that grow "
            "with the tokens; widen --from and --to or measure iterations of more tokens"
        )


def _require_positive(fitted: np.ndarray) -> None:
    if fitted.min() <= 0:
        raise CalibrationError(
            f"iteration times: got a fit of {fitted.min():.3g} s for some iterations measured, "
            "expected times near a line; choose --from and --to where they are"
        )
