"""Moments of length distributions, of what does not exceed a limit, and in whole units.

A length L in units of C tokens, such as a prompt in chunks or an output in iterations, takes
ceil(L / C) of them. Where no closed form is known, the units are added up one by one; beyond the
first thousands a length is spread evenly over its last unit.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from llm_sched_env.model.length_distributions import LengthDistribution

# Units whose probability is added up one by one; beyond, a length is spread over its last unit.
_UNITS_ONE_BY_ONE = 4096


def continuous_law(law: LengthDistribution, mean: float) -> Any:
    """A continuous length law as a frozen scipy distribution; lengths in tokens."""
    from scipy import stats

    if law.kind == "gamma" and law.cv is not None:
        return stats.gamma(law.cv**-2, scale=mean * law.cv**2)
    if law.kind == "log-normal" and law.cv is not None:
        variance = math.log1p(law.cv**2)
        return stats.lognorm(math.sqrt(variance), scale=mean * math.exp(-variance / 2.0))
    return stats.expon(scale=mean)


def partial_moments(
    law: LengthDistribution, mean: float, most: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """P(L <= m) and E[L; L <= m] for each m of ``most``, tokens; any shape."""
    from scipy import stats

    if law.values is not None:
        values = np.sort(law.values)
        count = np.searchsorted(values, most, side="right")
        sums = np.concatenate([[0.0], np.cumsum(values)])
        return count / len(values), sums[count] / len(values)
    if law.kind == "deterministic":
        fits = (most >= mean).astype(float)
        return fits, fits * mean
    share = continuous_law(law, mean).cdf(most)
    if law.kind == "gamma" and law.cv is not None:
        # The length-biased law of a gamma has its shape raised by one.
        return share, mean * stats.gamma(law.cv**-2 + 1.0, scale=mean * law.cv**2).cdf(most)
    if law.kind == "log-normal" and law.cv is not None:
        variance = math.log1p(law.cv**2)
        biased = stats.lognorm(math.sqrt(variance), scale=mean * math.exp(variance / 2.0))
        return share, mean * biased.cdf(most)
    return share, mean * stats.gamma(2.0, scale=mean).cdf(most)


def partial_squares(law: LengthDistribution, mean: float, most: np.ndarray) -> np.ndarray:
    """E[L^2; L <= m] for each m of ``most``, tokens^2; m may be infinite."""
    from scipy import stats

    if law.values is not None:
        values = np.sort(law.values)
        sums = np.concatenate([[0.0], np.cumsum(values**2)])
        found: np.ndarray = sums[np.searchsorted(values, most, side="right")] / len(values)
        return found
    if law.kind == "deterministic":
        return np.asarray((most >= mean) * mean**2, float)
    if law.kind == "gamma" and law.cv is not None:
        weighted = stats.gamma(law.cv**-2 + 2.0, scale=mean * law.cv**2)
        square = mean**2 * (1.0 + law.cv**2)
    elif law.kind == "log-normal" and law.cv is not None:
        variance = math.log1p(law.cv**2)
        weighted = stats.lognorm(math.sqrt(variance), scale=mean * math.exp(1.5 * variance))
        square = mean**2 * (1.0 + law.cv**2)
    else:
        weighted, square = stats.gamma(3.0, scale=mean), 2.0 * mean**2
    return np.asarray(square * weighted.cdf(most))


class WholeUnits(NamedTuple):
    """Moments of N = ceil(L / C) over lengths that do not exceed limits; shapes of the limits.

    Attributes:
        mean: E[N; L <= m].
        square: E[N^2; L <= m].
    """

    mean: np.ndarray
    square: np.ndarray


def whole_units(law: LengthDistribution, mean: float, unit: float, most: np.ndarray) -> WholeUnits:
    """Moments of ceil(L / unit) for each limit of ``most``, tokens, shape (K,); may be infinite."""
    if law.kind == "exponential" and np.isinf(most).all():
        more = -1.0 / math.expm1(-unit / mean)  # N is geometric
        return WholeUnits(np.full(len(most), more), np.full(len(most), more * (2.0 * more - 1.0)))
    if law.values is not None or law.kind == "deterministic":
        values = np.sort(law.values) if law.values is not None else np.array([mean])
        units, fitting = np.ceil(values / unit), np.searchsorted(values, most, side="right")
        sums = [np.concatenate([[0.0], np.cumsum(units**k)]) / len(values) for k in (1, 2)]
        return WholeUnits(sums[0][fitting], sums[1][fitting])
    ends = unit * np.arange(_UNITS_ONE_BY_ONE + 1)
    cdf = continuous_law(law, mean).cdf
    number = np.arange(1, len(ends))
    shares = np.diff(cdf(ends))
    sums = [np.concatenate([[0.0], np.cumsum(shares * number**k)]) for k in (1, 2)]
    # Whole units below the limit, and the part of a unit that it cuts; then what lies beyond.
    whole = np.minimum(np.floor(most / unit), _UNITS_ONE_BY_ONE).astype(int)
    inside = np.minimum(most, ends[-1])
    cut = cdf(inside) - cdf(ends[whole])
    beyond = _spread_units(law, mean, unit, ends[-1], most)
    return WholeUnits(
        sums[0][whole] + cut * (whole + 1) + beyond.mean,
        sums[1][whole] + cut * (whole + 1) ** 2 + beyond.square,
    )


def _spread_units(
    law: LengthDistribution, mean: float, unit: float, start: float, most: np.ndarray
) -> WholeUnits:
    """The moments over start < L <= m: N is L / C and half a unit, its square has a sixth more."""
    ends = np.stack([np.full(np.shape(most), start), np.maximum(most, start)])
    share, tokens = partial_moments(law, mean, ends)
    share, units = np.diff(share, axis=0)[0], np.diff(tokens, axis=0)[0] / unit
    squares = np.diff(partial_squares(law, mean, ends), axis=0)[0] / unit**2
    return WholeUnits(units + share / 2.0, squares + units + share / 6.0)


@functools.lru_cache(maxsize=1024)
def mean_whole_chunks(law: LengthDistribution, mean: float, chunk_tokens: int) -> float:
    """E[ceil(L / C)], the mean number of chunks of C tokens that a prompt of length L takes."""
    return float(whole_units(law, mean, chunk_tokens, np.array([np.inf])).mean[0])
