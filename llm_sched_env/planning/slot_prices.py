"""Shadow prices of slots; where nothing is scarce, those of the critical load."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.model.request_work import RequestWork, request_work
from llm_sched_env.planning.fluid_solution import needs_accounts, one_group_program
from llm_sched_env.planning.iteration_times import iteration_times

if TYPE_CHECKING:
    from llm_sched_env.planning.fluid_plan import FluidPlan

# A capacity whose price is below this share of R* per unit is free: rounding of the solver.
FREE = 1e-9
# How far above the critical load its prices are read: at the load itself they are not unique.
ABOVE_CRITICAL = 1.001


@dataclass(frozen=True)
class SlotPrices:
    """Shadow prices of what a request uses, currency; arrays of shape (I,).

    Attributes:
        prefill: of a prefill; negative where a prefill helps its neighbours more than it costs.
        decode: of a decode, on the cheaper kind of slot.
        slot: of a solo slot per second.
        seconds: in a solo slot that a decode is reckoned with; at two speeds those that its price
            buys, if slots have one.
    """

    prefill: np.ndarray
    decode: np.ndarray
    slot: float
    seconds: np.ndarray

    def __post_init__(self) -> None:
        for array in (self.prefill, self.decode, self.seconds):
            array.setflags(write=False)

    def times(self, factor: float) -> SlotPrices:
        """All prices by a factor."""
        return SlotPrices(
            factor * self.prefill, factor * self.decode, factor * self.slot, self.seconds
        )


@lru_cache(maxsize=16)
def slot_prices(plan: FluidPlan, n_gpus: int) -> SlotPrices:
    """Prices on n GPUs.

    A prefill turns a solo GPU mixed: B solo slots less, B - 1 mixed ones more. A plan that serves
    everybody with capacity to spare has no prices, but on a finite cluster requests wait all the
    same. They are then those at critical load, times the probability that all slots are taken
    (Erlang's delay formula for n B slots), which is the share of time in which a slot is missed.
    The last ones are kept: ranks and profile of a plan both need them.
    """
    _ = plan.given.only_hardware
    if any(price > FREE * plan.value for price in _capacity_prices(plan)):
        return _prices(plan)
    from llm_sched_env.planning.fluid import plan as solve

    load = 1.0 / critical_scale(plan.given)
    critical = _prices(solve(plan.given.scaled(ABOVE_CRITICAL / load), plan.pricing))
    return critical.times(delay_probability(n_gpus * plan.instance.hardware.batch_slots, load))


def critical_scale(instance: Instance) -> float:
    """By which factor all arrival rates can grow before somebody cannot be served."""
    hardware = instance.hardware
    if needs_accounts(instance.only_hardware):
        return one_group_program(instance, decode_queue=False).critical_scale()
    mixed = float((instance.arrival_rates / instance.prefill_rates).sum())
    tokens = float((instance.arrival_rates * instance.output_tokens).sum())
    solo_rate = hardware.gamma * hardware.batch_slots
    mixed_rate = (hardware.batch_slots - 1) / hardware.tau_mixed
    # tokens * s <= mixed_rate * mixed * s + solo_rate * (1 - mixed * s), and mixed * s <= 1.
    slack_used = tokens + (solo_rate - mixed_rate) * mixed
    limits = [1.0 / mixed] if mixed > 0 else []
    return min([*limits, solo_rate / slack_used] if slack_used > 0 else limits)


def delay_probability(servers: int, load: float) -> float:
    """Erlang's C: that an arrival at M/M/servers finds all busy; load per server in (0, 1)."""
    from scipy.stats import poisson

    offered = servers * load
    blocked = float(np.exp(poisson.logpmf(servers, offered) - poisson.logcdf(servers, offered)))
    return blocked / (1.0 - load * (1.0 - blocked))


def _capacity_prices(plan: FluidPlan) -> tuple[float, float, float]:
    duals = plan.duals
    return (
        float(duals["prefill_capacity"]),
        float(duals["mixed_decode_capacity"]),
        float(duals["solo_decode_capacity"]),
    )


def _prices(plan: FluidPlan) -> SlotPrices:
    if "time" in plan.duals:
        return _prices_of_work(plan)
    instance, slots = plan.instance, plan.instance.hardware.batch_slots
    prefill, mixed, solo = _capacity_prices(plan)
    turned = prefill - (slots - 1) * mixed + slots * solo
    decode = np.minimum(mixed / instance.mixed_decode_rates, solo / instance.solo_decode_rates)
    seconds = 1.0 / instance.solo_decode_rates
    if solo > 0:
        np.divide(decode, solo, out=seconds, where=decode > 0)
    return SlotPrices(turned / instance.prefill_rates, decode, solo, seconds)


def _prices_of_work(plan: FluidPlan) -> SlotPrices:
    """What time, slots and memory of a request cost: the reduced costs of the accounting program.

    A mixed iteration costs its time, and gives B - 1 slots and the memory for their context.
    Tokens and context are paid for where they are cheaper; an idle slot also idles the memory of
    a mean context.
    """
    instance, duals = plan.instance, plan.duals
    hardware, time = instance.hardware, duals["time"]
    (_, s1, s2), (m0, m1, m2, m3, m4) = iteration_times(plan.given.only_hardware)
    mixed, mixed_memory = (
        hardware.tau_mixed * duals[name] for name in ("mixed_decode_capacity", "mixed_memory")
    )
    solo, solo_memory = (
        hardware.tau_solo * duals[name] for name in ("solo_decode_capacity", "solo_memory")
    )
    work = RequestWork(
        *np.array([request_work(c, plan.given.hardware) for c in plan.given.classes]).T
    )
    chunk = time * m0 - (hardware.batch_slots - 1) * mixed
    chunk -= (hardware.kv_tokens or 0) * mixed_memory
    prompt = time * (m1 * work.prefill_tokens + m4 * work.prefill_context)
    decode = work.decode_iterations * min(solo + time * s1, mixed + time * m2)
    decode += work.decode_context * min(solo_memory + time * s2, mixed_memory + time * m3)
    rates = instance.arrival_rates
    context = float(rates @ work.decode_context) / float(rates @ work.decode_iterations)
    return SlotPrices(
        prompt + work.prefill_iterations * chunk,
        decode,
        (solo + context * solo_memory) / hardware.tau_solo,
        1.0 / instance.solo_decode_rates,
    )
