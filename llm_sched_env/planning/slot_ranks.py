"""Priorities (net values) and reserves of free slots for trunk reservation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.model.slot_ranks import SlotRanks
from llm_sched_env.planning.fleet_plan import FleetPlan
from llm_sched_env.planning.slot_prices import SlotPrices, slot_prices

if TYPE_CHECKING:
    from llm_sched_env.planning.fluid_plan import FluidPlan

# Bids below this share of a request's revenue are 0: rounding of the solver.
NO_BID = 1e-6
# At prices that change, the bid of a class that is admitted in part hovers around 0: up to this
# share of its revenue it yields, to classes whose capacity earns more by this share.
_CLOSE = 0.03


@dataclass(frozen=True)
class Bids:
    """What a use of a slot earns beyond what it costs; currency, shape (I,) or, by group, (I, G).

    Attributes:
        prefill: of admitting a request. Positive: the plan admits the whole class; 0: a part;
            negative: nothing.
        decode: of starting a prefilled request's decode, its prefill being paid; likewise.
        prefill_alone: of a prefill that no decode follows. Positive where it is billed, or speeds
            up its neighbours: such a plan lets prefilled requests give up (q_d > 0).
    """

    prefill: np.ndarray
    decode: np.ndarray
    prefill_alone: np.ndarray


def slot_bids(plan: FluidPlan, prices: SlotPrices) -> Bids:
    """Revenue less shadow prices."""
    return bids_at(plan.instance, plan.pricing, prices.prefill, prices.decode)


def bids_at(
    instance: Instance,
    pricing: str,
    prefill: np.ndarray,
    decode: np.ndarray,
    move: np.ndarray | float = 0.0,
) -> Bids:
    """Revenue less the costs of a prefill and of a decode, shape (I,) or, by group, (I, G).

    By group an admission is followed by the decode in the best one, less what the ``move`` out of
    its own costs, shape (I, G). A cost is infinite where the role of a group rules the service out.
    """
    by_class = (slice(None), *[None] * (prefill.ndim - 1))
    prompt = (instance.prices.prefill * instance.prompt_tokens)[by_class]
    output = (instance.prices.decode * instance.output_tokens)[by_class]
    bundled = pricing == "bundled"
    at_prefill, at_decode = (0.0 * prompt, prompt + output) if bundled else (prompt, output)
    nothing = NO_BID * (prompt + output)

    def rounded(bids: np.ndarray) -> np.ndarray:
        return np.where(np.abs(bids) < nothing, 0.0, bids)

    decodes, alone = rounded(at_decode - decode), rounded(at_prefill - prefill)
    best = decodes
    if decodes.ndim > 1:
        best = np.maximum(decodes, decodes.max(axis=1, keepdims=True) - move)
    # Where a prefill pays by itself, a decode that does not is left out.
    follows = np.where(alone >= 0.0, np.maximum(best, 0.0), best)
    return Bids(rounded(alone + follows), decodes, alone)


def slot_ranks(plan: FluidPlan, n_gpus: int) -> SlotRanks:
    """Ranks of trunk reservation on n GPUs.

    Priorities are bids, reserves those of :func:`slot_reserves`. A prefill goes before waiting
    decodes where it alone earns more per second in its slot than any of them.
    """
    if isinstance(plan, FleetPlan):
        from llm_sched_env.planning.fleet_ranks import fleet_ranks  # which needs this module

        return fleet_ranks(plan, n_gpus)
    prices = slot_prices(plan, n_gpus)
    return ranks_at_prices(plan, n_gpus, prices, slot_bids(plan, prices))


def ranks_at_prices(plan: FluidPlan, n_gpus: int, prices: SlotPrices, bids: Bids) -> SlotRanks:
    """:func:`slot_ranks` from prices and bids that are known: they may cost a linear program."""
    instance = plan.instance
    arriving = instance.arrival_rates
    prefilled = arriving * plan.admission_fraction
    decoded = instance.mixed_decode_rates * plan.y_mixed + instance.solo_decode_rates * plan.y_solo
    slots = n_gpus * instance.hardware.batch_slots
    reserves = [
        slot_reserves(instance.patience_rates, slots, n_gpus, prices, bid, *flows)
        for bid, flows in (
            (bids.prefill, (arriving, prefilled)),
            (bids.decode, (prefilled, decoded)),
        )
    ]
    best_decode = max(0.0, float((bids.decode / prices.seconds).max()))
    precedes = bids.prefill_alone * instance.prefill_rates > best_decode
    return SlotRanks(bids.prefill, reserves[0], bids.decode, reserves[1], precedes.astype(float))


def slot_reserves(
    patience_rates: np.ndarray,
    slots: int,
    n_gpus: int,
    prices: SlotPrices,
    bids: np.ndarray,
    asking: np.ndarray,
    served: np.ndarray,
) -> np.ndarray:
    """Free slots of the cluster without which a class is not served; shape (I,), >= 0.

    **Classes of bid 0** yield to those of positive bid (H). While they use every slot above the
    reserve r, the number of free slots below it, and then of waiting requests of H, is a
    birth-death chain: up at H's rate, down at the rate at which slots become free, the ratio of
    which is rho. So r more slots cost kappa (1 - rho^(r+1)), the worth of idle slots, and save
    theta b rho^(r+1), what H loses by giving up, per second; the optimum is

        r + 1 = ln(1 + theta b / kappa) / ln(1 / rho),

    kappa the price of a slot, theta b the mean over H of patience rate times bid. It does not
    depend on the cluster's size.

    **Classes of negative bid** are worth serving only while slots would else be idle. With k more
    free than the above, all asking at rate a and slots becoming free at rate s, the first who
    asks in vain comes after the time in which the chain falls by k. Before that the slot costs
    nothing, after it the full price; against an exponential service of the same mean 1/m the
    first part is 1 - z^k of it, z the smaller root of s z^2 - (a + s + m) z + a = 0. So they are
    served from the k on with z^k <= 1 - (-bid) / (price of the decode).

    Args:
        patience_rates: of the classes, 1/s.
        slots: of the cluster.
        n_gpus: cluster size.
        prices: of slots.
        bids: of the classes.
        asking: requests per GPU and second that want a slot, shape (I,).
        served: of these, those that the plan serves.
    """
    reserve = _reserve_of_the_marginal(patience_rates, prices, bids, asking, served)
    reserves = np.where(bids > 0, 0.0, min(reserve, slots))
    a, s = n_gpus * asking[bids >= 0].sum(), n_gpus * served.sum()
    for i in np.flatnonzero(bids < 0):
        kept = 1.0 + bids[i] / prices.decode[i] if prices.decode[i] > 0 else 0.0
        m = 1.0 / prices.seconds[i] if prices.decode[i] > 0 else 0.0
        total = a + s + m
        # Under the root is (a - s)^2 if m = 0; rounding could make it negative.
        root = np.sqrt(max(0.0, total * total - 4.0 * a * s))
        z = (total - root) / (2.0 * s) if s > 0 else 1.0
        free = reserve + np.log(kept) / np.log(z) if kept > 0 and 0 < z < 1 else slots
        reserves[i] = min(free, slots)
    return reserves


def _reserve_of_the_marginal(
    patience_rates: np.ndarray,
    prices: SlotPrices,
    bids: np.ndarray,
    asking: np.ndarray,
    served: np.ndarray,
) -> float:
    """R of the classes of bid 0."""
    first = bids > 0
    protected = asking[first].sum()
    if not 0 < protected < served.sum() * (1.0 - NO_BID) or prices.slot <= 0:
        return 0.0
    loss = (asking * patience_rates * bids)[first].sum() / protected
    return _best_reserve(loss / prices.slot, protected / served.sum())


def _best_reserve(loss: float, rho: float) -> float:
    """The reserve r of :func:`slot_reserves`; loss is theta b / kappa."""
    return max(0.0, float(np.log1p(loss) / -np.log(rho)) - 1.0)


def reserves_at_prices(
    instance: Instance, bids: np.ndarray, rates: np.ndarray, admitted: float, slot_price: float
) -> np.ndarray:
    """Reserves of prefills when prices and rates are not those of a plan, but change.

    A class with a bid of about 0 or less yields to the classes whose capacity earns more than its
    own. Prices are scaled to where its bid is 0, and the formula for classes of bid 0 in
    :func:`slot_reserves` gives its reserve against them. If they fill by themselves whatever is
    admitted, it is kept out: the reserve is infinite.

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
        reserves[i] = _best_reserve(loss / (scale * slot_price), protected / admitted)
    return reserves
