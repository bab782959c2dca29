"""Maximum-likelihood exponential, log-normal and gamma distributions with a given mean.

An instance states a mean and a shape around it, so each law has the sample's mean, and its
coefficient of variation is the likeliest with it. For the exponential and the gamma law that is
the full maximum likelihood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llm_sched_env.model.length_distributions import GREATEST_CV, LEAST_CV

_STEPS = 30
_NO_GAP = 1e-12


@dataclass(frozen=True, eq=False)
class Sample:
    """Different lengths > 0 in increasing order, and how often each occurs; shapes (U,)."""

    lengths: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, lengths: np.ndarray) -> Sample:
        """The sample of some lengths."""
        return cls(*np.unique(lengths, return_counts=True))

    @property
    def size(self) -> int:
        """How many lengths there are."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Mean length, tokens."""
        return self.average(self.lengths)

    @property
    def whole(self) -> bool:
        """Whether all lengths are whole numbers of tokens."""
        return bool((self.lengths == np.floor(self.lengths)).all())

    def average(self, values: np.ndarray) -> float:
        """Mean over the sample of one value per different length."""
        return float(self.counts @ values / self.counts.sum())

    def resampled(self, rng: np.random.Generator) -> Sample:
        """As many lengths, drawn from this sample with replacement."""
        counts = rng.multinomial(self.size, self.counts / self.size)
        drawn = counts > 0
        return Sample(self.lengths[drawn], counts[drawn])


@dataclass(frozen=True)
class LengthLaw:
    """A law of lengths: ``exponential``, ``log-normal`` or ``gamma``, by mean and cv."""

    kind: str
    mean: float
    cv: float

    @property
    def fitted_parameters(self) -> int:
        """How many parameters were estimated."""
        return 1 if self.kind == "exponential" else 2

    def below(self, lengths: np.ndarray) -> np.ndarray:
        """Probability of at most these lengths."""
        from scipy.special import gammainc, ndtr

        if self.kind == "log-normal":
            deviation, center = self._log_parameters()
            return np.asarray(ndtr((np.log(lengths) - center) / deviation))
        shape = self.cv**-2
        return np.asarray(gammainc(shape, shape * lengths / self.mean))

    def quantile(self, probabilities: np.ndarray) -> np.ndarray:
        """Lengths below which a request falls with these probabilities."""
        from scipy.special import gammaincinv, ndtri

        if self.kind == "log-normal":
            deviation, center = self._log_parameters()
            return np.asarray(np.exp(center + deviation * ndtri(probabilities)))
        shape = self.cv**-2
        return np.asarray(gammaincinv(shape, probabilities) * self.mean / shape)

    def _log_parameters(self) -> tuple[float, float]:
        """Standard deviation and mean of the logarithm."""
        variance = math.log1p(self.cv**2)
        return math.sqrt(variance), math.log(self.mean) - variance / 2


def likeliest_laws(sample: Sample) -> tuple[LengthLaw, ...]:
    """The likeliest law of each kind that has the sample's mean."""
    mean = sample.mean
    logs = np.log(sample.lengths / mean)
    # The likelihood of a log-normal law of mean m is largest at v^2 / 4 + v = mean log(x / m)^2.
    variance = 2 * (math.sqrt(1 + sample.average(logs**2)) - 1)
    return (
        LengthLaw("exponential", mean, 1.0),
        LengthLaw("log-normal", mean, _allowed_cv(math.sqrt(math.expm1(variance)))),
        LengthLaw("gamma", mean, _allowed_cv(_gamma_cv(-sample.average(logs)))),
    )


def _allowed_cv(cv: float) -> float:
    """The nearest cv that a length distribution may have."""
    return min(GREATEST_CV, max(LEAST_CV, cv))


def _gamma_cv(gap: float) -> float:
    """The cv at which log k - digamma(k) = ``gap``, k = cv^-2 (Minka's Newton steps in 1/k)."""
    from scipy.special import digamma, polygamma

    if gap <= _NO_GAP:
        return 0.0
    inverse = 12 * gap / (3 - gap + math.sqrt((gap - 3) ** 2 + 24 * gap))
    for _ in range(_STEPS):
        k = 1 / inverse
        step = (math.log(k) - float(digamma(k)) - gap) / (k - k**2 * float(polygamma(1, k)))
        inverse += step
        if abs(step) <= 1e-12 * inverse:
            break
    return math.sqrt(inverse)
