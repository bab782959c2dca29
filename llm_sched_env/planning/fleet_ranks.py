"""Trunk reservation on several groups of GPUs: net values and reserves by class and group.

A request is admitted where its prefill is worth most and decodes where that is; a group that the
plan does not use for a class is a last resort. Prices are those of the accounting program, by
group: time, slots, and what a chunk gives back in mixed slots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llm_sched_env.model.slot_ranks import SlotRanks
from llm_sched_env.planning.accounting_program import AccountingProgram, AccountPrices
from llm_sched_env.planning.fleet_plan import FleetPlan, fleet_plan, fleet_program
from llm_sched_env.planning.slot_prices import ABOVE_CRITICAL, FREE, SlotPrices, delay_probability
from llm_sched_env.planning.slot_ranks import NO_BID, Bids, bids_at, slot_reserves


class FleetPrices(NamedTuple):
    """What a request uses, currency, shape (I, G), and a slot per second, shape (G,)."""

    prefill: np.ndarray
    decode: np.ndarray
    slot: np.ndarray


def fleet_prices(plan: FleetPlan, n_gpus: int) -> FleetPrices:
    """Prices of the plan; with capacity to spare, of the critical load times Erlang's delay."""
    if (plan.prices.time > FREE * plan.value).any() or (plan.prices.slots > 0).any():
        return _prices(plan)
    load = 1.0 / fleet_program(plan.given, decode_queue=False).critical_scale()
    critical = _prices(fleet_plan(plan.given.scaled(ABOVE_CRITICAL / load), plan.pricing))
    factor = delay_probability(_slots(plan, n_gpus), load)
    return FleetPrices(*(factor * price for price in critical))


def _prices(plan: FleetPlan) -> FleetPrices:
    program, prices = plan.program, plan.prices
    served = plan.accounts.decodes.sum(axis=0) > NO_BID * plan.given.arrival_rates
    return FleetPrices(
        prefill_prices(program, prices, served).T,
        decode_prices(program, prices).T,
        prices.slots[1] / np.array([g.hardware.tau_solo for g in plan.instance.groups]),
    )


def prefill_prices(
    program: AccountingProgram, prices: AccountPrices, served: np.ndarray
) -> np.ndarray:
    """A prefill's time, less the mixed slots that its chunks give; currency, shape (G, I)."""
    slots = np.array([group.hardware.batch_slots for group in program.groups])
    m0, m1, _, _, m4 = program.mixed_times.T[:, :, None]
    time = prices.time[:, None]
    chunk = time * m0 - ((slots - 1) * mixed_slots(program, prices, served))[:, None]
    prompt = time * (m1 * program.prefill_tokens + m4 * program.prefill_context)
    paid: np.ndarray = prompt + program.prefill_iterations * chunk
    return paid


def mixed_slots(
    program: AccountingProgram, prices: AccountPrices, served: np.ndarray
) -> np.ndarray:
    """What a mixed slot is worth: no more than a token of a class that is served costs elsewhere.

    Where a group makes no tokens in mixed iterations, the program leaves their price open.

    Args:
        program: of the groups.
        prices: its shadow prices.
        served: whether any request of a class is decoded, shape (I,).

    Returns:
        Currency, shape (G,).
    """
    decodes = np.array([group.role != "prefill" for group in program.groups])
    if not served.any():
        return np.where(decodes, prices.slots[0], 0.0)
    token = (decode_prices(program, prices)[decodes] / program.decode_iterations[decodes]).min(
        axis=0
    )
    m2, context = program.mixed_times[:, 2:3], program.decode_context / program.decode_iterations
    read = np.minimum(program.solo_times[:, 2:3], program.mixed_times[:, 3:4]) * context
    worth = (token - prices.time[:, None] * (m2 + read))[:, served].max(axis=1)
    return np.where(decodes, np.clip(worth, 0.0, prices.slots[0]), 0.0)


def decode_prices(program: AccountingProgram, prices: AccountPrices) -> np.ndarray:
    """A decode's slots and time, where they are cheaper; currency, shape (G, I)."""
    _, s1, s2 = program.solo_times.T[:, :, None]
    _, _, m2, m3, _ = program.mixed_times.T[:, :, None]
    time, (mixed, solo) = prices.time[:, None], prices.slots[:, :, None]
    paid: np.ndarray = program.decode_iterations * np.minimum(solo + time * s1, mixed + time * m2)
    paid += program.decode_context * np.minimum(time * s2, time * m3)
    return paid


