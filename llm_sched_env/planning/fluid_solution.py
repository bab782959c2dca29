"""Solve the fluid program: (40) and (42) at two speeds, else the accounting program.

The two are the same program: with two speeds and no KV limit iterations and context can be
eliminated from the accounting program, and the occupancies of (40) are what is left.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from llm_sched_env.errors import PlanError
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.planning.accounting_program import AccountingProgram
from llm_sched_env.planning.level_program import LevelOptimum, solve_with_levels
from llm_sched_env.planning.linear_program import (
    Optimum,
    Program,
    fluid_program,
    maximize,
    needs_decode_queue,
    shadow_prices,
)
from llm_sched_env.planning.operating_point import (
    OperatingPoint,
    operating_point,
    two_speed_equivalent,
)
from llm_sched_env.planning.service_levels import AttainedLevel, ServiceLevel

# A plan without prefilled requests that wait is taken if it is worth this share of the best.
AS_GOOD = 1.0 - 1e-9


class FluidSolution(NamedTuple):
    """An optimum of the fluid program.

    Attributes:
        instance: the requests that fit, at two speeds that give these occupancies.
        value: R*.
        revenue_rate: of this solution; less than R* with service levels.
        occupancy: rows x, y_mixed, y_solo, q_prefill, q_decode, shape (5, I).
        duals: as :class:`FluidPlan` has them.
        attained: by service level.
        own_split: whether a service level weighs how decodes are split.
        solo_share: of the tokens made in solo iterations, where the program says it.
    """

    instance: Instance
    value: float
    revenue_rate: float
    occupancy: np.ndarray
    duals: dict[str, Any]
    attained: dict[str, AttainedLevel]
    own_split: bool
    solo_share: float | None


def needs_accounts(hardware: Hardware) -> bool:
    """Whether (40) does not say it all: iterations depend on decodes, or KV tokens are scarce."""
    return hardware.iteration_law == "kv-aware" or hardware.kv_tokens is not None


def solve_fluid(given: Instance, pricing: str, levels: Sequence[ServiceLevel]) -> FluidSolution:
    """The optimum of an instance, with all its requests.

    Raises:
        ConfigurationError: if no request fits, or for an indicator that cannot be used.
        PlanError: if no revenue can be earned, a limit cannot be met or the solver fails.
    """
    instance, hardware = fitting_requests(given), given.only_hardware
    if not needs_accounts(hardware):
        return _solve_two_speeds(instance, pricing, levels)
    if hardware.iteration_law != "kv-aware":
        # Of several optima that of (40) or (42), as without a KV limit, unless memory is scarce.
        found = _solve_two_speeds(instance, pricing, levels)
        program = one_group_program(given, pricing).program
        if positive_value(program, maximize(program)) >= AS_GOOD * found.value:
            return found
    return _solve_accounts(given, instance, pricing, levels)


def one_group_program(
    given: Instance, pricing: str = "bundled", *, decode_queue: bool = True
) -> AccountingProgram:
    """The accounting program of an instance whose GPUs are all alike."""
    return AccountingProgram(
        given,
        given.groups,
        fitting_requests(given).arrival_rates,
        pricing,
        decode_queue=decode_queue,
    )


def _solve_two_speeds(
    instance: Instance, pricing: str, levels: Sequence[ServiceLevel]
) -> FluidSolution:
    program = fluid_program(instance, pricing, needs_decode_queue(instance, pricing))
    optimum = maximize(program)
    value = positive_value(program, optimum)
    found = _plain(optimum)
    if levels:
        plain = fluid_program(instance, pricing, decode_queue=False)
        found = solve_with_levels(instance, plain, levels)
    return FluidSolution(
        instance=instance,
        value=value,
        revenue_rate=float(program.objective @ found.columns),
        occupancy=program.occupancy @ found.columns,
        duals=shadow_prices(found.priced, instance.n_classes),
        attained=found.attained,
        own_split=found.weighs_split,
        solo_share=None,
    )


def _solve_accounts(
    given: Instance, instance: Instance, pricing: str, levels: Sequence[ServiceLevel]
) -> FluidSolution:
    """By the accounting program: its operating point gives the two speeds."""
    program = one_group_program(given, pricing)
    optimum = program.optimum()
    value = positive_value(program.program, optimum)
    if pricing == "bundled":
        without = one_group_program(given, pricing, decode_queue=False)
        other = without.optimum()
        if float(without.program.objective @ other.columns) >= AS_GOOD * value:
            program, optimum = without, other
    point = operating_point(program, program.accounts(optimum.columns))
    equivalent = two_speed_equivalent(instance, point)
    found = _plain(optimum)
    seconds = np.array([point.tau_mixed, point.tau_solo])
    if levels:
        program = one_group_program(given, pricing, decode_queue=False)
        occupancy = program.occupancy(seconds)
        plain = replace(program.program, occupancy=occupancy)
        found = solve_with_levels(equivalent, plain, levels)
    return FluidSolution(
        instance=equivalent,
        value=value,
        revenue_rate=float(program.program.objective @ found.columns),
        occupancy=program.occupancy(seconds) @ found.columns,
        duals=_duals(program, found.priced, point),
        attained=found.attained,
        own_split=found.weighs_split,
        solo_share=None if levels else point.solo_share,
    )


def _plain(optimum: Optimum) -> LevelOptimum:
    return LevelOptimum(np.maximum(optimum.columns, 0.0), optimum, {}, weighs_split=False)


def positive_value(program: Program, optimum: Optimum) -> float:
    """The revenue of an optimum; raises PlanError if there is none to speak of."""
    value = float(program.objective @ np.maximum(optimum.columns, 0.0))
    if value < sys.float_info.min:
        raise PlanError(
            f"plan of {program.name!r}: got the value {value:g}, expected a normal "
            "floating-point value > 0; give a price to tokens that arrive"
        )
    return value


def _duals(program: AccountingProgram, optimum: Optimum, point: OperatingPoint) -> dict[str, Any]:
    """Prices of time, slots and memory as prices per second at the operating point.

    A second of a mixed GPU costs its time, and takes B solo slots from the cluster.
    """
    prices = program.prices(optimum)
    time, solo = float(prices.time[0]), float(prices.slots[1, 0]) / point.tau_solo
    return {
        "prefill_capacity": time - program.groups[0].hardware.batch_slots * solo,
        "mixed_decode_capacity": float(prices.slots[0, 0]) / point.tau_mixed,
        "solo_decode_capacity": solo,
        "arrival": prices.arrival,
        "prefilled": prices.prefilled[0],
        "time": time,
        "mixed_memory": float(prices.memory[0, 0]) / point.tau_mixed,
        "solo_memory": float(prices.memory[1, 0]) / point.tau_solo,
    }
