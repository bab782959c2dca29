"""Fit length distributions to each class of a trace, and measure their misfit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.length_distributions import LengthDistribution
from llm_sched_env.workloads.divergence import Divergence, divergences
from llm_sched_env.workloads.length_laws import Sample
from llm_sched_env.workloads.trace import Trace

MOST_BINS, MOST_SAMPLES = 100_000, 1_000_000


@dataclass(frozen=True)
class LengthFit:
    """A distribution fitted to the output lengths of a class, and how far off it is.

    Attributes:
        distribution: around the class's mean, as an instance takes it.
        cv: its coefficient of variation.
        divergence: of the lengths from it.
    """

    distribution: LengthDistribution
    cv: float
    divergence: Divergence


@dataclass(frozen=True)
class ClassLengths:
    """Output lengths of a class.

    Attributes:
        name: of the class.
        requests: with output tokens; the others are left out.
        without_output: requests without output tokens.
        mean: tokens; None without requests.
        cv: coefficient of variation; None without requests.
        fits: nearest first; empty unless two different lengths occur.
    """

    name: str
    requests: int
    without_output: int
    mean: float | None
    cv: float | None
    fits: tuple[LengthFit, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        fits = [
            {"kind": f.distribution.kind, "cv": f.cv, **asdict(f.divergence)} for f in self.fits
        ]
        return {**{k: v for k, v in vars(self).items() if k != "fits"}, "fits": fits}


def fit_output_lengths(
    trace: Trace, *, bins: int | None = None, replications: int = 200, seed: int = 0
) -> tuple[ClassLengths, ...]:
    """Fit exponential, log-normal and gamma output lengths to each class of a trace.

    Args:
        trace: requests; those without output tokens are counted and left out.
        bins: equally likely under a fit, for the KL divergence; None: 2 N^(2/5) of N requests.
        replications: bootstrap samples for the intervals, >= 20.
        seed: of the bootstrap, >= 0.

    Raises:
        ConfigurationError: for an option that is not allowed.

    Example:
        >>> from llm_sched_env.workloads.generated import requests_of_run
        >>> trace = requests_of_run("base", n_gpus=10, horizon=60.0)
        >>> [c.name for c in fit_output_lengths(trace, replications=20)]
        ['decode-heavy', 'prefill-heavy']
    """
    if bins is not None:
        checked_integer("bins", bins, 2)
        if bins > MOST_BINS:
            raise ConfigurationError("bins", bins, f"at most {MOST_BINS:,}")
    checked_integer("replications", replications, 20)
    if replications > MOST_SAMPLES:
        raise ConfigurationError("replications", replications, f"at most {MOST_SAMPLES:,}")
    checked_integer("seed", seed, 0)
    streams = np.random.SeedSequence(seed).spawn(len(trace.class_names))
    return tuple(
        _class_lengths(
            name, trace.output_tokens[trace.request_class == i], bins, replications, stream
        )
        for i, (name, stream) in enumerate(zip(trace.class_names, streams, strict=True))
    )


def with_output_lengths(instance: Instance, classes: Iterable[ClassLengths]) -> Instance:
    """The instance with the nearest fit as output lengths of each class of the same name.

    Means stay the instance's; classes without fits stay as they are.
    """
    nearest = {c.name: c.fits[0].distribution for c in classes if c.fits}
    return dataclasses.replace(
        instance,
        classes=tuple(
            dataclasses.replace(c, output_lengths=nearest.get(c.name, c.output_lengths))
            for c in instance.classes
        ),
    )


def _class_lengths(
    name: str,
    tokens: np.ndarray,
    bins: int | None,
    replications: int,
    stream: np.random.SeedSequence,
) -> ClassLengths:
    lengths = tokens[tokens > 0]
    without = len(tokens) - len(lengths)
    if len(lengths) == 0:
        return ClassLengths(name, 0, without, None, None, ())
    mean, cv = float(lengths.mean()), float(lengths.std() / lengths.mean())
    sample = Sample.of(lengths)
    fits: list[LengthFit] = []
    if len(sample.lengths) > 1:
        bins = round(2 * len(lengths) ** 0.4) if bins is None else bins
        fits = [
            LengthFit(
                LengthDistribution(law.kind, None if law.kind == "exponential" else law.cv),
                law.cv,
                divergence,
            )
            for law, divergence in divergences(
                sample, bins, replications, np.random.default_rng(stream)
            )
        ]
    fits.sort(key=lambda fit: fit.divergence.kl - fit.divergence.kl_bias)
    return ClassLengths(name, len(lengths), without, mean, cv, tuple(fits))
