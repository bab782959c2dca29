"""Scale-free features of a class under its plan, comparable across instances and sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.model.priority_network import CLASS_FEATURES, ClassProfile
from llm_sched_env.planning.reserve_chain import best_kept_slots
from llm_sched_env.planning.slot_prices import SlotPrices, critical_scale, slot_prices
from llm_sched_env.planning.slot_ranks import ranks_at_prices, slot_bids

if TYPE_CHECKING:
    from llm_sched_env.planning.fluid_plan import FluidPlan

# Free slots fluctuate by about the root of their number; a quarter of it is a unit of reserves.
_SLOTS_PER_ROOT = 0.25
# A change of a reserve by this power of e is one.
_LOG_UNIT = 3.0
# Less than this share of all admissions is nothing: rounding of the solver.
_ZERO = 1e-6
# Slots are foreseen over this share of a mean decode.
_AHEAD = 0.3


def class_profile(plan: FluidPlan, n_gpus: int) -> ClassProfile:
    """The profile of the plan's classes on n GPUs, for a rule that corrects the plan's ranks."""
    instance = plan.instance
    prices = slot_prices(plan, n_gpus)
    slot_scale = _SLOTS_PER_ROOT * float(np.sqrt(n_gpus * instance.hardware.batch_slots))
    columns = _bid_features(plan, n_gpus, prices, slot_scale) | _size_features(plan, n_gpus)
    shape = instance.n_classes
    per_prefill_second = instance.bundled_revenues * instance.prefill_rates
    rank_scale = float(instance.bundled_revenues.max())
    features = np.stack([np.broadcast_to(columns[name], shape) for name in CLASS_FEATURES])
    return ClassProfile(
        features=np.clip(features.T, -1.0, 1.0),
        prefill_cost=prices.prefill + prices.decode,
        decode_cost=prices.decode,
        prefill_time_priority=rank_scale * per_prefill_second / per_prefill_second.max(),
        planned_slots=n_gpus * (plan.x + plan.y_mixed + plan.y_solo),
        load_seconds=_load_seconds(instance),
        slot_scale=slot_scale,
        rank_scale=rank_scale,
        ahead_seconds=_AHEAD * _mean_decode_seconds(instance),
    )


def _bid_features(
    plan: FluidPlan, n_gpus: int, prices: SlotPrices, slot_scale: float
) -> dict[str, np.ndarray]:
    """Bids as shares of a request's revenue, reserves, and who goes before whom."""
    instance = plan.instance
    bids = slot_bids(plan, prices)
    ranks = ranks_at_prices(plan, n_gpus, prices, bids)
    revenue, rates = instance.bundled_revenues, instance.arrival_rates
    slots = n_gpus * instance.hardware.batch_slots
    better = bids.prefill[None, :] > bids.prefill[:, None]
    return {
        "admission bid": _share(bids.prefill, revenue),
        "decode bid": _share(bids.decode, revenue),
        "prefill bid": _share(bids.prefill_alone, revenue),
        "admitted share": 2.0 * plan.admission_fraction - 1.0,
        "prefill reserve": _squashed(ranks.reserve / slot_scale),
        "prefill reserve beside all slots": ranks.reserve / slots,
        "prefill reserve with giving up": _log_change_with_giving_up(
            plan, n_gpus, prices, bids.prefill, ranks.reserve
        ),
        "decode reserve": _squashed(ranks.decode_reserve / slot_scale),
        "precedes decodes": 2.0 * ranks.precedes_decodes - 1.0,
        "better classes": 2.0 * better.mean(axis=1) - 1.0,
        "arrivals of better classes": 2.0 * _share(better @ rates, rates.sum()) - 1.0,
        "bids of better classes": _share(
            _share(better @ (rates * bids.prefill), better @ rates), revenue
        ),
    }


