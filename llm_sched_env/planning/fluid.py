"""The fluid plan: linear programs (40), bundled, and (42), separate charging."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, PlanError
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.planning.fluid_plan import NOTHING, PRICINGS, FluidPlan
from llm_sched_env.planning.level_program import solve_with_levels
from llm_sched_env.planning.linear_program import (
    canonical_split,
    fluid_program,
    maximize,
    needs_decode_queue,
    objective,
    shadow_prices,
)
from llm_sched_env.planning.service_level_names import checked_service_levels
from llm_sched_env.planning.service_levels import AttainedLevel, ServiceLevel
from llm_sched_env.presets import resolve_instance

# An admission fraction this close to 1 serves the whole class.
_ALL = 1.0 - 1e-9
# A queue that grows by less than this share of its arrivals does not grow: solver noise.
_NO_GROWTH = 1e-9


def plan(
    instance: Instance | str | Path | dict[str, object],
    pricing: str = "bundled",
    *,
    slis: Sequence[ServiceLevel | str | Mapping[str, Any]] = (),
) -> FluidPlan:
    """Solve the fluid program of an instance.

    Bundled plans have q_d = 0 where Proposition 3.2 says that such an optimum exists, plans with
    service levels always, as (49) has it. Decodes are then split so that every class has the same
    solo probability, as large as the solo slots allow; if a service level weighs the split, it is
    the program's own. With several optimal x the solver's vertex is taken; it is deterministic.

    Args:
        instance: an instance, a preset's name, a file or plain data.
        pricing: ``bundled`` or ``separate``.
        slis: service levels, in any combination: :class:`PrefillFairness`,
            :class:`DecodeFairness`, :class:`TokenTime` or subclasses of :class:`ServiceLevel`;
            as objects, texts such as ``"token-time@limit=0.024"``, or mappings such as
            ``{"name": "token-time", "limit": 0.024}``.

    Raises:
        ConfigurationError: for a pricing that does not exist or service levels that cannot be.
        PlanError: if no revenue can be earned, a limit cannot be met or the solver fails.
    """
    instance = fitting_requests(resolve_instance(instance))
    if pricing not in PRICINGS:
        raise ConfigurationError("pricing", pricing, " or ".join(PRICINGS))
    levels = checked_service_levels(slis)
    revenue, n = objective(instance, pricing), instance.n_classes
    program = fluid_program(instance, pricing, needs_decode_queue(instance, pricing))
    optimum = maximize(program)
    solution = np.maximum(optimum.columns, 0.0)
    value = float(revenue @ solution)
    if value < sys.float_info.min:
        raise PlanError(
            f"plan of {instance.name!r}: got the value {value:g}, allowed is a normal "
            "floating-point value > 0; give a price to tokens that arrive"
        )
    duals, own_split = shadow_prices(optimum, n), False
    attained: dict[str, AttainedLevel] = {}
    if levels:
        solution, duals, attained, own_split = solve_with_levels(instance, pricing, levels)
    revenue_rate = float(revenue @ solution.ravel())
    x, y_mixed, y_solo, q_prefill, q_decode = solution.reshape(5, -1)
    if own_split:
        solo_probability = _solo_probability(instance, y_mixed, y_solo)
    else:
        y_mixed, y_solo, p_solo = canonical_split(instance, float(x.sum()), y_mixed, y_solo)
        solo_probability = np.where(y_mixed + y_solo > 0, p_solo, 1.0)
    rates = instance.arrival_rates
    admitted = instance.prefill_rates * x
    fraction = np.clip(np.divide(admitted, rates, out=np.zeros_like(x), where=rates > 0), 0, 1)
    fraction[fraction > _ALL] = 1.0
    q_prefill, q_decode = (_endless(instance, q) for q in (q_prefill, q_decode))
    growing = np.isinf(q_prefill) | np.isinf(q_decode)
    plan_arrays = {
        "x": x,
        "y_mixed": y_mixed,
        "y_solo": y_solo,
        "q_prefill": q_prefill,
        "q_decode": q_decode,
        "solo_probability": solo_probability,
        "admission_fraction": fraction,
    }
    for array in (*plan_arrays.values(), duals["arrival"], duals["prefilled"]):
        array.setflags(write=False)
    return FluidPlan(
        instance=instance,
        pricing=pricing,
        value=value,
        revenue_rate=revenue_rate,
        objective=revenue_rate - sum(level.penalty for level in attained.values()),
        mixed_fraction=min(1.0, float(x.sum())),
        duals=duals,
        slis=attained,
        unstable_classes=tuple(
            c.name for c, grows in zip(instance.classes, growing, strict=True) if grows
        ),
        **plan_arrays,
    )


def _solo_probability(instance: Instance, y_mixed: np.ndarray, y_solo: np.ndarray) -> np.ndarray:
    """p_s per class, the share of its decode throughput in the solo pool; 1 without any."""
    solo = instance.solo_decode_rates * y_solo
    decoded = instance.mixed_decode_rates * y_mixed + solo
    served = decoded > NOTHING * decoded.sum()
    share: np.ndarray = np.divide(solo, decoded, out=np.ones_like(solo), where=served)
    return share


def _endless(instance: Instance, queue: np.ndarray) -> np.ndarray:
    """Queues of classes that never leave: the program gives their growth, 1/s, or nothing."""
    grows = queue > _NO_GROWTH * instance.arrival_rates
    patient = instance.patience_rates == 0
    return np.where(patient, np.where(grows, np.inf, 0.0), queue)
