"""Environments of a cluster with groups of GPUs: by class and group, class-major."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import llm_sched_env as lse
from llm_sched_env.envs.decision_space import action_names
from llm_sched_env.envs.observation import (
    event_feature_names,
    feature_names,
    feature_slices,
)
from llm_sched_env.errors import ConfigurationError

INSTANCE = lse.presets.mixed_fleet()
N_CLASSES, G = INSTANCE.n_classes, len(INSTANCE.groups)


def interval_env(**more):
    return gym.make("LLMSched-v0", instance="mixed-fleet", n_gpus=10, horizon=20.0, **more)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_spaces_and_checks():
    env = interval_env()
    check_env(env.unwrapped, skip_render_check=True)
    assert env.observation_space.shape == (2 * N_CLASSES + 4 * N_CLASSES * G + 4 * G,)
    assert env.action_space.shape == (2 * N_CLASSES * G + G,)
    names = feature_names(INSTANCE)
    assert len(names) == len(set(names)) == env.observation_space.shape[0]
    assert names[N_CLASSES] == "x of chat in h100"
    assert names[N_CLASSES + 1] == "x of chat in a100"
    slices = feature_slices(INSTANCE)
    assert slices["x"] == slice(N_CLASSES, N_CLASSES + N_CLASSES * G)
    assert slices["free slots"].stop - slices["free slots"].start == G
    event = gym.make("LLMSchedEvent-v0", instance="mixed-fleet", n_gpus=10, horizon=5.0)
    check_env(event.unwrapped, skip_render_check=True)
    assert event.action_space.n == 1 + 3 * N_CLASSES * G == len(set(action_names(INSTANCE)))
    assert event.observation_space.shape == (len(event_feature_names(INSTANCE)),)


def test_observations_are_the_counts():
    env = interval_env()
    env.reset(seed=3)
    for _ in range(12):
        observation, _, _, _, info = env.step(env.unwrapped.plan_action)
    counts = info["counts"].reshape(5, N_CLASSES, G)
    sizes = INSTANCE.group_sizes(10)
    slots = np.array([group.hardware.batch_slots for group in INSTANCE.groups])
    at = feature_slices(INSTANCE)
    np.testing.assert_allclose(
        observation[at["x"]].reshape(N_CLASSES, G), counts[1] / sizes, rtol=1e-6
    )
    solo = counts[4] / (sizes * slots)
    np.testing.assert_allclose(observation[at["y_solo"]].reshape(N_CLASSES, G), solo, rtol=1e-6)
    used = (counts[1] + counts[3] + counts[4]).sum(axis=0)
    free = 1.0 - used / (sizes * slots)
    np.testing.assert_allclose(observation[at["free slots"]], free, atol=1e-6)
    waiting = counts[0, :, 0]
    np.testing.assert_allclose(observation[at["q_prefill"]], waiting / (10 + waiting), rtol=1e-6)
    assert (counts[[0, 2], :, 1:] == 0).all()


def test_the_plan_as_a_constant_action_is_the_rule():
    env = gym.make("LLMSched-v0", instance="mixed-fleet", n_gpus=10, horizon=100.0)
    env.reset(seed=5)
    rewards = [env.step(env.unwrapped.plan_action)[1] for _ in range(100)]
    rule = lse.DispatchRule(gate="credit", router="solo-first", pools="static")
    # The same up to the rounding of float32 actions, which moves when buckets fill.
    same = [
        lse.evaluate(policy, "mixed-fleet", n_gpus=10, horizon=100.0, warmup=0.0, replications=2)
        for policy in (rule, _Plan())
    ]
    assert same[0].score.mean == pytest.approx(same[1].score.mean, abs=0.005)
    assert 0.5 < np.mean(rewards) < 1.1


class _Plan:
    """Holds the plan."""

    def reset(self, instance, plan, n_gpus, rng):
        self._action = plan.action.astype(np.float32)

    def act(self, observation, info):
        return self._action


def test_actions_of_a_group_work_there():
    env = gym.make("LLMSchedEvent-v0", instance="mixed-fleet", n_gpus=10, horizon=30.0)
    rng = np.random.default_rng(0)
    _, info = env.reset(seed=1)
    taken = np.zeros(env.action_space.n, int)
    done = False
    while not done and taken.sum() < 3000:
        possible = np.flatnonzero(info["action_mask"])
        action = int(rng.choice(possible[possible > 0])) if len(possible) > 1 else 0
        before = info["counts"].copy()
        _, _, _, done, info = env.step(action)
        taken[action] += 1
        if action and info["elapsed_seconds"] == 0.0:
            part, pair = divmod(action - 1, N_CLASSES * G)
            change = info["counts"] - before
            if part == 0:
                assert change[1, pair] == 1
                assert change[0, pair - pair % G] == -1
            else:
                assert change[3, pair] + change[4, pair] == 1
                assert change[2, pair - pair % G] == -1
    assert (taken.reshape(-1)[1 : 1 + N_CLASSES * G] > 0).any()
    assert (taken[1 + N_CLASSES * G :] > 0).any()


def test_vector_and_single_environments_agree():
    vector = gym.make_vec(
        "LLMSched-v0", 3, instance="mixed-fleet", n_gpus=10, horizon=20.0,
        vectorization_mode="vector_entry_point",
    )  # fmt: skip
    single = interval_env()
    observations, _ = vector.reset(seed=[4, 5, 6])
    own, _ = single.reset(seed=5)
    assert (observations[1] == own).all()
    rng = np.random.default_rng(2)
    for _ in range(15):
        action = rng.random(single.action_space.shape, np.float32)
        observations, rewards, *_ = vector.step(np.stack([action] * 3))
        own, reward, *_ = single.step(action)
        assert (observations[1] == own).all()
        assert rewards[1] == reward


def test_saved_states_pictures_and_texts():
    for mode in ("rgb_array", "ansi"):
        env = interval_env(render_mode=mode)
        env.reset(seed=1, options={"start": "plan"})
        env.step(env.unwrapped.plan_action)
        picture = env.render()
        if mode == "rgb_array":
            assert picture.shape == (540, 960, 3)
        else:
            assert "documents" in picture
    state = env.unwrapped.save_state()
    once = env.reset(seed=9, options={"state": state})[0]
    assert (env.reset(seed=9, options={"state": state})[0] == once).all()


def test_what_groups_do_not_have():
    with pytest.raises(ConfigurationError, match="use solo-first"):
        interval_env(router="randomized")
    with pytest.raises(ConfigurationError, match="none with groups"):
        interval_env(slos=["tpot@limit=0.02"])
