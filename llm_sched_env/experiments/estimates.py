"""How sure is a number that is computed from replications?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from llm_sched_env.results import Estimate


def jackknifed(statistic: Callable[[np.ndarray], float], samples: np.ndarray) -> Estimate:
    """A statistic of means over replications with its 95% interval (jackknife, Student t).

    Args:
        statistic: of the mean over the first axis, such as a slope fitted to means.
        samples: one row per replication, shape (K, ...).
    """
    from scipy.stats import t

    count = len(samples)
    whole = statistic(samples.mean(axis=0))
    if count < 2:
        return Estimate(whole, (math.nan, math.nan))
    total = samples.sum(axis=0)
    left_out = np.array([statistic((total - sample) / (count - 1)) for sample in samples])
    error = math.sqrt((count - 1) * left_out.var())
    half = float(t.ppf(0.975, count - 1)) * error
    return Estimate(whole, (whole - half, whole + half))


def decay_exponent(sizes: Sequence[float], gaps: np.ndarray) -> Estimate:
    """The slope of log mean gap over log n, with its 95% interval over replications.

    Args:
        sizes: cluster sizes n, shape (N,).
        gaps: per replication and size, shape (K, N); a single one may be negative. Where a mean
            is, no exponent is known: NaN.
    """
    logarithms = np.log(np.asarray(sizes, float))

    def slope(means: np.ndarray) -> float:
        if not (means > 0).all():
            return math.nan
        return float(np.polyfit(logarithms, np.log(means), 1)[0])

    return jackknifed(slope, gaps)


def share_of(count: int, total: int) -> Estimate:
    """A share of independent trials with its 95% interval (Wilson)."""
    from scipy.stats import binomtest

    interval = binomtest(count, total).proportion_ci(method="wilson")
    return Estimate(count / total, (float(interval.low), float(interval.high)))
