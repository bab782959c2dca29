"""Bids and reserves of trunk reservation, and what the rule earns."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.slot_prices import critical_scale, delay_probability, slot_prices
from llm_sched_env.planning.slot_ranks import reserves_at_prices, slot_bids, slot_ranks
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import SimulationBatch

tokens = st.floats(20.0, 3000.0)


@st.composite
def instances(draw):
    classes = tuple(
        lse.RequestClass(f"c{k}", draw(tokens), draw(tokens), draw(st.floats(0.05, 2.0)), 0.1)
        for k in range(draw(st.integers(1, 4)))
    )
    return lse.Instance("random", classes, lse.presets.QWEN_8B_A100, lse.Prices(0.1, 0.2))


def bids_and_ranks(plan, n_gpus=5):
    prices = slot_prices(plan, n_gpus)
    return slot_bids(plan, prices), slot_ranks(plan, n_gpus)


@given(instance=instances(), pricing=st.sampled_from(["bundled", "separate"]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_bids_say_what_the_plan_admits(instance, pricing):
    """Complementary slackness: positive, all; negative, none; and a positive bid is the dual."""
    plan = lse.plan(instance, pricing)
    if not scarce(plan):
        return
    bids, ranks = bids_and_ranks(plan)
    value = instance.bundled_revenues
    clear = 1e-4 * value
    assert (plan.admission_fraction[bids.prefill > clear] > 1 - 1e-6).all()
    assert (plan.admission_fraction[bids.prefill < -clear] < 1e-6).all()
    for bid, dual in ((bids.prefill, "arrival"), (bids.decode, "prefilled")):
        np.testing.assert_allclose(np.maximum(bid, 0.0), plan.duals[dual], atol=2e-4 * value.max())
    reserves = np.stack([ranks.reserve, ranks.decode_reserve])
    assert ((reserves >= 0) & (reserves <= 5 * instance.hardware.batch_slots)).all()
    assert (reserves[np.stack([ranks.priority, ranks.decode_priority]) > 0] == 0).all()


def scarce(plan):
    return max(np.max(price) for name, price in plan.duals.items() if "capacity" in name) > 1e-6


def test_bids_and_reserve_of_base_by_hand():
    plan = lse.plan("base")
    bid, reserve, _, decode_reserve, precedes = slot_ranks(plan, 20)
    assert bid == pytest.approx([0.0, plan.duals["arrival"][1]])
    # Class 1 arrives 0.5 times a second; 0.5 + 0.468 slots become free.
    rho = 0.5 / (0.5 + 0.5 * plan.admission_fraction[0])
    worth = math.log1p(0.1 * bid[1] / plan.duals["solo_decode_capacity"])
    assert reserve == pytest.approx([worth / -math.log(rho) - 1, 0.0])
    assert slot_ranks(lse.plan("overload"), 20).reserve[0] > 3 * reserve[0]
    # Whoever is prefilled is decoded: nothing is kept free for decodes, which go first.
    assert decode_reserve.tolist() == precedes.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("instance", ["base", "overload"])
def test_reserves_at_the_prices_of_a_plan_are_those_of_the_plan(instance):
    plan = lse.plan(instance)
    rates, price = plan.instance.arrival_rates, plan.duals["solo_decode_capacity"]
    admitted = float(rates @ plan.admission_fraction)
    bids, ranks = bids_and_ranks(plan)
    reserves = reserves_at_prices(plan.instance, bids.prefill, rates, admitted, price)
    np.testing.assert_allclose(reserves, ranks.reserve, rtol=1e-6)


def test_reserves_at_other_prices():
    instance = lse.presets.base()
    revenue, rates = instance.bundled_revenues, instance.arrival_rates

    def reserves(shares, admitted=0.9, slot_price=10.0):
        return reserves_at_prices(instance, shares * revenue, rates, admitted, slot_price)

    some = np.array([0.0, 0.7])
    assert reserves(some)[0] > 1
    # Idle slots are dearer, the others come less often: less is kept for them.
    assert 0 < reserves(some, slot_price=15.0)[0] < reserves(some)[0]
    assert 0 < reserves(some, admitted=1.2)[0] < reserves(some)[0]
    # The others fill all that is admitted, also when they are not worth it at these prices.
    assert reserves(some, admitted=0.4).tolist() == [math.inf, 0.0]
    assert reserves(np.array([-0.6, 0.0]), admitted=0.4).tolist() == [math.inf, 0.0]
    # Nobody yields where nothing is scarce or all are alike.
    assert reserves(some, slot_price=0.0).tolist() == [0.0, 0.0]
    assert reserves(np.array([0.5, 0.7])).tolist() == [0.0, 0.0]
    assert reserves(np.array([0.0, 0.01])).tolist() == [0.0, 0.0]


def test_nobody_yields_when_nobody_loses_by_waiting():
    overload = lse.presets.overload()
    patient = replace(
        overload,
        classes=(overload.classes[0], replace(overload.classes[1], patience_rate=0.0)),
    )
    assert slot_ranks(lse.plan(patient), 5).reserve.tolist() == [0.0, 0.0]
    alone = replace(overload, classes=overload.classes[:1])
    assert slot_ranks(lse.plan(alone), 5).reserve.tolist() == [0.0]


def test_an_unwanted_class_waits_until_slots_stay_free_long_enough():
    """The reserve of a class of negative bid, against its definition by simulation.

    Free slots fall at the rate of those who ask and rise at that of slots that become free. An
    exponential service that starts with k free costs the price of the part that comes after the
    first time without a free slot; at the reserve this is just what the request earns.
    """
    overload = lse.presets.overload()
    dense = lse.RequestClass("dense", 1500.0, 800.0, 1.0, 0.1)
    plan = lse.plan(replace(overload, classes=(overload.classes[0], dense)))
    n_gpus, prices = 5, slot_prices(plan, 5)
    bids, ranks = bids_and_ranks(plan, n_gpus)
    (unwanted,) = np.flatnonzero(bids.prefill < 0)
    wanted = 1 - unwanted
    assert bids.prefill[wanted] == 0.0
    asking = n_gpus * plan.instance.arrival_rates[wanted]
    freed = asking * plan.admission_fraction[wanted]
    kept = 1.0 + bids.prefill[unwanted] / prices.decode[unwanted]
    reserve = ranks.reserve[unwanted]
    assert 2.0 < reserve < 80.0
    rng = np.random.default_rng(7)
    paid = [
        share_without_free_slot(rng, k, asking, freed, prices.slot / prices.decode[unwanted])
        for k in (math.floor(reserve), math.ceil(reserve))
    ]
    assert paid[1] - 0.02 < kept < paid[0] + 0.02


def share_without_free_slot(rng, free, asking, freed, departure, runs=4000):
    """Of an exponential service, the mean share after the first time without a free slot."""
    alive = np.zeros(runs)
    for run in range(runs):
        k, left, seconds = free, rng.exponential(1 / departure), 0.0
        while k > 0 and seconds < left:
            seconds += rng.exponential(1 / (asking + freed))
            k += 1 if rng.random() < freed / (asking + freed) else -1
        alive[run] = max(0.0, left - seconds)
    return alive.mean() * departure


@pytest.mark.parametrize("scale", [0.4, 0.9])
def test_prices_with_capacity_to_spare_are_those_of_the_critical_load(scale):
    plan = lse.plan(lse.presets.base().scaled(scale))
    assert not scarce(plan)
    factor = critical_scale(plan.instance)
    below, above = (lse.plan(plan.instance.scaled(factor * by)) for by in (1 - 1e-6, 1 + 1e-3))
    assert (below.admission_fraction == 1).all()
    assert not scarce(below)
    assert above.admission_fraction.min() < 1
    few, many = slot_prices(plan, 1), slot_prices(plan, 100)
    assert 0 <= many.slot < few.slot < above.duals["solo_decode_capacity"]
    ranks = slot_ranks(plan, 5)
    assert not ranks.reserve.any()
    assert not ranks.decode_reserve.any()


def test_delay_probability_of_erlang():
    # By the recursion of Erlang's loss formula.
    for servers, load in ((1, 0.3), (16, 0.9), (320, 0.99)):
        blocked = 1.0
        for k in range(1, servers + 1):
            blocked = servers * load * blocked / (k + servers * load * blocked)
        delayed = blocked / (1 - load * (1 - blocked))
        assert delay_probability(servers, load) == pytest.approx(delayed, rel=1e-9)


def slow_solo():
    """Decodes are faster beside a prefill: gamma tau_mix < (B - 1) / B."""
    hardware = replace(lse.presets.QWEN_8B_A100, gamma=12.0)
    classes = (
        lse.RequestClass("long", 600.0, 2500.0, 0.4, 0.1),
        lse.RequestClass("short", 1500.0, 250.0, 0.4, 0.1),
    )
    return lse.Instance("slow-solo", classes, hardware, lse.Prices(0.1, 0.2))


def test_prefills_that_pay_by_themselves_go_before_decodes():
    plan = lse.plan(slow_solo())
    assert plan.q_decode.sum() > 1
    bids, ranks = bids_and_ranks(plan)
    assert (bids.prefill_alone > 0).all()
    assert ranks.precedes_decodes.tolist() == [1.0, 1.0]
    # A prompt that is billed at once pays too, if less than a slot's time elsewhere or more.
    separate = lse.plan("base", "separate")
    assert (bids_and_ranks(separate)[0].prefill_alone > 0).all()


def scores(rule, instance, n_gpus, pricing="bundled"):
    result = lse.evaluate(
        rule, instance, n_gpus, replications=8, horizon=6000, warmup=300, pricing=pricing
    )
    return np.array(result.scores)


def assert_earns_more(ours, other):
    """Paired over the same requests; the interval is 99%."""
    gain = ours - other
    assert gain.mean() > 3.5 * gain.std(ddof=1) / math.sqrt(len(gain)) > 0


def test_bids_for_decodes_pay_where_decodes_are_faster_beside_a_prefill():
    ours = scores("trunk-reservation", slow_solo(), 5)
    assert_earns_more(ours, 0.05 + scores("gate-and-route", slow_solo(), 5))
    assert_earns_more(ours, 0.05 + scores("token-bucket", slow_solo(), 5))


@pytest.mark.extended
def test_leaving_room_for_prefills_pays_where_prefills_are_many():
    """Short outputs: most GPUs prefill, and their free slots wait for decodes."""
    classes = (
        lse.RequestClass("chat", 1155.0, 211.0, 5.5, 0.1),
        lse.RequestClass("code", 2048.0, 28.0, 2.5, 0.1),
    )
    instance = lse.Instance("short", classes, lse.presets.QWEN_8B_A100, lse.Prices(0.1, 0.2))
    ranks = slot_ranks(lse.plan(instance), 20)
    ours = scores("trunk-reservation", instance, 20)
    assert ours.mean() > 0.975
    aware = DispatchRule("bid-price", "prefill-aware", "dynamic")
    np.testing.assert_allclose(scores(aware, instance, 20), ours, rtol=1e-12)
    assert not ranks.precedes_decodes.any()
    assert_earns_more(
        ours, 0.03 + scores(DispatchRule("bid-price", "solo-first", "dynamic"), instance, 20)
    )


@pytest.mark.parametrize(
    "instance", ["base", "overload", pytest.param("dolly15k", marks=pytest.mark.extended)]
)
def test_trunk_reservation_earns_more_than_the_credit_gate(instance):
    for n_gpus, least in ((5, 0.965), (20, 0.98)):
        ours = scores("trunk-reservation", instance, n_gpus)
        assert_earns_more(ours, scores("token-bucket", instance, n_gpus))
        assert ours.mean() > least


def test_prioritize_and_route_admits_the_largest_decode_share_first():
    result = lse.evaluate("prioritize-and-route", "overload", 20, pricing="separate", horizon=600)
    decode_heavy, prefill_heavy = result.classes
    assert decode_heavy.admitted / decode_heavy.arrived > 0.9
    assert (
        prefill_heavy.admitted / prefill_heavy.arrived
        < decode_heavy.admitted / decode_heavy.arrived
    )


def test_the_gate_by_bid_price_needs_ranks():
    rule = lse.DispatchRule("bid-price", "solo-first", "dynamic")
    for wrong in (None, np.zeros((2, 2)), np.full((5, 2), np.nan)):
        with pytest.raises(ConfigurationError, match="ranks"):
            SimulationBatch(lse.presets.base(), rule, 3, ranks=wrong)
