"""What a workload must come to: a percentile of each latency, a share of good requests, goodput."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llm_sched_env.errors import ConfigurationError, is_finite_number, one_of

MEASURES = ("percentile", "share", "goodput")
MET, OPEN, MISSED = "met", "open", "missed"


class Share(NamedTuple):
    """A share of requests with its one-sided limits at the confidence that was asked for."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Requirement:
    """What must hold of the requests that count; one that leaves or is not done holds nothing.

    Args:
        measure: ``percentile``: of TTFT, and of TPOT, each within the deadline of its class;
            ``share``: of the requests that are good, that is within both; ``goodput``: good
            requests per second.
        level: percent in (0, 100), a share in (0, 1], or requests per second > 0.
        confidence: of the verdict, one-sided, in [0.5, 1).

    Raises:
        ConfigurationError: for a value that is not allowed.

    Example:
        >>> Requirement("percentile", 99.0).share(rate=5.0)
        0.99
        >>> Requirement("goodput", 4.0).share(rate=5.0)
        0.8
    """

    measure: str = "percentile"
    level: float = 99.0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ConfigurationError("measure", self.measure, one_of(MEASURES))
        most = {"percentile": 100.0, "share": 1.0, "goodput": math.inf}[self.measure]
        below = self.measure == "percentile"
        if (
            not is_finite_number(self.level, positive=True)
            or self.level > most
            or (below and self.level == most)
        ):
            allowed = {
                "percentile": "percent between 0 and 100",
                "share": "a share in (0, 1]",
                "goodput": "requests per second > 0",
            }[self.measure]
            raise ConfigurationError(self.measure, self.level, allowed)
        if not is_finite_number(self.confidence) or not 0.5 <= self.confidence < 1.0:
            raise ConfigurationError("confidence", self.confidence, "a number in [0.5, 1)")

    def share(self, rate: float) -> float:
        """The share of the requests that must hold, at so many arrivals per second.

        Raises:
            ConfigurationError: for a goodput above the arrival rate.
        """
        if self.measure == "percentile":
            return self.level / 100.0
        if self.measure == "share":
            return self.level
        if self.level > rate:
            raise ConfigurationError(
                "goodput",
                self.level,
                f"at most the {rate:.4g} requests per second that arrive",
                "lower it or let more arrive",
            )
        return self.level / rate

    @property
    def of_each_latency(self) -> bool:
        """Whether first tokens and the others are judged apart."""
        return self.measure == "percentile"

    def text_of_level(self) -> str:
        """The level in words, such as ``p99``."""
        if self.of_each_latency:
            return f"p{self.level:g}"
        return f"{self.level:.4g} {'of the requests' if self.measure == 'share' else 'requests/s'}"

    def text(self, limits: np.ndarray) -> str:
        """In words; ``limits`` as :attr:`Workload.limits`."""
        ttft, tpot = (_range(row, unit) for row, unit in zip(limits, (1.0, 1e3), strict=True))
        named = [("TTFT", ttft, "s"), ("TPOT", tpot, "ms")]
        bounds = [(name, text, unit) for name, text, unit in named if text]
        if self.of_each_latency:
            return " and ".join(
                f"{name} {self.text_of_level()} <= {text} {unit}" for name, text, unit in bounds
            )
        within = " and ".join(f"{name} <= {text} {unit}" for name, text, unit in bounds)
        return f"{self.text_of_level()} with {within}"


def share_of(
    counts: np.ndarray, totals: np.ndarray, confidence: float, comparisons: int = 1
) -> Share:
    """The share that counts are of totals, over independent parts of the requests.

    The limits are the wider ones of two: those of the ratio estimator over parts (Student t, on
    log odds, since shares near 1 are skewed), which know that requests of one part fare alike, and
    those of Clopper and Pearson, which know how few requests there are. One part has only the
    latter. What happens in fewer than one of twenty parts may be in none of them: no interval
    knows of it.

    Args:
        counts: of each part, shape (B,).
        totals: of each part, shape (B,).
        confidence: of each limit alone.
        comparisons: among which the best is looked for: each is known with 1 - (1 - c) / k.

    Example:
        >>> round(share_of(np.array([98, 99]), np.array([100, 100]), 0.95).mean, 3)
        0.985
    """
    from scipy.stats import beta, t

    n, k = float(totals.sum()), float(counts.sum())
    if n == 0:
        return Share(math.nan, 0.0, 1.0)
    mean, tail = k / n, (1.0 - confidence) / comparisons
    low = float(beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(beta.ppf(1.0 - tail, k + 1, n - k)) if k < n else 1.0
    parts = int((totals > 0).sum())
    if parts > 1 and 0.0 < mean < 1.0:
        residuals = counts - mean * totals
        error = math.sqrt(parts / (parts - 1) * float(residuals @ residuals)) / n
        half = float(t.ppf(1.0 - tail, parts - 1)) * error
        odds, spread = math.log(mean / (1.0 - mean)), half / (mean * (1.0 - mean))
        low, high = min(low, _share(odds - spread)), max(high, _share(odds + spread))
    return Share(mean, low, high)


def _share(log_odds: float) -> float:
    return 0.5 * (1.0 + math.tanh(log_odds / 2.0))


def verdict_of(shares: list[Share], required: float) -> str:
    """``met`` where every share is surely enough, ``missed`` where one is surely not."""
    if all(share.low >= required for share in shares):
        return MET
    return MISSED if any(share.high < required for share in shares) else OPEN


def _range(row: np.ndarray, unit: float) -> str:
    """The deadlines of all classes in a unit; empty without any."""
    found = sorted({float(v) * unit for v in row if np.isfinite(v)})
    if not found:
        return ""
    return f"{found[0]:g}" if len(found) == 1 else f"{found[0]:g} to {found[-1]:g}"