def _bids(plan: FleetPlan, prices: FleetPrices) -> Bids:
    """Net values where the roles of the groups allow the service."""
    prefills, decodes = (
        np.array([group.role != role for group in plan.given.groups])
        for role in ("decode", "prefill")
    )
    return bids_at(
        plan.given,
        plan.pricing,
        np.where(prefills, prices.prefill, np.inf),
        np.where(decodes, prices.decode, np.inf),
    )


def fleet_ranks(plan: FleetPlan, n_gpus: int) -> SlotRanks:
    """Ranks on n GPUs, by pair of a class and a group; each of shape (I G,).

    Priorities are net values. Reserves of a class are those of one kind of GPU, at mean prices; a
    group where a class is worth less than in its best one is used for it as a class of negative
    net value is, the loss being what it is worth less.
    """
    prices = fleet_prices(plan, n_gpus)
    bids = _bids(plan, prices)
    arriving = plan.given.arrival_rates
    prefilled, decoded = plan.accounts.prefills.sum(axis=0), plan.accounts.decodes.sum(axis=0)
    request = prices.prefill + prices.decode.min(axis=1, keepdims=True)
    reserve = _reserves(plan, n_gpus, prices, bids.prefill, request, (arriving, prefilled))
    decode_reserve = _reserves(
        plan, n_gpus, prices, bids.decode, prices.decode, (prefilled, decoded)
    )
    best_second = max(0.0, float((bids.decode.max(axis=1) / _seconds(plan)).max()))
    precedes = bids.prefill_alone * _prefill_rates(plan) > best_second
    return SlotRanks(
        bids.prefill.ravel(),
        reserve.ravel(),
        bids.decode.ravel(),
        decode_reserve.ravel(),
        precedes.ravel().astype(float),
    )


def _reserves(
    plan: FleetPlan,
    n_gpus: int,
    prices: FleetPrices,
    bids: np.ndarray,
    cost: np.ndarray,
    flow: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Free slots of the cluster that a pair needs, shape (I, G).

    Args:
        plan: of the groups.
        n_gpus: cluster size.
        prices: of slots.
        bids: net values.
        cost: prices of all that such a request uses.
        flow: requests of each class that ask and that are served, 1/s.
    """
    best = bids.max(axis=1)
    # Where bids are infinitely low, the role of the group rules them out anyway.
    loss = np.maximum(bids, best[:, None] - 1e100) - best[:, None]
    found = np.empty_like(bids)
    for g in range(bids.shape[1]):
        worse = loss[:, g] < -NO_BID * plan.given.bundled_revenues
        here = SlotPrices(cost[:, g], cost[:, g], _mean_slot(plan, prices), _seconds(plan))
        own, other = (
            slot_reserves(plan.given.patience_rates, _slots(plan, n_gpus), n_gpus, here, bid, *flow)
            for bid in (best, np.where(worse, loss[:, g], best))
        )
        found[:, g] = np.where(worse, np.maximum(own, other), own)
    return found


def _slots(plan: FleetPlan, n_gpus: int) -> int:
    sizes = plan.given.group_sizes(n_gpus)
    return int(sizes @ [group.hardware.batch_slots for group in plan.given.groups])


def _mean_slot(plan: FleetPlan, prices: FleetPrices) -> float:
    """Price of a slot per second, mean over the slots of all groups."""
    slots = np.array([group.share * group.hardware.batch_slots for group in plan.given.groups])
    return float(slots @ prices.slot / slots.sum())


def _seconds(plan: FleetPlan) -> np.ndarray:
    """Of a decode alone, mean over the slots of all groups; shape (I,)."""
    slots = np.array([group.share * group.hardware.batch_slots for group in plan.given.groups])
    rates = [plan.instance.on_group(group).solo_decode_rates for group in plan.instance.groups]
    seconds: np.ndarray = slots.sum() / (slots @ np.array(rates))
    return seconds


def _prefill_rates(plan: FleetPlan) -> np.ndarray:
    rates = [plan.instance.on_group(group).prefill_rates for group in plan.instance.groups]
    return np.array(rates).T
