"""Offline baselines: known answers on made data, and policies that act where the data are from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch")

import llm_sched_env as lse
from llm_sched_env.agents.offline_learning import (
    OfflineConfiguration,
    Transitions,
    learn,
    read_transitions,
)
from llm_sched_env.errors import ConfigurationError

K = 2_000
QUICK = {"steps": 250, "batch_size": 128, "learning_rate": 1e-2, "hidden_units": 32}


def transitions(observations, actions, rewards, following=None, seconds=1e6, masks=None, count=0):
    """Steps that last for ever, unless told: what comes later counts nothing."""
    observations = observations.astype(np.float32)
    return Transitions(
        observations,
        actions,
        rewards.astype(np.float32),
        observations if following is None else following.astype(np.float32),
        np.full(len(rewards), seconds, np.float32),
        masks,
        count,
        None,
    )


@pytest.mark.extended
def test_of_uniform_actions_cloning_takes_the_mean_and_iql_the_best():
    rng = np.random.default_rng(0)
    seen = rng.uniform(size=(K, 1))
    actions = rng.uniform(size=(K, 1)).astype(np.float32)
    data = transitions(seen, actions, -((actions - 0.8) ** 2)[:, 0])
    cloned = learn(data, OfflineConfiguration("bc", **QUICK))
    better = learn(data, OfflineConfiguration("iql", temperature=10.0, **QUICK))
    shown = np.array([0.5], np.float32)
    assert cloned.act(shown, {})[0] == pytest.approx(0.5, abs=0.05)
    assert better.act(shown, {})[0] == pytest.approx(0.8, abs=0.1)


def test_of_rare_good_decisions_cloning_takes_the_common_one_and_iql_the_good_one():
    rng = np.random.default_rng(1)
    seen = rng.uniform(size=(K, 1))
    actions = (rng.uniform(size=K) < 0.2).astype(np.int64)
    masks = np.ones((K, 3), np.bool_)
    data = transitions(seen, actions, 1.0 * actions, masks=masks, count=3)
    shown, free = np.array([0.5], np.float32), {"action_mask": np.ones(3, np.int8)}
    cloned = learn(data, OfflineConfiguration("bc", **QUICK))
    better = learn(data, OfflineConfiguration("iql", **QUICK))
    assert (cloned.act(shown, free), better.act(shown, free)) == (0, 1)
    assert better.act(shown, {"action_mask": np.array([1, 0, 0])}) == 0


def test_iql_sees_what_comes_later_by_the_seconds_of_a_step():
    # Action 1 costs a little and leads from state 0 to 1, where every step earns 1.
    rng = np.random.default_rng(2)
    state = rng.integers(2, size=K)
    actions = rng.integers(2, size=K)
    rewards = np.where(state == 1, 1.0, -0.3 * actions)
    following = np.where(state == 1, 1, actions)
    masks = np.ones((K, 2), np.bool_)

    def chosen(seconds):
        data = transitions(
            state[:, None], actions, rewards, following[:, None], seconds, masks, count=2
        )
        settings = {**QUICK, "target_rate": 0.05, "half_life": 20.0}
        policy = learn(data, OfflineConfiguration("iql", **settings))
        return policy.act(np.zeros(1, np.float32), {"action_mask": np.ones(2)})

    assert chosen(seconds=5.0) == 1
    assert chosen(seconds=500.0) == 0


def test_the_same_seed_learns_the_same_policy():
    rng = np.random.default_rng(3)
    data = transitions(rng.uniform(size=(50, 2)), rng.uniform(size=(50, 2)), rng.uniform(size=50))
    knobs = OfflineConfiguration("iql", steps=20)
    shown = np.array([0.2, 0.7], np.float32)
    first, same = (learn(data, knobs).act(shown, {}) for _ in range(2))
    other = learn(data, dataclasses.replace(knobs, seed=1)).act(shown, {})
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("task", "rule", "control"),
    [
        ("LLMSched-v0", "trunk-reservation", "interval"),
        ("LLMSchedEvent-v0", "gate-and-route", "event"),
        ("LLMSchedRouting-v0", "least-loaded", "routing"),
    ],
)
def test_policies_act_where_their_data_are_from(tmp_path, task, rule, control):
    minari = pytest.importorskip("minari")
    from llm_sched_env.offline.datasets import record_dataset

    small = {"instance": "overload", "n_gpus": 2, "horizon": 5.0}
    record_dataset("d-v0", task, rule, 2, epsilon=0.2, arguments=small, root=tmp_path)
    data = read_transitions(minari.MinariDataset(tmp_path / "d-v0" / "data"))
    assert len(data.rewards) == len(data.actions) == len(data.observations) == len(data.following)
    np.testing.assert_array_equal(data.observations[1], data.following[0])
    assert (data.masks is None) == (control == "interval")
    if data.masks is not None:
        assert data.masks[np.arange(len(data.actions)), data.actions].all()
    else:
        np.testing.assert_array_equal(data.seconds, 1.0)
    assert data.environment["control"] == control
    policy = learn(data, OfflineConfiguration("bc", steps=50))
    run = {"horizon": 10.0, "warmup": 2.0, "replications": 1}
    assert lse.evaluate(policy, "overload", 2, **run).score.mean >= 0.0


def test_knobs_that_cannot_be_are_errors():
    for wrong in (
        {"method": "dqn"},
        {"steps": 0},
        {"expectile": 1.0},
        {"learning_rate": 0.0},
        {"seed": -1},
        {"temperature": float("nan")},
    ):
        with pytest.raises(ConfigurationError):
            OfflineConfiguration(**wrong)
