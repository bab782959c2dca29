"""The fluid plan of an instance: the fluid program's optimum as what policies go by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.drawn_conversations import with_turns
from llm_sched_env.model.fleet import Fleet
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning.fleet_plan import fleet_plan
from llm_sched_env.planning.fluid_plan import NOTHING, PRICINGS, FluidPlan, endless_queues
from llm_sched_env.planning.fluid_solution import solve_fluid
from llm_sched_env.planning.linear_program import canonical_split
from llm_sched_env.planning.service_level_names import checked_service_levels
from llm_sched_env.planning.service_levels import ServiceLevel
from llm_sched_env.plugins.deprecated_names import renamed_arguments
from llm_sched_env.presets import resolve_instance

# An admission fraction this close to 1 serves the whole class.
_ALL = 1.0 - 1e-9


@renamed_arguments(slis="slos")
def plan(
    instance: Instance | str | Path | dict[str, object],
    pricing: str = "bundled",
    *,
    slos: Sequence[ServiceLevel | str | Mapping[str, Any]] = (),
) -> FluidPlan:
    """Solve the fluid program of an instance.

    Bundled plans have q_d = 0 where Proposition 3.2 says that such an optimum exists, plans with
    service levels always, as (49) has it. Decodes are then split so that every class has the same
    solo probability, as large as the solo slots allow; if a service level weighs the split, it is
    the program's own. With several optimal x the solver's vertex is taken; it is deterministic.
    Under the KV-aware law the plan is at two speeds of its own (:mod:`.operating_point`); that of
    several groups of GPUs is a :class:`.FleetPlan`. Where GPUs have caches prompts are reckoned
    with after the reuse of one infinite cache.

    Args:
        instance: an instance, a preset's name, a file or plain data.
        pricing: ``bundled`` or ``separate``.
        slos: service levels, in any combination: :class:`PrefillFairness`,
            :class:`DecodeFairness`, :class:`TPOT` or subclasses of :class:`ServiceLevel`;
            as objects, texts such as ``"tpot@limit=0.024"``, or mappings such as
            ``{"name": "tpot", "limit": 0.024}``.

    Raises:
        ConfigurationError: for a pricing that does not exist or service levels that cannot be.
        PlanError: if no revenue can be earned, a limit cannot be met or the solver fails.

    Example:
        >>> import llm_sched_env as lse
        >>> fluid = lse.plan("base")
        >>> round(fluid.value, 2)  # R*, per GPU and second
        297.7
    """
    given = with_turns(resolve_instance(instance))
    if pricing not in PRICINGS:
        raise ConfigurationError("pricing", pricing, " or ".join(PRICINGS))
    levels = checked_service_levels(slos)
    if isinstance(given.hardware, Fleet):
        return fleet_plan(given, pricing, len(levels))
    solution = solve_fluid(given, pricing, levels)
    instance, attained = solution.instance, solution.attained
    x, y_mixed, y_solo, q_prefill, q_decode = solution.occupancy
    if solution.own_split:
        solo_probability = _solo_probability(instance, y_mixed, y_solo)
    else:
        y_mixed, y_solo, p_solo = canonical_split(
            instance, float(x.sum()), y_mixed, y_solo, solution.solo_share
        )
        solo_probability = np.where(y_mixed + y_solo > 0, p_solo, 1.0)
    rates = instance.arrival_rates
    admitted = instance.prefill_rates * x
    fraction = np.clip(np.divide(admitted, rates, out=np.zeros_like(x), where=rates > 0), 0, 1)
    fraction[fraction > _ALL] = 1.0
    q_prefill, q_decode = (endless_queues(instance, q) for q in (q_prefill, q_decode))
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
    for array in (*plan_arrays.values(), solution.duals["arrival"], solution.duals["prefilled"]):
        array.setflags(write=False)
    return FluidPlan(
        instance=instance,
        given=given,
        pricing=pricing,
        value=solution.value,
        revenue_rate=solution.revenue_rate,
        objective=solution.revenue_rate - sum(level.penalty for level in attained.values()),
        mixed_fraction=min(1.0, float(x.sum())),
        duals=solution.duals,
        slos=attained,
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
