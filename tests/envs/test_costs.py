"""Costs add up over an episode to what evaluation reports, in every environment and form."""

from __future__ import annotations

from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.baselines.routing_rules import RoutingRule
from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.event_control import EventControl
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.errors import ConfigurationError, PlanError
from llm_sched_env.planning import Indicator
from llm_sched_env.presets import resolve_instance
from llm_sched_env.simulation.events.random_streams import replication_seed

LEVELS = ("prefill-fairness", "decode-fairness", "tpot", "abandonment")
ALL = (*LEVELS, "deadline-misses")
N_GPUS, HORIZON, SEED = 3, 25.0, 5
TASKS = ("LLMSched-v0", "LLMSchedEvent-v0", "LLMSchedRouting-v0")


class MixedShare(lse.ServiceLevel):
    """X, the share of the GPUs with a prefill."""

    name = "mixed-share"

    def indicator(self, instance):
        weights = np.zeros((1, 4, instance.n_classes))
        weights[0, 0] = 1.0
        return Indicator(weights, np.zeros(1))


class Half:
    """Admits half of each class, whatever the plan is."""

    environment: ClassVar = {"gate": "token-bucket", "router": "solo-first", "pools": "dynamic"}

    def reset(self, instance, plan, n_gpus, rng):
        self.action = np.full(2 * instance.n_classes + 1, 0.5, np.float32)

    def act(self, observation, info):
        return self.action


class First:
    """The last possible action: decodes go before prefills, both before a wait."""

    environment: ClassVar = {"control": "event", "pools": "dynamic"}

    def reset(self, instance, plan, n_gpus, rng):
        pass

    def act(self, observation, info):
        return int(np.flatnonzero(info["action_mask"])[-1])


CONTROLS = {
    "LLMSched-v0": (IntervalControl, IntervalConfiguration, Half()),
    "LLMSchedEvent-v0": (EventControl, EventConfiguration, First()),
    "LLMSchedRouting-v0": (RoutingControl, RoutingConfiguration, RoutingRule("least-loaded")),
}


def episode_costs(task, instance, costs):
    """Sums of each cost over one run, and the costs of its steps."""
    control_type, configuration_type, policy = CONTROLS[task]
    arguments = {name: v for name, v in policy.environment.items() if name != "control"}
    configuration = configuration_type.validated(
        instance, N_GPUS, horizon=HORIZON, costs=costs, **arguments
    )
    control = control_type(configuration)
    control.start(0, replication_seed(SEED, 0))
    policy.reset(control.cluster.instance, control.plan, N_GPUS, np.random.default_rng(0))
    report, steps = control.report(), []
    while not control.truncated()[0]:
        action = policy.act(report.observations[0], control.info(0, report))
        report = control.empty_report()
        control.step(np.asarray([action]), report)
        info = control.info(0, report)
        assert info["cost"] == pytest.approx(sum(info["costs"].values()), abs=1e-15)
        steps.append(list(info["costs"].values()))
    return dict(zip(costs, np.sum(steps, axis=0), strict=True)), np.array(steps)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["overload", "chat-deadlines"])
def test_costs_add_up_to_what_evaluation_reports(task, name):
    sums, steps = episode_costs(task, name, ALL)
    result = lse.evaluate(
        CONTROLS[task][2],
        name,
        N_GPUS,
        horizon=HORIZON,
        warmup=0.0,
        replications=1,
        seed=SEED,
        **({} if task == "LLMSchedRouting-v0" else {"slos": [f"{n}@price=0" for n in LEVELS]}),
    )
    for level in LEVELS if task != "LLMSchedRouting-v0" else ():
        assert sums[level] == pytest.approx(result.slos[level].measured.mean, rel=1e-9)
    if result.deadlines is not None:
        missed = result.deadlines.decided - result.deadlines.good
    else:  # what is completed is good
        missed = result.requests["abandoned"] + result.requests["rejected"]
    arrivals = N_GPUS * resolve_instance(name).arrival_rates.sum() * HORIZON
    assert missed > 0
    assert sums["deadline-misses"] == pytest.approx(missed / arrivals, rel=1e-9)
    assert (steps[:, ALL.index("deadline-misses")] >= 0).all()
    # Everything but a repaired unfairness costs something.
    assert (steps[:, ALL.index("abandonment")] >= -1e-12).all()
    assert (steps[:, ALL.index("tpot")] >= -1e-12).all()


@pytest.mark.parametrize("task", TASKS)
def test_costs_change_nothing_else(task):
    arguments = {"instance": "overload", "n_gpus": 2, "horizon": 3.0}
    seen = []
    for more in ({}, {"costs": ALL, "budgets": {"tpot": 0.024}}):
        env = gym.make(task, **arguments, **more)
        env.action_space.seed(1)
        observation, info = env.reset(seed=4)
        rows, ended = [(observation.tobytes(), 0.0, info)], False
        while not ended:
            observation, reward, _, ended, info = env.step(env.action_space.sample())
            rows.append((observation.tobytes(), reward, info))
        seen.append(rows)
    for plain, costly in zip(*seen, strict=True):
        assert plain[:2] == costly[:2]
        assert {"cost", "costs"} == set(costly[2]) - set(plain[2])


