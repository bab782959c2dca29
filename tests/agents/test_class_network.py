"""The network shared by classes: equivariant, and the same for any number of classes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")
pytest.importorskip("torch")

import torch
from gymnasium import spaces

import llm_sched_env as lse
from llm_sched_env.agents.class_network import (
    ClassPooledMoments,
    PerClassPolicy,
    moments_for,
)
from llm_sched_env.agents.ppo import train
from llm_sched_env.agents.training_variants import variant

N_CLASSES, PARTS = 5, 2


def network(table):
    torch.manual_seed(0)
    box = spaces.Box(-1.0, 1.0, (PARTS * len(table),), np.float32)
    seen = spaces.Box(-np.inf, np.inf, (6 * len(table) + 4,), np.float32)
    policy = PerClassPolicy(seen, box, lambda _: 0.0, class_parameters=table, width=16)
    # Far from its small first weights, so that differences show.
    with torch.no_grad():
        for weights in policy.parameters():
            weights.copy_(torch.randn_like(weights))
    return policy


def answers(policy, observations):
    with torch.no_grad():
        seen = torch.as_tensor(observations)
        return (
            policy.get_distribution(seen).distribution.mean.numpy(),
            policy.get_distribution(seen).distribution.stddev.numpy(),
            policy.predict_values(seen).numpy(),
        )


def test_renamed_classes_get_renamed_actions_and_the_same_value():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(N_CLASSES, 7))
    observations = rng.normal(size=(9, 6 * N_CLASSES + 4)).astype(np.float32)
    order = rng.permutation(N_CLASSES)
    renamed = observations.copy()
    renamed[:, :-4] = observations[:, :-4].reshape(9, 6, N_CLASSES)[:, :, order].reshape(9, -1)
    mean, spread, value = answers(network(table.tolist()), observations)
    other_mean, other_spread, other_value = answers(network(table[order].tolist()), renamed)
    for own, other in ((mean, other_mean), (spread, other_spread)):
        by_class = own.reshape(9, PARTS, N_CLASSES)[:, :, order].reshape(9, -1)
        np.testing.assert_allclose(other, by_class, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other_value, value, rtol=1e-4, atol=1e-5)
    # Classes do differ, and what a class looks like matters to the others.
    assert np.ptp(mean.reshape(9, PARTS, N_CLASSES), axis=2).min() > 1e-3
    changed = observations.copy()
    changed[:, 0] += 1.0
    moved = answers(network(table.tolist()), changed)[0] - mean
    assert (np.abs(moved) > 1e-4).all(axis=0).all()


def test_classes_alike_get_actions_alike():
    table = np.ones((3, 7)).tolist()
    observations = np.tile(np.linspace(0, 1, 6)[:, None], (1, 3)).ravel()
    seen = np.concatenate([observations, [0.1, 0.2, 0.3, 0.4]])[None].astype(np.float32)
    mean, _, _ = answers(network(table), seen)
    np.testing.assert_allclose(np.ptp(mean.reshape(PARTS, 3), axis=1), 0.0, atol=1e-6)


def test_pooled_moments_are_those_of_all_classes_together():
    rng = np.random.default_rng(1)
    batches = [rng.normal(2.0, 3.0, size=(k, 6 * 2 + 4)) for k in (5, 8, 300)]
    moments = ClassPooledMoments(2)
    for batch in batches:
        moments.update(batch)
    everything = np.concatenate(batches)
    for feature in range(6):
        both = everything[:, 2 * feature : 2 * feature + 2]
        for entry in (2 * feature, 2 * feature + 1):
            assert moments.mean[entry] == pytest.approx(both.mean(), rel=1e-4)
            assert moments.var[entry] == pytest.approx(both.var(), rel=1e-4)
    np.testing.assert_allclose(moments.mean[12:], everything[:, 12:].mean(axis=0), rtol=1e-4)
    wider = moments_for(moments.mean, 3)
    assert wider.shape == (22,)
    assert (wider[:18].reshape(6, 3) == moments.mean[:12].reshape(6, 2)[:, :1]).all()
    assert (wider[18:] == moments.mean[12:]).all()


@pytest.mark.extended
def test_an_agent_of_two_classes_serves_eight(tmp_path):
    """At first it is the rule; after some learning it still runs on any instance."""
    configuration = variant("per-class").configuration(
        lse.presets.overload().to_dict(),
        n_gpus=5,
        total_steps=200,
        n_envs=4,
        rollout_steps=25,
        batch_size=50,
        horizon=50.0,
        learning_rate=0.01,
        evaluation_warmup=5.0,
        evaluation_horizon=20.0,
        center="middle",
    )
    path = train(configuration, tmp_path)
    times = {"horizon": 60.0, "warmup": 20.0, "replications": 1}
    wide = lse.evaluate(str(path), "dolly15k", 3, **times)
    assert len(wide.classes) == 8
    assert wide.score.mean > 0.1


@pytest.mark.extended
def test_untrained_it_is_the_rule_on_every_instance(tmp_path):
    configuration = variant("per-class").configuration(
        lse.presets.overload().to_dict(),
        n_gpus=5,
        total_steps=100,
        n_envs=4,
        rollout_steps=25,
        batch_size=50,
        horizon=50.0,
        learning_rate=1e-30,
        evaluation_warmup=5.0,
        evaluation_horizon=20.0,
    )
    path = train(configuration, tmp_path)
    times = {"horizon": 60.0, "warmup": 20.0, "replications": 2}
    for instance in ("base", "dolly15k"):
        agent = lse.evaluate(str(path), instance, 4, **times)
        rule = lse.evaluate("trunk-reservation", instance, 4, **times)
        assert agent.scores == pytest.approx(rule.scores, abs=1e-12)
