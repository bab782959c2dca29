"""Moments of length distributions: partial means, and the whole chunks of a prompt."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from llm_sched_env.model.length_distributions import LengthDistribution

# Chunks whose probability is added up one by one; beyond, the sum is an integral.
_CHUNKS_ONE_BY_ONE = 4096


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


@functools.lru_cache(maxsize=1024)
def mean_whole_chunks(law: LengthDistribution, mean: float, chunk_tokens: int) -> float:
    """E[ceil(L / C)], the mean number of chunks of C tokens that a prompt of length L takes."""
    if law.values is not None:
        return float(np.ceil(np.array(law.values) / chunk_tokens).mean())
    if law.kind == "deterministic":
        return float(math.ceil(mean / chunk_tokens))
    if law.kind == "exponential":
        return -1.0 / math.expm1(-chunk_tokens / mean)
    # ceil(L / C) is the number of k >= 0 with L > k C.
    ends = chunk_tokens * np.arange(_CHUNKS_ONE_BY_ONE)
    exact = float(continuous_law(law, mean).sf(ends).sum())
    return exact + _chunks_beyond(law, mean, chunk_tokens, chunk_tokens * _CHUNKS_ONE_BY_ONE)


def _chunks_beyond(law: LengthDistribution, mean: float, chunk_tokens: int, start: float) -> float:
    """The sum of P(L > start + k C) over k >= 0, by the trapezoidal rule backwards."""
    share, tokens = partial_moments(law, mean, np.array([start]))
    above = 1.0 - float(share[0])
    excess = max(0.0, mean - float(tokens[0]) - start * above)  # E[L - start; L > start]
    return excess / chunk_tokens + above / 2.0