def test_native_vector_costs_are_masked_and_begin_anew():
    arguments = {"instance": "overload", "n_gpus": 2, "horizon": 3.0, "costs": ALL}
    envs = gym.make_vec("LLMSched-v0", num_envs=2, **arguments)
    single = gym.make("LLMSched-v0", **arguments)
    envs.reset(seed=7)
    single.reset(seed=8)
    for _ in range(3):
        action = np.full(5, 0.7, np.float32)
        infos = envs.step(np.tile(action, (2, 1)))[4]
        info = single.step(action)[4]
        assert infos["_cost"].all()
        assert infos["_costs"].all()
        assert infos["cost"][1] == info["cost"] > 0.0
        for name in ALL:
            assert infos["costs"][f"_{name}"].all()
            assert infos["costs"][name][1] == info["costs"][name]
    infos = envs.step(np.zeros((2, 5), np.float32))[4]  # starts the next episodes
    assert (infos["cost"] == 0.0).all()


def test_an_unfairness_that_is_repaired_has_a_negative_cost():
    _, steps = episode_costs("LLMSchedEvent-v0", "overload", ("prefill-fairness",))
    assert (steps < 0).any()


def test_the_bound_under_budgets_is_the_plan_with_limits():
    env = gym.make("LLMSched-v0", instance="overload", budgets={"tpot": 0.0235}).unwrapped
    limited = lse.plan("overload", slos=["tpot@limit=0.0235"])
    assert env.constrained_plan.revenue_rate == limited.revenue_rate < env.plan.value
    assert env.budgets == {"tpot": 0.0235}
    np.testing.assert_array_equal(env.plan.x, lse.plan("overload").x)  # its own plan is unchanged
    vector = gym.make_vec("LLMSched-v0", num_envs=2, instance="overload", budgets=env.budgets)
    assert vector.constrained_plan.revenue_rate == limited.revenue_rate


def test_who_gives_up_misses_a_deadline_so_the_plan_bounds_both():
    late = {"instance": "deadlines"}
    for name in ("deadline-misses", "abandonment"):
        env = gym.make("LLMSchedEvent-v0", budgets={name: 0.08}, **late).unwrapped
        kept = env.constrained_plan
        assert kept.slos["abandonment"].value <= 0.08 + 1e-9
        turned_away = (1 - kept.admission_fraction) * kept.instance.arrival_rates
        assert turned_away.sum() / kept.instance.arrival_rates.sum() <= 0.08 + 1e-9
        assert kept.revenue_rate < env.plan.value
    both = {"deadline-misses": 0.08, "abandonment": 0.09}
    env = gym.make("LLMSched-v0", budgets=both, **late).unwrapped
    assert env.constrained_plan.slos["abandonment"].limit == 0.08
    hopeless = gym.make("LLMSched-v0", budgets={"abandonment": 0.0}, **late).unwrapped
    with pytest.raises(PlanError, match="least attainable"):
        _ = hopeless.constrained_plan


def test_a_service_level_of_ones_own_is_a_cost():
    own = f"{__name__}:MixedShare"
    env = gym.make("LLMSched-v0", n_gpus=2, horizon=2.0, budgets={own: 0.5})
    env.reset(seed=0)
    info = env.step(env.action_space.sample())[4]
    assert set(info["costs"]) == {"mixed-share"}
    assert env.unwrapped.budgets == {"mixed-share": 0.5}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"costs": "tpot"}, "a list of names"),
        ({"costs": ["late"]}, "deadline-misses"),
        ({"costs": [3]}, "deadline-misses"),
        ({"costs": [["tpot"]]}, "deadline-misses"),
        ({"budgets": ["tpot"]}, "numbers by name"),
        ({"budgets": {"tpot": -1.0}}, "budget of tpot"),
        ({"budgets": {"tpot": float("nan")}}, "budget of tpot"),
        ({"costs": ["tpot"], "instance": "mixed-fleet"}, "alone"),
    ],
)
def test_what_is_no_cost_is_an_error(task, arguments, said):
    with pytest.raises(ConfigurationError, match=said):
        gym.make(task, **arguments)


def test_deadline_misses_of_groups_are_of_all_of_them():
    env = gym.make("LLMSched-v0", instance="mixed-fleet", horizon=30.0, costs=["deadline-misses"])
    env.reset(seed=1)
    infos = [env.step(env.unwrapped.plan_action)[4] for _ in range(30)]
    assert sum(info["cost"] for info in infos) > 0
