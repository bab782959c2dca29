"""Token range over which a fit holds, and how well it does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_sched_env.calibration.iteration_times import IterationTimes
from llm_sched_env.errors import ConfigurationError, is_finite_number


@dataclass(frozen=True)
class Validity:
    """How a law stands beside iterations; relative residuals are law / measured - 1.

    Attributes:
        rows: iterations looked at.
        tokens: fewest and most tokens of them.
        r_squared: share of the variance of the seconds that the law explains.
        tolerance: of relative residuals.
        share_within: of the iterations, relative residuals within the tolerance.
        valid_tokens: the longest range of tokens all of whose iterations are; None without any.
        worst: the largest relative residual, with its sign.
        worst_tokens: where it is.
        autocorrelation: of the relative residuals of neighbours, 0 for scatter, near 1 for steps.
    """

    rows: int
    tokens: tuple[float, float]
    r_squared: float
    tolerance: float
    share_within: float
    valid_tokens: tuple[float, float] | None
    worst: float
    worst_tokens: float
    autocorrelation: float

    def covers(self, tokens: float) -> bool:
        """Whether a token count lies in the valid range."""
        valid = self.valid_tokens
        return valid is not None and valid[0] <= tokens <= valid[1]

    def holds(self, share: float = 0.95) -> bool:
        """Whether that share of the iterations is within the tolerance."""
        return self.share_within >= share


def require_tolerance(tolerance: float) -> None:
    """Raise ConfigurationError unless a tolerance of relative residuals is one."""
    if not is_finite_number(tolerance, positive=True) or tolerance >= 1:
        raise ConfigurationError("tolerance", tolerance, "a share in (0, 1), such as 0.05")


def validity(times: IterationTimes, seconds: np.ndarray, tolerance: float) -> Validity:
    """Hold the seconds that a law says against those measured; shape (K,)."""
    residuals = times.seconds - seconds
    relative = seconds / times.seconds - 1.0
    within = np.abs(relative) <= tolerance
    spread = np.sum((times.seconds - times.seconds.mean()) ** 2)
    worst = int(np.argmax(np.abs(relative)))
    around = relative - relative.mean()
    variance = float(around @ around)
    return Validity(
        len(times),
        (float(times.tokens[0]), float(times.tokens[-1])),
        float(1.0 - residuals @ residuals / spread),
        tolerance,
        float(within.mean()),
        _longest_range(times.tokens, within),
        float(relative[worst]),
        float(times.tokens[worst]),
        float(around[1:] @ around[:-1] / variance) if variance > 0 else 0.0,
    )


def _longest_range(tokens: np.ndarray, within: np.ndarray) -> tuple[float, float] | None:
    """The widest range of token counts without an iteration outside the tolerance."""
    known, first = np.unique(tokens, return_index=True)
    good = np.minimum.reduceat(within.astype(np.int8), first)
    edges = np.flatnonzero(np.diff(good, prepend=0, append=0))
    ranges = [(known[i], known[j - 1]) for i, j in zip(edges[::2], edges[1::2], strict=True)]
    if not ranges:
        return None
    low, high = max(ranges, key=lambda ends: ends[1] - ends[0])
    return float(low), float(high)
