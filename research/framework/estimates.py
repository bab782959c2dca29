"""Estimates with intervals, computed from replications."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from llm_sched_env.evaluation.results import Estimate


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


def mean_over_cells(samples: Sequence[np.ndarray]) -> Estimate:
    """The mean of the cells' means with its 95% interval (Welch-Satterthwaite, Student t).

    Args:
        samples: per cell one value a replication, shapes (K_1,), (K_2,), ...; cells are
            independent of each other, such as simulations of different seeds.
    """
    from scipy.stats import t

    mean = float(np.mean([sample.mean() for sample in samples]))
    counts = np.array([len(sample) for sample in samples])
    if counts.min() < 2:
        return Estimate(mean, (math.nan, math.nan))
    variances = np.array([sample.var(ddof=1) for sample in samples]) / counts
    total = float(variances.sum())
    if total == 0.0:
        return Estimate(mean, (mean, mean))
    freedom = total**2 / float((variances**2 / (counts - 1)).sum())
    half = float(t.ppf(0.975, freedom)) * math.sqrt(total) / len(samples)
    return Estimate(mean, (mean - half, mean + half))


def ratio_over_cells(
    numerators: Sequence[np.ndarray], denominators: Sequence[np.ndarray]
) -> Estimate:
    """The ratio of two means over cells with its 95% interval (linearised in both).

    Args:
        numerators: as in :func:`mean_over_cells`.
        denominators: of the same replications; their mean must stand out of the noise.
    """
    below = mean_over_cells(denominators).mean
    ratio = mean_over_cells(numerators).mean / below
    pairs = zip(numerators, denominators, strict=True)
    low, high = mean_over_cells([above - ratio * under for above, under in pairs]).ci95
    return Estimate(ratio, (ratio + low / below, ratio + high / below))
