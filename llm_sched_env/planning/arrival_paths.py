"""Arrivals in each time step: counted from requests, or expected from rate functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.model.instance import Instance

# Points of a step at which a profile is integrated.
_PARTS = 64


@dataclass(frozen=True, eq=False)
class ArrivalPath:
    """Arrivals by step of time, per GPU.

    Attributes:
        seconds: length of a step.
        arrivals: of each class in each step, requests per GPU, shape (T, I).
        present: of these, how many have arrived on average over the step, shape (T, I).
    """

    seconds: float
    arrivals: np.ndarray
    present: np.ndarray


def recorded_arrivals(
    arrival_time: np.ndarray,
    request_class: np.ndarray,
    n_classes: int,
    n_gpus: int,
    *,
    horizon: float,
    seconds: float,
) -> ArrivalPath:
    """The path of given requests.

    Args:
        arrival_time: seconds, shape (K,).
        request_class: shape (K,).
        n_classes: I.
        n_gpus: cluster size that serves them.
        horizon: seconds; what arrives later is left out.
        seconds: length of a step; the horizon is a multiple of it.
    """
    steps = whole_steps("horizon", horizon, seconds)
    inside = arrival_time < steps * seconds
    time, own = arrival_time[inside] / seconds, request_class[inside]
    step = time.astype(np.int64)
    arrivals, present = np.zeros((2, steps, n_classes))
    np.add.at(arrivals, (step, own), 1.0 / n_gpus)
    np.add.at(present, (step, own), (1.0 - (time - step)) / n_gpus)
    return ArrivalPath(seconds, arrivals, present)


def expected_arrivals(instance: Instance, *, horizon: float, seconds: float) -> ArrivalPath:
    """The path of the expected arrivals at the instance's rates and profiles.

    Args:
        instance: without a modulation: its bursts have no expected path.
        horizon: seconds, a multiple of the step.
        seconds: length of a step.
    """
    if instance.modulation is not None:
        raise ConfigurationError(
            "instance",
            instance.name,
            "arrivals without a modulation",
            "bursts are random: give the requests of a run",
        )
    steps = whole_steps("horizon", horizon, seconds)
    parts = np.ones((steps, _PARTS, instance.n_classes)) * instance.arrival_rates
    edges = np.linspace(0.0, steps * seconds, steps * _PARTS + 1)
    for i, c in enumerate(instance.classes):
        if c.arrival_profile is not None:
            relative = c.arrival_profile.mean_relative_rates(edges)
            parts[:, :, i] *= relative.reshape(steps, _PARTS)
    parts *= seconds / _PARTS
    remaining = 1.0 - (np.arange(_PARTS) + 0.5) / _PARTS
    return ArrivalPath(seconds, parts.sum(axis=1), np.einsum("tpi,p->ti", parts, remaining))


def whole_steps(field: str, length: float, seconds: float) -> int:
    """How many steps a time has; raises ConfigurationError unless it is a whole number."""
    if not is_finite_number(seconds, positive=True):
        raise ConfigurationError("seconds", seconds, "a finite length of a step > 0")
    if not is_finite_number(length) or abs(length / seconds - round(length / seconds)) > 1e-9:
        raise ConfigurationError(field, length, f"a multiple of the step of {seconds:g} s")
    return round(length / seconds)
