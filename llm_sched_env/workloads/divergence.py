"""Distance of lengths from a distribution: KL divergence and Kolmogorov-Smirnov.

The bins end at the law's quantiles j/K. A length of k whole tokens stands for (k - 1/2, k + 1/2]:
with whole lengths the ends are moved to half tokens, bins that coincide become one, and the first
reaches down to 0; each bin keeps the probability that the law really gives it. The divergence of a
sample of N from a law with p fitted parameters is too large by about (K - 1 - p) / 2N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_sched_env.workloads.length_laws import LengthLaw, Sample, likeliest_laws

_FIRST_HALF_TOKEN = 1.5  # end of the bin of one token, the shortest length


@dataclass(frozen=True)
class Divergence:
    """Distances of lengths from a law.

    Attributes:
        kl: KL divergence of the binned lengths from the law, nats.
        kl_bias: by how much ``kl`` is too large on average if the law is true.
        kl_ci95: basic bootstrap interval of the divergence without its bias, the law refitted
            to each sample.
        bins: that are left.
        ks: largest distance between the distribution functions.
    """

    kl: float
    kl_bias: float
    kl_ci95: tuple[float, float]
    bins: int
    ks: float


def divergences(
    sample: Sample, bins: int, replications: int, rng: np.random.Generator
) -> list[tuple[LengthLaw, Divergence]]:
    """The likeliest laws with their distances; intervals from the same bootstrap samples."""
    laws = likeliest_laws(sample)
    whole = sample.whole
    drawn = np.empty((replications, len(laws)))
    for row in drawn:
        again = sample.resampled(rng)
        row[:] = [binned_kl(again, law, bins, whole)[0] for law in likeliest_laws(again)]
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    results = []
    for k, law in enumerate(laws):
        kl, used = binned_kl(sample, law, bins, whole)
        # Reflected at kl: what sampling adds to a sample's divergence, it added to kl itself.
        interval = max(0.0, 2 * kl - float(high[k])), max(0.0, 2 * kl - float(low[k]))
        bias = max(0, used - 1 - law.fitted_parameters) / (2 * sample.size)
        results.append((law, Divergence(kl, bias, interval, used, kolmogorov_smirnov(sample, law))))
    return results


def binned_kl(sample: Sample, law: LengthLaw, bins: int, whole: bool) -> tuple[float, int]:
    """KL divergence of a sample from a law over bins that the law finds alike, and their number.

    Args:
        sample: lengths.
        law: what they are held against.
        bins: K, equally likely as far as whole tokens allow.
        whole: whether a length k stands for (k - 1/2, k + 1/2].
    """
    ends = law.quantile(np.arange(1, bins) / bins)
    if whole:
        ends = np.maximum(np.floor(ends) + 0.5, _FIRST_HALF_TOKEN)
    ends = np.unique(ends)
    expected = np.diff(law.below(ends), prepend=0.0, append=1.0)
    # Lengths beyond a narrow law's reach are as unlikely as a float can say, not impossible.
    expected = np.maximum(expected, np.finfo(float).tiny)
    shares = np.diff(_shares(sample, ends), prepend=0.0, append=1.0)
    seen = shares > 0
    kl = float(shares[seen] @ np.log(shares[seen] / expected[seen]))
    return max(0.0, kl), len(expected)


def kolmogorov_smirnov(sample: Sample, law: LengthLaw) -> float:
    """Largest distance between the distribution functions; whole lengths: at half tokens."""
    after = _shares(sample, sample.lengths)
    before = np.concatenate(([0.0], after[:-1]))
    half = 0.5 if sample.whole else 0.0
    above, under = law.below(sample.lengths + half), law.below(sample.lengths - half)
    # The law's part below the shortest length counts with it, as in the bins.
    if sample.whole and sample.lengths[0] == 1:
        under[0] = 0.0
    return float(max(np.abs(after - above).max(), np.abs(before - under).max()))


def _shares(sample: Sample, ends: np.ndarray) -> np.ndarray:
    """Share of the sample at or below each end."""
    cumulated = np.concatenate(([0], np.cumsum(sample.counts)))
    below = cumulated[np.searchsorted(sample.lengths, ends, side="right")]
    return np.asarray(below / sample.size)
