"""Requests that fit: arrival rates and mean lengths of those that a limit of KV tokens lets in.

A request whose prompt and output together exceed the KV tokens of a GPU is rejected on arrival.
The rest arrives less often and is shorter, and it is this rest that is planned for and billed.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.instance import Instance, RequestClass
from llm_sched_env.length_distributions import EXPONENTIAL, LengthDistribution

# Gauss-Legendre nodes on each of so many equal parts of the probabilities of prompt lengths.
_NODES, _PARTS = 16, 64


def fitting_requests(instance: Instance) -> Instance:
    """The instance of the requests that are not rejected; itself without a KV limit.

    Rates and means are those of the requests that fit; length distributions, which only shape
    what is drawn, are left out.

    Raises:
        ConfigurationError: if no request of any class fits.
    """
    limit = instance.hardware.kv_tokens
    if limit is None:
        return instance
    classes = tuple(_fitting_class(c, float(limit)) for c in instance.classes)
    if not any(c.arrival_rate > 0 for c in classes):
        raise ConfigurationError(
            "hardware kv_tokens", limit, "room for some request", "raise it or shorten the lengths"
        )
    return dataclasses.replace(instance, classes=classes)


def _fitting_class(own: RequestClass, limit: float) -> RequestClass:
    """Integrals over the prompt's quantiles of the output's partial moments."""
    prompts, weights = _prompt_quantiles(own, limit)
    room = np.maximum(limit - prompts, 0.0)
    share, tokens = _partial_moments(own.output_lengths, own.output_tokens, room)
    fits = float(weights @ share)
    plain = dataclasses.replace(own, prompt_lengths=EXPONENTIAL, output_lengths=EXPONENTIAL)
    if fits <= 0.0:
        return dataclasses.replace(plain, arrival_rate=0.0)
    # A class of empty requests would have no rates: keep its means above zero.
    least = np.finfo(float).tiny
    return dataclasses.replace(
        plain,
        arrival_rate=own.arrival_rate * fits,
        prompt_tokens=max(least, float(weights @ (share * prompts)) / fits),
        output_tokens=max(least, float(weights @ tokens) / fits),
    )


def _prompt_quantiles(own: RequestClass, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Prompt lengths up to the limit and their probabilities."""
    law, mean = own.prompt_lengths, own.prompt_tokens
    if law.values is not None:
        values = np.array(law.values)
        fitting = values[values <= limit]
        return fitting, np.full(len(fitting), 1.0 / len(values))
    if law.kind == "deterministic":
        return np.array([mean]), np.array([1.0 if mean <= limit else 0.0])
    below, _ = _partial_moments(law, mean, np.array([limit]))
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    t = ((np.arange(_PARTS)[:, None] + (nodes + 1.0) / 2.0) / _PARTS).ravel()
    weights = np.tile(weights / (2.0 * _PARTS), _PARTS)
    # Quantiles grow without bound near probability 1 when the limit is wide: nodes crowd there.
    probabilities = below[0] * (1.0 - (1.0 - t) ** 4)
    weights = weights * below[0] * 4.0 * (1.0 - t) ** 3
    return np.minimum(_distribution(law, mean).ppf(probabilities), limit), weights


def _distribution(law: LengthDistribution, mean: float) -> Any:
    """A continuous length law as scipy has it."""
    from scipy import stats

    if law.kind == "gamma" and law.cv is not None:
        return stats.gamma(law.cv**-2, scale=mean * law.cv**2)
    if law.kind == "log-normal" and law.cv is not None:
        variance = math.log1p(law.cv**2)
        return stats.lognorm(math.sqrt(variance), scale=mean * math.exp(-variance / 2.0))
    return stats.expon(scale=mean)


def _partial_moments(
    law: LengthDistribution, mean: float, most: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """P(L <= m) and E[L; L <= m] for each m of ``most``, tokens."""
    from scipy import stats

    if law.values is not None:
        values = np.sort(law.values)
        count = np.searchsorted(values, most, side="right")
        sums = np.concatenate([[0.0], np.cumsum(values)])
        return count / len(values), sums[count] / len(values)
    if law.kind == "deterministic":
        fits = (most >= mean).astype(float)
        return fits, fits * mean
    share = _distribution(law, mean).cdf(most)
    if law.kind == "gamma" and law.cv is not None:
        # The length-biased law of a gamma has its shape raised by one.
        return share, mean * stats.gamma(law.cv**-2 + 1.0, scale=mean * law.cv**2).cdf(most)
    if law.kind == "log-normal" and law.cv is not None:
        variance = math.log1p(law.cv**2)
        biased = stats.lognorm(math.sqrt(variance), scale=mean * math.exp(variance / 2.0))
        return share, mean * biased.cdf(most)
    return share, mean * stats.gamma(2.0, scale=mean).cdf(most)
