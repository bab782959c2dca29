"""Who goes first, and what is kept free for them: bid prices and reserves from the plan's duals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.instance import Instance

if TYPE_CHECKING:
    from llm_sched_env.planning.fluid import FluidPlan

# Bids below this share of a request's revenue are 0: rounding of the solver.
_ZERO = 1e-6
# At prices that change, the bid of a class that is admitted in part hovers around 0: up to this
# share of its revenue it yields, to classes whose capacity earns more by this share.
_CLOSE = 0.03


def bid_prices(plan: FluidPlan) -> np.ndarray:
    """What admitting a request earns beyond the capacity that it uses; currency, shape (I,).

    Revenue less the shadow prices of its prefill (a GPU that turns mixed) and of its decode on
    the cheaper kind of slot; under separate charging a decode that costs more than it earns is
    left out. Positive: the plan admits the whole class; 0: a part; negative: nothing.
    """
    instance, duals = plan.instance, plan.duals
    slots = instance.hardware.batch_slots
    mixed, solo = duals["mixed_decode_capacity"], duals["solo_decode_capacity"]
    prefill_price = duals["prefill_capacity"] - (slots - 1) * mixed + slots * solo
    prefill_cost = prefill_price / instance.prefill_rates
    decode_cost = np.minimum(mixed / instance.mixed_decode_rates, solo / instance.solo_decode_rates)
    prompt = instance.prices.prefill * instance.prompt_tokens
    output = instance.prices.decode * instance.output_tokens
    if plan.pricing == "bundled":
        served = np.maximum(0.0, prompt + output - decode_cost)
    else:
        served = prompt + np.maximum(0.0, output - decode_cost)
    bids: np.ndarray = served - prefill_cost
    return np.where(np.abs(bids) < _ZERO * (prompt + output), 0.0, bids)


def slot_reserves(plan: FluidPlan) -> np.ndarray:
    """Free slots of the cluster without which a class is not admitted; shape (I,), >= 0.

    Only classes that the plan does not admit as a whole yield, to those that it does (H). While
    they use every slot above the reserve r, the number of free slots below it, and then of waiting
    requests of H, is a birth-death chain: up at H's arrival rate, down at the rate at which slots
    become free, the ratio of which is rho. So r more slots cost kappa (1 - rho^(r+1)), the worth
    of idle slots, and save theta b rho^(r+1), what H loses by giving up, per second; the optimum is

        r + 1 = ln(1 + theta b / kappa) / ln(1 / rho).

    kappa is the shadow price of a slot times what the class earns per unit of capacity's worth,
    theta b the mean over H of patience rate times bid. Nothing depends on the cluster's size.
    """
    instance = plan.instance
    bids = bid_prices(plan)
    first = bids > 0
    reserves = np.zeros(instance.n_classes)
    rates = instance.arrival_rates
    protected, admitted = rates[first].sum(), (rates * plan.admission_fraction).sum()
    slot_price = plan.duals["solo_decode_capacity"]
    if not 0 < protected < admitted or slot_price <= 0:
        return reserves
    loss = (rates * instance.patience_rates * bids)[first].sum() / protected
    revenue = instance.bundled_revenues
    worth = slot_price * revenue / (revenue - bids)
    best = np.log1p(loss / worth) / np.log(admitted / protected) - 1.0
    return np.where(first, reserves, np.maximum(0.0, best))


def reserves_at_prices(
    instance: Instance, bids: np.ndarray, rates: np.ndarray, admitted: float, slot_price: float
) -> np.ndarray:
    """The reserves of :func:`slot_reserves` when prices and rates are not those of a plan.

    A class with a bid of about 0 or less yields to the classes whose capacity earns more than its
    own. Prices are scaled to where its bid is 0, and the formula gives its reserve against them.
    If they fill by themselves whatever is admitted, it is kept out: the reserve is infinite.

    Args:
        instance: patience and revenue.
        bids: revenue less the price of the capacity used, currency, shape (I,).
        rates: arrival rates per GPU, 1/s, shape (I,).
        admitted: admissions of all classes per GPU, 1/s.
        slot_price: of a decode slot, currency per second.

    Returns:
        Free slots of the cluster, shape (I,), >= 0.
    """
    reserves, revenue = np.zeros(instance.n_classes), instance.bundled_revenues
    paid = revenue - bids
    if slot_price <= 0:
        return reserves
    for i in np.flatnonzero(bids <= _CLOSE * revenue):
        scale = revenue[i] / paid[i]
        first = revenue > (1.0 + _CLOSE) * scale * paid
        protected = rates[first].sum()
        if protected <= 0:
            continue
        if protected >= admitted:
            reserves[i] = np.inf
            continue
        lost = instance.patience_rates * (revenue - scale * paid)
        loss = (rates * lost)[first].sum() / protected
        best = np.log1p(loss / (scale * slot_price)) / np.log(admitted / protected) - 1.0
        reserves[i] = max(0.0, best)
    return reserves
