"""Look-ahead plans for known rate functions: which plan applies at what time.

A fixed plan knows mean rates only. Where classes have profiles, the plan of a moment is that of the
mean rates of the next seconds. Bursts of a modulation are not foreseen.
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.planning.fluid import plan
from llm_sched_env.planning.fluid_plan import FluidPlan

PERIOD_SECONDS = 1.0
"""How often the plan is asked for."""

# Rates within 5 % of each other have one plan: multipliers are powers of e to this.
_FACTOR = 0.1
# A class that pauses keeps a hundredth of its mean rate: plans know no class without arrivals.
_LEAST = 0.01


class PlanInForce(NamedTuple):
    """A plan and the time from which it holds, seconds."""

    start: float
    plan: FluidPlan


@lru_cache(maxsize=16)
def look_ahead_plans(fixed: FluidPlan, horizon: float, ahead: float) -> tuple[PlanInForce, ...]:
    """The plans of a run, each with its start; the first starts at 0.

    Without profiles, or with service levels, whose weights were chosen for one plan, it is the
    fixed plan alone.

    Args:
        fixed: the plan of the mean rates.
        horizon: seconds of the run.
        ahead: seconds over which a profile is averaged.
    """
    instance = fixed.given
    if fixed.slos or all(c.arrival_profile is None for c in instance.classes):
        return (PlanInForce(0.0, fixed),)
    starts = PERIOD_SECONDS * np.arange(max(1, math.ceil(horizon / PERIOD_SECONDS)))
    steps = np.round(np.log(np.maximum(_multipliers(instance, starts, ahead), _LEAST)) / _FACTOR)
    known: dict[bytes, FluidPlan] = {}
    in_force: list[PlanInForce] = []
    for start, step in zip(starts, steps, strict=True):
        key = (step + 0.0).tobytes()  # no negative zeros
        if key not in known:
            rates = instance.arrival_rates * np.exp(_FACTOR * step)
            known[key] = fixed if not step.any() else plan(_steady(instance, rates), fixed.pricing)
        if not in_force or in_force[-1].plan is not known[key]:
            in_force.append(PlanInForce(float(start), known[key]))
    return tuple(in_force)


def _multipliers(instance: Instance, starts: np.ndarray, ahead: float) -> np.ndarray:
    """Rates of the next seconds over the mean rates, shape (T, I)."""
    columns = np.ones((len(starts), instance.n_classes))
    for i, own in enumerate(instance.classes):
        if own.arrival_profile is not None:
            columns[:, i] = own.arrival_profile.mean_relative_rates_ahead(starts, ahead)
    return columns


def _steady(instance: Instance, rates: np.ndarray) -> Instance:
    """The instance at constant rates."""
    classes = tuple(
        dataclasses.replace(own, arrival_rate=float(rate), arrival_profile=None)
        for own, rate in zip(instance.classes, rates, strict=True)
    )
    return dataclasses.replace(instance, classes=classes, modulation=None)
