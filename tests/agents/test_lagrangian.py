"""PPO-Lagrangian: multipliers follow costs, rewards lose them, kept weights keep the budgets."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("torch")

import llm_sched_env as lse
from llm_sched_env.agents.checkpoint import Checkpoint
from llm_sched_env.agents.environments import make_environment
from llm_sched_env.agents.lagrangian import LagrangianRewards, Multipliers, lagrangian_of
from llm_sched_env.agents.ppo import train
from llm_sched_env.agents.trained_policy import TrainedPolicy
from llm_sched_env.agents.training_evaluation import PairedEvaluation, rank
from llm_sched_env.agents.training_variants import variant
from llm_sched_env.envs.costs import Costs
from llm_sched_env.envs.sb3 import LLMSchedSB3VecEnv
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.cluster import Cluster

BUDGETS = {"tpot": 0.0245}
SMALL = {
    "n_gpus": 3,
    "total_steps": 200,
    "n_envs": 4,
    "rollout_steps": 25,
    "batch_size": 50,
    "horizon": 25.0,
    "evaluation_every": 100,
    "evaluation_warmup": 5.0,
    "evaluation_horizon": 30.0,
    "references": ("trunk-reservation",),
}


def small(**more):
    given = {**SMALL, "budgets": BUDGETS, **more}
    return variant("ppo-lagrangian").configuration(lse.presets.overload().to_dict(), **given)


def multipliers(budgets=BUDGETS, gain=0.5, rate=0.2):
    cluster = Cluster.of("overload", 3)
    costs = Costs.checked((), budgets, cluster)
    return Multipliers.of(costs, cluster, gain, rate)


def test_multipliers_start_at_the_shadow_prices_of_the_plan():
    told = multipliers()
    free, kept = lse.plan("overload"), lse.plan("overload", slos=["tpot@limit=0.0245"])
    spent = lse.plan("overload", slos=["tpot@price=0"]).slos["tpot"].value
    assert told.units == pytest.approx(spent - 0.0245)
    assert told.values == pytest.approx(kept.slos["tpot"].dual * told.units / free.value)
    # One more unit of the budget is worth about what keeping it costs.
    assert told.values == pytest.approx((free.value - kept.revenue_rate) / free.value, rel=1.0)
    slack = multipliers({"tpot": 0.03})
    assert slack.values == 0.0
    assert slack.units == pytest.approx(0.05 * 0.03)


def test_a_multiplier_rises_while_its_budget_is_exceeded_and_falls_to_zero():
    told = multipliers()
    start = told.values.copy()
    over, under = told.budgets + told.units, told.budgets - told.units
    told.update(over, 1.0)
    np.testing.assert_allclose(told.integral, start + 0.2)
    np.testing.assert_allclose(told.values, start + 0.2 + 0.5)
    told.update(over, 0.25)  # a quarter of the environments ended: a quarter of the step
    np.testing.assert_allclose(told.integral, start + 0.25)
    told.update(told.budgets, 1.0)
    np.testing.assert_allclose(told.values, start + 0.25)
    for _ in range(20):
        told.update(under, 1.0)
    assert told.values == told.integral == 0.0
    told.update(told.budgets + 100 * told.units, 1.0)  # errors count up to two units
    np.testing.assert_allclose(told.values, 2 * (0.2 + 0.5))


def test_rewards_lose_costs_beyond_budgets_at_the_multipliers():
    arguments = {"instance": "overload", "n_gpus": 3, "horizon": 4.0}
    plain = LLMSchedSB3VecEnv(2, **arguments)
    native = LLMSchedSB3VecEnv(2, budgets=BUDGETS, **arguments)
    told = multipliers()
    held = told.values.copy()
    priced = LagrangianRewards(native, told, steps=4)
    for venv in (plain, priced):
        venv.seed(3)
        venv.reset()
    sums = np.zeros(2)
    for t in range(4):
        actions = np.full((2, 5), 0.8, np.float32)
        _, free, _, _ = plain.step(actions)
        _, paid, dones, infos = priced.step(actions)
        costs = np.array([info["costs"]["tpot"] for info in infos])
        sums += costs
        beyond = (4 * costs - 0.0245) / told.units
        np.testing.assert_allclose(paid, (free - held * beyond) / (1 + held), rtol=1e-5)
        assert dones.all() == (t == 3)
    np.testing.assert_allclose(told.last_costs, sums.mean())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with an agent of a few updates."""
    folder = tmp_path_factory.mktemp("lagrangian")
    train(small(), folder)
    return folder


