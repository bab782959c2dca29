"""``fluid-mpc``: what it plays, that it is deterministic, and what it earns when rates change."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.baselines.fluid_mpc import FluidMPC
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.arrival_rates import ArrivalProfile
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.workloads.generated import requests_of_run

SHORT = {"horizon": 120.0, "warmup": 30.0, "replications": 2, "seed": 4}


def phased(name, period=200.0):
    """The two classes of a preset peak in turn."""
    instance = getattr(lse.presets, name)()
    up, down = (
        ArrivalProfile((0.0, period / 2, period), (low, high, low))
        for low, high in ((0.2, 1.8), (1.8, 0.2))
    )
    first, second = instance.classes
    classes = (replace(first, arrival_profile=up), replace(second, arrival_profile=down))
    return replace(instance, classes=classes, name=f"{name}-phased")


def first_action(instance, occupancy, n_gpus=10, policy=None, arrivals=None, time=0.0):
    """The action at an occupancy per GPU."""
    policy = policy or FluidMPC()
    plan = lse.plan(instance)
    policy.reset(plan.instance, plan, n_gpus, np.random.default_rng(0))
    counts = np.round(n_gpus * np.array(occupancy, float)).astype(np.int64)
    told = np.zeros(plan.instance.n_classes) if arrivals is None else arrivals
    unused = np.zeros(6 * plan.instance.n_classes + 4, np.float32)
    return policy.act(unused, {"time": time, "arrivals": told, "counts": counts})


def test_names_of_the_registry():
    assert resolve_policy("fluid-mpc")[1].rates == "planned"
    assert resolve_policy("fluid-mpc-estimated")[1].rates == "estimated"
    with pytest.raises(ConfigurationError, match="rates"):
        FluidMPC("guessed")


@pytest.mark.parametrize("instance", ["base", pytest.param("dolly15k", marks=pytest.mark.extended)])
def test_the_same_run_twice_has_the_same_scores_and_actions_in_bounds(instance):
    class Watched(FluidMPC):
        def act(self, observation, info):
            action = super().act(observation, info)
            assert action.shape == (2 * self._instance.n_classes,)
            assert ((action >= 0) & (action <= 1)).all()
            return action

    first, second = (lse.evaluate(Watched(), instance, 3, **SHORT) for _ in range(2))
    assert first.scores == second.scores


def test_at_the_plan_it_plays_the_ranks_of_the_plan():
    """Counts are whole requests: a large cluster. Of several best paths it need not be constant."""
    plan = lse.plan("overload")
    action = first_action("overload", plan.occupancy, n_gpus=100_000)
    reserve = math.ceil(slot_ranks(plan, 100_000).reserve[0]) - 0.5
    np.testing.assert_allclose(action, [0, 1, reserve / (1 + reserve), 0], atol=0.02)


def test_nothing_is_reserved_while_all_slots_are_free():
    assert (first_action("base", np.zeros((5, 2)))[2:] == 0).all()


def test_estimated_rates_are_what_was_seen():
    policy = FluidMPC("estimated")
    plan = lse.plan("base")
    policy.reset(plan.instance, plan, 10, np.random.default_rng(0))
    for time in range(1, 200):
        rates = policy._expected(float(time), np.array([20.0, 3.0]))
    np.testing.assert_allclose(rates, np.tile([2.0, 0.3], (6, 1)), rtol=1e-4)


def test_a_profile_is_known_in_advance():
    instance = phased("base")
    policy, plan = FluidMPC(), lse.plan(instance)
    policy.reset(instance, plan, 10, np.random.default_rng(0))
    rates = policy._expected(100.0, np.zeros(2))
    assert rates[0] == pytest.approx([0.9, 0.1], rel=0.05)  # the top of one, the foot of the other
    assert (np.diff(rates[:, 0]) < 0).all()
    assert (np.diff(rates[:, 1]) > 0).all()


@pytest.mark.extended
def test_with_rates_that_change_it_earns_more_than_every_fixed_rule():
    """Paired over the same requests; 99%. The classes peak in turn, 100 s apart."""
    instance = phased("overload")
    common = {"horizon": 500.0, "warmup": 100.0, "replications": 10, "seed": 1}
    ours = np.array(lse.evaluate("fluid-mpc", instance, 5, **common).scores)
    for rule in ("token-bucket", "trunk-reservation", "fcfs-immediate", "gate-and-route"):
        gain = ours - np.array(lse.evaluate(rule, instance, 5, **common).scores)
        assert gain.mean() > 3.25 * gain.std(ddof=1) / math.sqrt(10)


def test_when_the_plan_is_wrong_about_the_rates_the_estimate_is_not():
    """Eight classes planned at a seventh of the load that comes: by the plan no slot is scarce."""
    dolly = lse.presets.dolly15k()
    trace = requests_of_run(dolly.scaled(1.5), 4, 150.0, 1)
    common = {"match_trace": False, "trace": trace, "replications": 1}
    ours, fixed = (
        lse.evaluate(policy, dolly.scaled(0.2), 4, **common).revenue_rate.mean
        for policy in ("fluid-mpc-estimated", "trunk-reservation")
    )
    assert ours > 1.05 * fixed
