"""Bid prices and reserves of trunk reservation, and what the rule earns."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.admission_ranks import bid_prices, reserves_at_prices, slot_reserves
from llm_sched_env.simulation.simulation import SimulationBatch

tokens = st.floats(20.0, 3000.0)


@st.composite
def instances(draw):
    classes = tuple(
        lse.RequestClass(f"c{k}", draw(tokens), draw(tokens), draw(st.floats(0.05, 2.0)), 0.1)
        for k in range(draw(st.integers(1, 4)))
    )
    return lse.Instance("random", classes, lse.presets.QWEN_8B_A100, lse.Prices(0.1, 0.2))


@given(instance=instances(), pricing=st.sampled_from(["bundled", "separate"]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_bids_say_what_the_plan_admits(instance, pricing):
    """Complementary slackness: positive, all; negative, none; and a positive bid is the dual."""
    plan = lse.plan(instance, pricing)
    bids, value = bid_prices(plan), instance.bundled_revenues
    clear = 1e-4 * value
    assert (plan.admission_fraction[bids > clear] > 1 - 1e-6).all()
    assert (plan.admission_fraction[bids < -clear] < 1e-6).all()
    np.testing.assert_allclose(
        np.maximum(bids, 0.0), plan.duals["arrival"], atol=2e-4 * value.max()
    )
    reserves = slot_reserves(plan)
    assert (reserves >= 0).all()
    assert (reserves[bids > 0] == 0).all()


def test_bids_and_reserve_of_base_by_hand():
    plan = lse.plan("base")
    assert bid_prices(plan) == pytest.approx([0.0, plan.duals["arrival"][1]])
    # Class 1 arrives 0.5 times a second; 0.5 + 0.468 slots become free. kappa: the marginal
    # class earns just what its capacity is worth.
    rho = 0.5 / (0.5 + 0.5 * plan.admission_fraction[0])
    worth = math.log1p(0.1 * bid_prices(plan)[1] / plan.duals["solo_decode_capacity"])
    assert slot_reserves(plan) == pytest.approx([worth / -math.log(rho) - 1, 0.0])
    assert slot_reserves(lse.plan("overload"))[0] > 3 * slot_reserves(plan)[0]


@pytest.mark.parametrize("instance", ["base", "overload"])
def test_reserves_at_the_prices_of_a_plan_are_those_of_the_plan(instance):
    plan = lse.plan(instance)
    rates, price = plan.instance.arrival_rates, plan.duals["solo_decode_capacity"]
    admitted = float(rates @ plan.admission_fraction)
    reserves = reserves_at_prices(plan.instance, bid_prices(plan), rates, admitted, price)
    np.testing.assert_allclose(reserves, slot_reserves(plan), rtol=1e-6)


def test_reserves_at_other_prices():
    instance = lse.presets.base()
    revenue, rates = instance.bundled_revenues, instance.arrival_rates

    def reserves(shares, admitted=0.9, slot_price=10.0):
        return reserves_at_prices(instance, shares * revenue, rates, admitted, slot_price)

    some = np.array([0.0, 0.7])
    assert reserves(some)[0] > 1
    # Idle slots are dearer, the others come less often: less is kept for them.
    assert 0 < reserves(some, slot_price=15.0)[0] < reserves(some)[0]
    assert 0 < reserves(some, admitted=2.0)[0] < reserves(some)[0]
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
    assert slot_reserves(lse.plan(patient)).tolist() == [0.0, 0.0]
    alone = replace(overload, classes=overload.classes[:1])
    assert slot_reserves(lse.plan(alone)).tolist() == [0.0]


@pytest.mark.parametrize("instance", ["base", "overload", "dolly15k"])
def test_trunk_reservation_earns_more_than_the_credit_gate(instance):
    """Paired over the same requests; the interval is 99%."""
    for n_gpus in (5, 20):
        ours, credit = (
            np.array(lse.evaluate(name, instance, n_gpus, replications=8, horizon=900).scores)
            for name in ("trunk-reservation", "credit-gate")
        )
        gain = ours - credit
        assert gain.mean() > 3.5 * gain.std(ddof=1) / math.sqrt(8) > 0
        assert ours.mean() > 0.96


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
    for wrong in (None, np.zeros(2), np.full((2, 2), np.nan)):
        with pytest.raises(ConfigurationError, match="ranks"):
            SimulationBatch(lse.presets.base(), rule, 3, ranks=wrong)