def test_training_records_costs_and_goes_on_where_it_was(trained, tmp_path):
    saved = Checkpoint.load(trained / "agent.zip")
    assert saved.configuration.budgets == BUDGETS
    row = saved.curve[-1]
    assert row["multiplier tpot"] >= 0
    assert 0.02 < row["episode cost tpot"] < 0.03
    assert saved.held_out["cost tpot low"] <= saved.held_out["cost tpot"]
    shutil.copy(trained / "agent.zip", tmp_path)
    longer = dataclasses.replace(small(), total_steps=saved.steps + 100)
    resumed = Checkpoint.load(train(longer, tmp_path, resume=True))
    assert len(resumed.curve) == len(saved.curve) + 1
    # One episode's step from where it was, not from the shadow price.
    step = abs(resumed.curve[-1]["integral tpot"] - row["integral tpot"])
    assert step <= 2.0 * saved.configuration.multiplier_rate + 1e-12


def test_evaluations_measure_what_evaluate_reports(trained):
    policy = TrainedPolicy(Checkpoint.load(trained / "agent.zip"))
    evaluation = PairedEvaluation(small(), seed=4, runs=2)
    row = evaluation.row(policy.controller(evaluation.plan.given, evaluation.plan, 3))
    result = lse.evaluate(
        policy,
        "overload",
        3,
        horizon=30.0,
        warmup=5.0,
        replications=2,
        seed=4,
        slos=["tpot@price=0"],
    )
    assert row["cost tpot"] == pytest.approx(result.slos["tpot"].measured.mean, rel=1e-9)
    assert row["score"] == pytest.approx(result.score.mean, rel=1e-9)


def test_only_constrained_environments_have_multipliers():
    assert lagrangian_of(make_environment(small())) is not None
    assert lagrangian_of(make_environment(small(constraint="none", budgets={}))) is None


def test_what_keeps_the_budgets_is_better_than_what_earns_more():
    budgets = {"tpot": 0.024, "abandonment": 0.5}

    def row(score, tpot, abandonment=0.4):
        return {"score": score, "cost tpot": tpot, "cost abandonment": abandonment}

    best_first = [row(0.9, 0.0239), row(0.8, 0.02), row(0.99, 0.0241), row(1.0, 0.0239, 0.55)]
    ranks = [rank(r, budgets) for r in best_first]
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks)) == 4
    assert rank(row(0.9, 1.0), {}) == (0.0, 0.9)


@pytest.mark.extended
def test_the_command_trains_with_budgets(run, tmp_path):
    arguments = ["train", "--variant", "ppo-lagrangian", "--budget", "tpot=0.0245", "--steps", "1"]
    code, out, _ = run(*arguments, "--gpus", "2", "--out", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out)["held_out"]["cost tpot"] > 0.02


def test_the_command_refuses_budgets_that_nothing_keeps(run, tmp_path):
    for wrong in (["--variant", "ppo-lagrangian"], ["--budget", "tpot=0.024"]):
        code, _, err = run("train", *wrong, "--out", str(tmp_path / "other"))
        assert code == 2
        assert "ppo-lagrangian" in err
    wrong = ["--variant", "ppo-lagrangian", "--budget", "tpot"]
    code, _, err = run("train", *wrong, "--out", str(tmp_path / "other"))
    assert code == 2
    assert "NAME=NUMBER" in err


def test_budgets_that_cannot_be_are_errors():
    for wrong in ({"late": 0.1}, {"tpot": -1.0}, ["tpot"], {}):
        with pytest.raises(ConfigurationError, match="budgets"):
            small(budgets=wrong)
    with pytest.raises(ConfigurationError, match="interval"):
        small(control="event", algorithm="maskable-ppo", router="agent")