def _log_change_with_giving_up(
    plan: FluidPlan, n_gpus: int, prices: SlotPrices, bids: np.ndarray, reserves: np.ndarray
) -> np.ndarray:
    """By what factor each reserve would change if those who wait gave up: log of it, in units."""
    instance = plan.instance
    rates, first = instance.arrival_rates, bids > 0
    protected = float(rates[first].sum())
    served = float((rates * plan.admission_fraction).sum())
    yielding = (bids <= 0) & (reserves > 0)
    if not yielding.any() or not 0 < protected < served * (1.0 - _ZERO) or prices.slot <= 0:
        return np.zeros(instance.n_classes)
    # The higher bids are served first, so those who wait are of the lowest.
    kept = best_kept_slots(
        n_gpus * protected,
        n_gpus * served,
        float(rates[first] @ instance.patience_rates[first]) / protected,
        float((instance.patience_rates * bids)[first].min()),
        prices.slot,
        n_gpus * instance.hardware.batch_slots,
    )
    # What classes of negative bid leave free beyond the others stays; half a slot rounds.
    marginal = reserves[yielding].min()
    changed = np.maximum(reserves + kept + 0.5 - marginal, 0.5)
    ratio = np.divide(changed, reserves, out=np.ones_like(changed), where=yielding)
    return np.asarray(np.log(ratio) / _LOG_UNIT)


def _size_features(plan: FluidPlan, n_gpus: int) -> dict[str, np.ndarray]:
    """Times, work, revenue and the cluster, each beside what is usual."""
    instance, hardware = plan.instance, plan.instance.hardware
    decode_seconds = 1.0 / instance.solo_decode_rates
    mean_decode = _mean_decode_seconds(instance)
    prefill_work = instance.arrival_rates / instance.prefill_rates
    decode_work = instance.arrival_rates * instance.output_tokens
    per_slot = instance.bundled_revenues * instance.solo_decode_rates
    load = 1.0 / critical_scale(plan.given)
    return {
        "patience": 2.0 * _squashed(instance.patience_rates * mean_decode) - 1.0,
        "prefill time": _squashed(np.log(1.0 / (instance.prefill_rates * mean_decode)) + 3.0),
        "decode time": _squashed(np.log(decode_seconds / mean_decode)),
        "share of prefill work": 2.0 * _share(prefill_work, prefill_work.sum()) - 1.0,
        "share of decode work": 2.0 * _share(decode_work, decode_work.sum()) - 1.0,
        "revenue per slot and second": 2.0 * _share(per_slot, per_slot.max()) - 1.0,
        "gain of a GPU without prefill": _squashed(
            2.0 * np.log(hardware.tau_mixed / hardware.tau_solo)
        ),
        "slots per GPU": _squashed(np.log(hardware.batch_slots / 16.0)),
        "cluster size": _squashed(0.5 * np.log(n_gpus / 20.0)),
        "load": _squashed(3.0 * (load - 1.0)),
    }


def _load_seconds(instance: Instance) -> np.ndarray:
    """GPU-seconds of a request: what critical_scale has decode slots charge for it.

    Where these are what runs out first, rates times this add up to 1 / critical_scale.
    """
    hardware = instance.hardware
    solo_rate = hardware.gamma * hardware.batch_slots
    mixed_rate = (hardware.batch_slots - 1) / hardware.tau_mixed
    beside = max(0.0, 1.0 - mixed_rate / solo_rate)
    seconds: np.ndarray = instance.output_tokens / solo_rate + beside / instance.prefill_rates
    return seconds


def _mean_decode_seconds(instance: Instance) -> float:
    """Of an arriving request on a solo GPU."""
    weights = instance.arrival_rates / instance.arrival_rates.sum()
    return float(weights @ (1.0 / instance.solo_decode_rates))


def _share(part: np.ndarray, whole: np.ndarray | float) -> np.ndarray:
    """The part over the whole, 0 where there is nothing."""
    whole = np.broadcast_to(whole, np.shape(part)).astype(float)
    share: np.ndarray = np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)
    return share


def _squashed(z: np.ndarray | float) -> np.ndarray:
    return np.asarray(z / (1.0 + np.abs(z)))
