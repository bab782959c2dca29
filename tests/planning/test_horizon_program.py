"""The fluid program over a finite horizon: its value, its bids and its paths."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.horizon_program import HorizonProgram
from llm_sched_env.planning.slot_prices import slot_prices
from llm_sched_env.planning.slot_ranks import slot_bids

STEPS = (1.0, 2.0, 4.0, 8.0, 16.0)
tokens = st.floats(20.0, 3000.0)


@st.composite
def plans(draw):
    classes = tuple(
        lse.RequestClass(
            f"c{k}",
            draw(tokens),
            draw(tokens),
            draw(st.floats(0.05, 2.0)),
            draw(st.sampled_from([0.0, 0.02, 0.1, 1.0])),
        )
        for k in range(draw(st.integers(1, 3)))
    )
    hardware = replace(lse.presets.QWEN_8B_A100, batch_slots=draw(st.sampled_from([2, 16])))
    instance = lse.Instance("random", classes, hardware, lse.Prices(0.1, 0.2))
    return lse.plan(instance, draw(st.sampled_from(["bundled", "separate"])))


@st.composite
def states(draw, plan):
    """Any state of a cluster of up to 5 GPUs, queues included."""
    n, slots = plan.instance.n_classes, plan.instance.hardware.batch_slots
    n_gpus = draw(st.integers(1, 5))
    state = np.zeros((5, n))
    state[[0, 2]] = [[draw(st.integers(0, 400)) for _ in range(n)] for _ in range(2)]
    prefills = draw(st.integers(0, n_gpus))
    beside = draw(st.integers(0, prefills * (slots - 1)))
    alone = draw(st.integers(0, (n_gpus - prefills) * slots))
    for row, amount in ((1, prefills), (3, beside), (4, alone)):
        cuts = sorted(draw(st.integers(0, amount)) for _ in range(n - 1))
        state[row] = np.diff([0, *cuts, amount])
    return state / n_gpus


@given(data=st.data(), plan=plans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_from_any_state_the_path_is_feasible_and_below_the_dual_bound(data, plan):
    state = data.draw(states(plan))
    instance, program = plan.instance, HorizonProgram(plan, STEPS)
    optimum = program.solve(state, instance.arrival_rates)
    bound = plan.value * sum(STEPS) + program.worth(state)
    assert optimum.value <= bound * (1 + 1e-6)
    assert optimum.value == pytest.approx(
        optimum.revenue.sum() + program.worth(optimum.occupancy[-1])
    )
    # Requests are conserved, and nothing is interrupted.
    slots, close = instance.hardware.batch_slots, {"rtol": 1e-5, "atol": 1e-4}
    before = state
    for seconds, now, admitted in zip(STEPS, optimum.occupancy, optimum.admissions, strict=True):
        q_prefill, x, q_decode, y_mixed, y_solo = now
        prefilled = instance.prefill_rates * x
        completed = instance.mixed_decode_rates * y_mixed + instance.solo_decode_rates * y_solo
        left = [instance.patience_rates * q for q in (q_prefill, q_decode)]
        np.testing.assert_allclose(
            q_prefill,
            before[0] + seconds * (instance.arrival_rates - admitted - left[0]),
            **close,
        )
        np.testing.assert_allclose(x, before[1] + seconds * (admitted - prefilled), **close)
        starts = now[3:].sum(axis=0) - before[3:].sum(axis=0) + seconds * completed
        assert (starts > -1e-4).all()
        np.testing.assert_allclose(
            q_decode, before[2] + seconds * (prefilled - left[1]) - starts, **close
        )
        assert x.sum() <= 1 + 1e-6
        assert y_mixed.sum() <= (slots - 1) * x.sum() + 1e-5
        assert y_solo.sum() <= slots * (1 - x.sum()) + 1e-5
        assert (now >= 0).all()
        before = now


@pytest.mark.parametrize("pricing", ["bundled", "separate"])
@pytest.mark.parametrize("name", ["base", "overload", "dolly15k"])
def test_the_plan_is_a_fixed_point(name, pricing):
    """From its own state the plan earns R* a second, at its own bid prices."""
    plan = lse.plan(name, pricing)
    program = HorizonProgram(plan, STEPS)
    optimum = program.solve(plan.occupancy, plan.instance.arrival_rates)
    earned = optimum.value - program.worth(plan.occupancy)
    assert earned == pytest.approx(plan.value * sum(STEPS), rel=1e-8)
    bids = slot_bids(plan, slot_prices(plan, n_gpus=20)).prefill
    close = {"atol": 1e-4 * plan.value}
    np.testing.assert_allclose(np.maximum(optimum.bids, 0.0), np.maximum(bids, 0.0), **close)
    # Where the plan wants nobody, a path may leave out a decode that does not pay: a lesser loss.
    assert (optimum.bids[bids < 0] < 0).all()
    assert (optimum.bids >= bids - close["atol"]).all()


def test_check_values_of_the_base_instance():
    for pricing, value in (("bundled", 297.7032), ("separate", 298.5866)):
        plan = lse.plan("base", pricing)
        program = HorizonProgram(plan, [5.0] * 12)
        optimum = program.solve(plan.occupancy, [0.5, 0.5])
        assert (optimum.value - program.worth(plan.occupancy)) / 60 == pytest.approx(
            value, abs=1e-3
        )


def test_revenue_per_second_comes_near_the_plan_from_anywhere():
    """The gap to R* is at most a constant over the horizon, from empty and from a full queue."""
    plan = lse.plan("overload")
    full = plan.occupancy.copy()
    full[0] = 30.0
    for state in (np.zeros((5, 2)), full):
        gaps = []
        for horizon in (30, 120, 480):
            optimum = HorizonProgram(plan, [2.0] * (horizon // 2)).solve(state, [1.0, 1.0])
            gaps.append(abs(optimum.revenue.sum() / horizon - plan.value))
        assert gaps[0] > 2.5 * gaps[1] > 6 * gaps[2]
        assert gaps[2] < 0.05 * plan.value


def test_more_arrivals_more_waiting_and_free_slots_are_worth_more():
    plan = lse.plan("overload")
    program, rates = HorizonProgram(plan, STEPS), plan.instance.arrival_rates
    state = plan.occupancy
    value = program.solve(state, rates).value
    assert program.solve(state, rates * [1.0, 1.2]).value > value + 1
    assert program.solve(state, rates * [0.5, 1.0]).value <= value + 1e-6
    waiting, fewer = state.copy(), state.copy()
    waiting[0, 1] += 0.5
    assert program.solve(waiting, rates).value > value + 1
    # Decodes of the class that is admitted in part: each is worth what its slot costs.
    fewer[4, 0] *= 0.5
    assert program.solve(fewer, rates).value < value + 1e-6
    # An idle cluster admits everybody for some time.
    idle = program.solve(np.zeros((5, 2)), rates).bids
    assert (idle > program.solve(state, rates).bids + 1).all()


def test_small_programs_by_enumeration():
    """One class, one step of an empty cluster: the optimum is a vertex that can be listed."""
    only = replace(lse.presets.base(), classes=(lse.RequestClass("one", 500.0, 800.0, 0.4, 0.1),))
    plan, seconds = lse.plan(only), 3.0
    program = HorizonProgram(plan, [seconds])
    mu_p, mu_m, mu_s = only.prefill_rates[0], only.mixed_decode_rates[0], only.solo_decode_rates[0]
    w, theta = only.bundled_revenues[0], 0.1
    arrival, prefilled = plan.duals["arrival"][0], plan.duals["prefilled"][0]
    best = -np.inf
    # All 0.4 * 3 arrivals per GPU are spread over q, x, y_m, y_s and q_d; x grows in small steps.
    most = 0.4 * seconds / (1 + seconds * mu_p)
    for x, share in itertools.product(np.linspace(0, most, 501), (0.0, 0.5, 1.0)):
        q = (most - x) * (1 + seconds * mu_p) / (1 + seconds * theta)
        done = seconds * mu_p * x
        y_mixed = min(15 * x, share * done / (1 + seconds * mu_m))
        y_solo = (done - y_mixed * (1 + seconds * mu_m)) / (1 + seconds * mu_s)
        if y_solo > 16 * (1 - x):
            continue
        earned = seconds * w * (mu_m * y_mixed + mu_s * y_solo)
        best = max(best, earned + arrival * (q + x) + prefilled * (y_mixed + y_solo))
    assert program.solve(np.zeros((5, 1)), [0.4]).value == pytest.approx(best, rel=1e-3)


def test_bad_input_is_named():
    plan = lse.plan("base")
    for steps in ([], [1.0, 0.0], [np.inf], 3.0):
        with pytest.raises(ConfigurationError, match="step_seconds"):
            HorizonProgram(plan, steps)
    program, state = HorizonProgram(plan, STEPS), plan.occupancy
    for wrong in (state[:4], -state - 1, state * np.nan, np.ones((5, 2)), np.full((5, 2), 20.0)):
        with pytest.raises(ConfigurationError, match="state"):
            program.solve(wrong, [0.5, 0.5])
    for rates in ([0.5], [-1.0, 1.0], np.ones((4, 2)), [np.nan, 1.0]):
        with pytest.raises(ConfigurationError, match="arrival_rates"):
            program.solve(state, rates)
