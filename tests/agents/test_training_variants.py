"""Ways of training: each runs, ships and acts; what wrappers and warm starts do to the learner."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")
pytest.importorskip("torch")

import torch

import llm_sched_env as lse
from llm_sched_env.agents.algorithms import make_model
from llm_sched_env.agents.checkpoint import Checkpoint
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.control_variates import BeyondGroup, BeyondReference
from llm_sched_env.agents.environments import make_environment, normaliser_of
from llm_sched_env.agents.imitation import (
    _earned_from_now,
    _earned_so_far,
    clone,
    demonstrate,
    with_measured_interval,
)
from llm_sched_env.agents.learner import learner_arrays, restore_learner, restore_replay
from llm_sched_env.agents.ppo import train
from llm_sched_env.agents.residual_actions import centered_action, residual_action
from llm_sched_env.agents.resumption import restore_random_states
from llm_sched_env.agents.training_variants import VARIANTS, variant
from llm_sched_env.envs.sb3 import LLMSchedSB3VecEnv
from llm_sched_env.errors import ConfigurationError

OVERLOAD = lse.presets.overload().to_dict()
SMALL = {
    "n_gpus": 2,
    "total_steps": 200,
    "n_envs": 4,
    "rollout_steps": 25,
    "batch_size": 50,
    "horizon": 25.0,
    "evaluation_every": 1000,
    "evaluation_warmup": 2.0,
    "evaluation_horizon": 8.0,
    "imitation_steps": 100,
}
ENVIRONMENT = {
    "n_gpus": 5,
    "instance": "overload",
    "horizon": 20.0,
    "start": "plan",
    "gate": "net-value",
    "router": "net-value",
    "pools": "dynamic",
    "controls": ["priority", "reserve"],
}


def small(name, **more):
    if name == "ppo-lagrangian":
        more = {"budgets": {"tpot": 0.0245}, **more}
    return variant(name).configuration(OVERLOAD, **{**SMALL, **more})


QUICK = {"ppo-residual", "routing"}


def each(names):
    """Parameters of which ``make test`` runs those with most of their own."""
    return [pytest.param(n, marks=() if n in QUICK else pytest.mark.extended) for n in names]


@pytest.mark.parametrize("name", each(v.name for v in VARIANTS))
def test_every_variant_trains_ships_and_acts(name, tmp_path):
    saved = Checkpoint.load(train(small(name), tmp_path))
    # ARS counts whole rounds of candidates.
    assert saved.steps == (8 * 4 * 25 if name == "ars" else 200)
    assert [row["steps"] for row in saved.evaluations] == [0, saved.steps]
    small_file = tmp_path / "small.zip"
    saved.exported().save(small_file)
    assert small_file.stat().st_size < 100_000
    times = {"horizon": 20.0, "warmup": 5.0, "replications": 1}
    agent = lse.evaluate(str(small_file), "overload", 3, **times)
    again = lse.evaluate(str(small_file), "overload", 3, **times)
    assert agent.scores == again.scores
    assert np.isfinite(agent.score.mean)


@pytest.mark.parametrize(
    "name", each(["ppo-residual", "recurrent", "per-class", "event", "sac", "tqc", "ars"])
)
def test_the_learner_of_a_checkpoint_is_the_one_that_was_saved(name, tmp_path):
    """Networks, optimisers, counts: each tensor to the last bit, in a fresh model."""
    saved = Checkpoint.load(train(small(name, imitate=""), tmp_path))
    model = make_model(saved.configuration, make_environment(saved.configuration), tmp_path)
    restore_learner(model, saved.learner, saved.steps)
    assert model.num_timesteps == saved.steps
    restore_random_states(saved.learner)
    again = learner_arrays(model)
    assert again.keys() == saved.learner.keys()
    for key, array in again.items():
        assert (array.dtype, array.shape) == (saved.learner[key].dtype, saved.learner[key].shape)
        assert array.tobytes() == saved.learner[key].tobytes(), key
    moments = [key for key in again if key.endswith("exp_avg_sq")]
    assert bool(moments) == (name != "ars")
    if name == "ars":
        layer = [again[f"policy:action_net.0.{part}"].ravel() for part in ("weight", "bias")]
        assert model.weights.numpy().tobytes() == np.concatenate(layer).tobytes()
        assert model.weights.any()


def test_names_of_variants_are_checked():
    assert len({v.name for v in VARIANTS}) == len(VARIANTS)
    with pytest.raises(ConfigurationError, match="variant: got 'dqn'"):
        variant("dqn")


@pytest.mark.parametrize(
    "wrong",
    [
        {"algorithm": "maskable-ppo"},
        {"control": "event"},
        {"network": "per-class", "frame_stack": 2},
        {"network": "per-class", "gate": "token-bucket", "controls": ("admission", "pool")},
        {"imitate": "fluid-mpc", "algorithm": "sac"},
        {"reward_reference": "group", "group_size": 3},
        {"center": "top"},
        {"frame_stack": 0},
    ],
)
def test_combinations_that_mean_nothing_are_errors(wrong):
    with pytest.raises(ConfigurationError):
        TrainingConfiguration(OVERLOAD, **wrong)


def test_centered_actions_are_what_residual_actions_undo():
    rng = np.random.default_rng(0)
    center = rng.uniform(0.05, 0.95, 7)
    controls = rng.uniform(size=(100, 7))
    actions = centered_action(controls, center, 1.0)
    np.testing.assert_allclose(residual_action(actions, center, 1.0), controls, atol=1e-12)
    # Where there is no way to go the centre is meant.
    assert centered_action(np.array([0.5]), np.array([1.0]), 1.0) == [-0.5]
    assert centered_action(np.array([1.0]), np.array([1.0]), 1.0) == [0.0]


# Control variates.


def play(venv, actions, seed=5):
    """Rewards and ends of episodes, both of shape (T, N)."""
    venv.seed(seed)
    venv.reset()
    steps = [venv.step(action) for action in actions]
    return np.stack([s[1] for s in steps]), np.stack([s[2] for s in steps])


def test_the_reference_itself_earns_nothing_beyond_it():
    venv = LLMSchedSB3VecEnv(3, **ENVIRONMENT)
    center = venv.vector_env.control.plan_action
    beyond = BeyondReference(venv, LLMSchedSB3VecEnv(3, **ENVIRONMENT), center)
    rewards, ended = play(beyond, [np.tile(center, (3, 1))] * 50)
    assert ended.sum() == 6
    assert (rewards == 0.0).all()


def test_rewards_beyond_a_reference_are_differences_on_the_same_requests():
    """Also in episodes after the first; most of the noise is gone."""
    venv = LLMSchedSB3VecEnv(3, **ENVIRONMENT)
    center = venv.vector_env.control.plan_action
    beyond = BeyondReference(venv, LLMSchedSB3VecEnv(3, **ENVIRONMENT), center)
    rng = np.random.default_rng(1)
    actions = np.clip(center + 0.1 * rng.normal(size=(60, 3, len(center))), 0.0, 1.0)
    own, _ = play(LLMSchedSB3VecEnv(3, **ENVIRONMENT), actions)
    reference, _ = play(LLMSchedSB3VecEnv(3, **ENVIRONMENT), [np.tile(center, (3, 1))] * 60)
    differences, _ = play(beyond, actions)
    np.testing.assert_allclose(differences, own - reference, atol=1e-6)
    # Revenue comes in lumps at other times, so it is over an episode that noise is shared.
    episodes = [r.reshape(3, 20, 3).sum(axis=1) for r in (differences, own)]
    assert episodes[0].std() < 0.7 * episodes[1].std()


def test_rewards_beyond_a_group_add_up_to_nothing():
    venv = BeyondGroup(LLMSchedSB3VecEnv(6, same_requests=3, **ENVIRONMENT), 3)
    n_controls = venv.action_space.shape[0]
    same, _ = play(venv, [np.full((6, n_controls), 0.5)] * 30)
    np.testing.assert_allclose(same, 0.0, atol=1e-6)
    actions = np.random.default_rng(2).uniform(size=(30, 6, n_controls))
    differences, _ = play(venv, actions)
    np.testing.assert_allclose(differences.reshape(30, 2, 3).sum(axis=2), 0.0, atol=1e-6)
    # Leave-one-out: own reward less the mean of the two others.
    raw, _ = play(LLMSchedSB3VecEnv(6, same_requests=3, **ENVIRONMENT), actions)
    np.testing.assert_allclose(differences[:, 0], raw[:, 0] - raw[:, 1:3].mean(axis=1), atol=1e-6)


def test_groups_differ_from_each_other():
    venv = LLMSchedSB3VecEnv(4, same_requests=2, **ENVIRONMENT)
    rewards, _ = play(venv, [np.full((4, venv.action_space.shape[0]), 0.5)] * 15)
    assert (rewards[:, 0] == rewards[:, 1]).all()
    assert (rewards[:, 0] != rewards[:, 2]).any()


# Imitation.


def test_discounted_sums_are_those_of_the_definition():
    rewards = np.random.default_rng(3).normal(size=(7, 2))
    past, future = _earned_so_far(rewards, 0.9), _earned_from_now(rewards, 0.9)
    for t in range(7):
        np.testing.assert_allclose(past[t], sum(0.9 ** (t - s) * rewards[s] for s in range(t + 1)))
        beyond = 0.9 ** (7 - t) * rewards.mean() / 0.1
        np.testing.assert_allclose(
            future[t], sum(0.9 ** (s - t) * rewards[s] for s in range(t, 7)) + beyond
        )


def test_demonstrations_of_the_rule_are_the_centre_of_its_residual():
    shown = demonstrate(small("ppo-residual", imitate="trunk-reservation", imitation_steps=40))
    assert shown.actions.shape == (10, 4, 4)
    np.testing.assert_allclose(shown.actions, 0.0, atol=1e-7)
    assert shown.seconds == pytest.approx(1.0)
    assert shown.masks is None


def test_only_policies_of_the_same_actions_can_be_cloned():
    for configuration in (
        small("ppo", imitate="token-bucket"),
        small("plan", imitate="fluid-mpc"),
        small("event", imitate="fluid-mpc"),
    ):
        with pytest.raises(ConfigurationError, match="imitate"):
            demonstrate(configuration)


def test_a_clone_acts_like_the_rule_and_knows_what_it_earns(tmp_path):
    configuration = small("imitation", imitation_steps=2_000)
    venv = make_environment(configuration)
    model = make_model(configuration, venv, tmp_path)
    normaliser = normaliser_of(venv)
    assert clone(model, normaliser, configuration) < 3e-3
    shown = demonstrate(configuration)
    flat = shown.observations.reshape(-1, shown.observations.shape[2])
    scaled = normaliser.normalize_obs(flat)
    acted, _ = model.policy.predict(scaled, deterministic=True)
    targets = shown.actions.reshape(len(flat), -1)
    assert np.abs(acted - targets).mean() < 0.05
    with torch.no_grad():
        values = model.policy.predict_values(torch.as_tensor(scaled)).numpy()
    worth = shown.rewards.mean() / (1.0 - configuration.discount) / normaliser.ret_rms.var**0.5
    assert values.mean() == pytest.approx(worth, rel=0.1)


@pytest.mark.extended
def test_a_clone_at_events_chooses_the_rule_s_actions(tmp_path):
    configuration = small("event", imitation_steps=8_000)
    venv = make_environment(configuration)
    model = make_model(configuration, venv, tmp_path)
    clone(model, normaliser_of(venv), configuration)
    shown = demonstrate(configuration)
    flat = shown.observations.reshape(-1, shown.observations.shape[2])
    acted, _ = model.policy.predict(
        normaliser_of(venv).normalize_obs(flat),
        deterministic=True,
        action_masks=shown.masks.reshape(len(flat), -1),
    )
    assert (acted == shown.actions.ravel()).mean() > 0.9


def test_the_discount_at_events_goes_by_the_measured_time_between_decisions():
    configuration = with_measured_interval(small("event"))
    assert 0.005 < configuration.interval < 1.0
    half_lives = configuration.half_life / configuration.interval
    assert configuration.discount**half_lives == pytest.approx(0.5)
    assert with_measured_interval(small("ppo-residual")) == small("ppo-residual")


@pytest.mark.extended
def test_a_router_is_cloned_from_the_rule_and_its_discount_measured(tmp_path):
    configuration = with_measured_interval(small("routing", imitation_steps=6_000))
    rate = 2 * sum(c["arrival_rate"] for c in OVERLOAD["classes"])
    assert configuration.interval == pytest.approx(1.0 / rate, rel=0.1)
    venv = make_environment(configuration)
    model = make_model(configuration, venv, tmp_path)
    clone(model, normaliser_of(venv), configuration)
    shown = demonstrate(configuration)
    flat = shown.observations.reshape(-1, shown.observations.shape[2])
    acted, _ = model.policy.predict(
        normaliser_of(venv).normalize_obs(flat),
        deterministic=True,
        action_masks=shown.masks.reshape(len(flat), -1),
    )
    assert (acted == shown.actions.ravel()).mean() > 0.9


@pytest.mark.extended
def test_a_resumed_sac_keeps_its_transitions(tmp_path):
    train(small("sac", total_steps=200), tmp_path)
    assert (tmp_path / "replay.npz").exists()
    path = train(small("sac", total_steps=300), tmp_path, resume=True)
    saved = Checkpoint.load(path)
    assert saved.steps == 300
    model = make_model(small("sac"), make_environment(small("sac")), tmp_path)
    restore_replay(model, tmp_path / "replay.npz")
    assert model.replay_buffer.pos * 4 == 300
    assert (model.replay_buffer.rewards[:75] != 0).any()


@pytest.mark.parametrize("seed", [3, None])
def test_reference_simulators_start_like_the_environments_that_they_are_compared_with(seed):
    acting, twin = (LLMSchedSB3VecEnv(2, **ENVIRONMENT) for _ in range(2))
    venv = BeyondReference(acting, twin, acting.vector_env.plan_action)
    venv.seed(seed)
    venv.set_options([{"start": "plan"}, {"start": "empty"}])
    seen = venv.reset()
    np.testing.assert_array_equal(twin.vector_env.control.observations(), seen)
    assert seen[0, 6:10].sum() > 0 == seen[1, 6:10].sum()
    controls = np.tile(acting.vector_env.plan_action, (2, 1))
    for _ in range(3):
        np.testing.assert_allclose(venv.step(controls)[1], 0.0, atol=1e-6)
