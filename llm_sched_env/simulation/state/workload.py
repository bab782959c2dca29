"""The engine's arrival tables, from an instance or a recorded stream."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.length_distributions import EXPONENTIAL as MARKOV
from llm_sched_env.model.length_distributions import LengthDistribution
from llm_sched_env.simulation.events.lengths import (
    DETERMINISTIC,
    EMPIRICAL,
    EXPONENTIAL,
    GAMMA,
    LOG_NORMAL,
    PAIRED,
)
from llm_sched_env.simulation.state import layout
from llm_sched_env.simulation.state.layout import RequestStream, Workload


def no_recording() -> RequestStream:
    """The empty stream: requests are drawn from the instance's distributions."""
    return RequestStream(np.empty(0), np.empty(0, np.int32), np.empty(0), np.empty(0))


BILLINGS = ("class-means", "own-tokens")


def bills_own_tokens(instance: Instance, recorded: bool, billing: str | None = None) -> bool:
    """Whether a request's own token counts are billed; raises ConfigurationError.

    By default the Markov model bills class means, recorded or otherwise given
    lengths bill their own.
    """
    if billing is not None:
        if billing not in BILLINGS:
            raise ConfigurationError("billing", billing, " or ".join(BILLINGS))
        return billing == "own-tokens"
    markov = all(
        c.prompt_lengths == c.output_lengths == MARKOV and c.observed_lengths is None
        for c in instance.classes
    )
    return recorded or not markov


def peak_multipliers(instance: Instance) -> np.ndarray:
    """Greatest arrival rate of each class over its mean rate; shape (I,)."""
    peaks = np.ones(instance.n_classes)
    for i, c in enumerate(instance.classes):
        if c.arrival_profile is not None:
            peaks[i] = c.arrival_profile.relative_rates.max()
    if instance.modulation is not None:
        peaks *= instance.modulation.relative_rates(instance.n_classes).max(axis=0)
    return peaks


def is_steady(instance: Instance) -> bool:
    """Whether every arrival rate is constant."""
    return instance.modulation is None and all(c.arrival_profile is None for c in instance.classes)


def workload_tables(instance: Instance, stream: RequestStream | None = None) -> Workload:
    """What the engine reads to draw, or replay, the requests of an instance.

    Raises:
        ConfigurationError: for requests that share prefixes but are not recorded.
    """
    for c in instance.classes:
        if stream is None and c.shares_prefixes:
            raise ConfigurationError(
                f"class {c.name!r}: sessions and shared_prefix",
                (c.sessions, c.shared_prefix),
                "a recorded stream of its requests",
                "evaluate draws one for each replication, LLMSchedRouting-v0 one for each episode",
            )
    values: list[float] = []
    lengths = np.zeros((2, instance.n_classes), layout.LENGTHS)
    for i, c in enumerate(instance.classes):
        if c.observed_lengths is not None and stream is None:
            observed = c.observed_lengths
            lengths[0, i] = _observed_record(EMPIRICAL, observed.prompt_tokens, values)
            lengths[1, i] = _observed_record(PAIRED, observed.output_tokens, values)
            continue
        lengths[0, i] = _length_record(c.prompt_lengths, c.prompt_tokens, values)
        lengths[1, i] = _length_record(c.output_lengths, c.output_tokens, values)
    profiles = np.zeros(instance.n_classes, layout.PROFILE)
    times: list[float] = []
    multipliers: list[float] = []
    for i, c in enumerate(instance.classes):
        if c.arrival_profile is not None:
            profiles[i] = len(times), len(c.arrival_profile.times), c.arrival_profile.period
            times += c.arrival_profile.times
            multipliers += c.arrival_profile.relative_rates.tolist()
    return Workload(
        no_recording() if stream is None else stream,
        lengths,
        np.array(values, float),
        profiles,
        np.array(times, float),
        np.array(multipliers, float),
        *_modulation_tables(instance),
    )


def _length_record(
    lengths: LengthDistribution, mean: float, values: list[float]
) -> tuple[int, float, float, int, int]:
    """One row of LENGTHS; observed lengths are appended to ``values``."""
    if lengths.kind == "deterministic":
        return DETERMINISTIC, mean, 0.0, 0, 0
    if lengths.kind == "log-normal":
        variance = math.log1p(_cv(lengths) ** 2)
        return LOG_NORMAL, math.log(mean) - variance / 2, math.sqrt(variance), 0, 0
    if lengths.kind == "gamma":
        shape = _cv(lengths) ** -2.0
        return GAMMA, mean / shape, shape, 0, 0
    if lengths.values is not None:
        return _observed_record(EMPIRICAL, lengths.values, values)
    return EXPONENTIAL, mean, 0.0, 0, 0


def _observed_record(
    kind: int, lengths: Iterable[float], values: list[float]
) -> tuple[int, float, float, int, int]:
    """One row of LENGTHS for observed lengths, which are appended to ``values``."""
    first = len(values)
    values.extend(lengths)
    return kind, 0.0, 0.0, first, len(values) - first


def _cv(lengths: LengthDistribution) -> float:
    assert lengths.cv is not None
    return lengths.cv


def _modulation_tables(
    instance: Instance,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Exit rates (S,), cumulative jumps (S, S), cumulative shares (S,), multipliers (S, I)."""
    modulation = instance.modulation
    if modulation is None:
        return np.empty(0), np.empty((0, 0)), np.empty(0), np.empty((0, instance.n_classes))
    rates = np.array(modulation.switch_rates)
    exits = rates.sum(axis=1)
    return (
        exits,
        np.cumsum(rates / exits[:, None], axis=1),
        np.cumsum(modulation.stationary_probabilities),
        modulation.relative_rates(instance.n_classes),
    )
