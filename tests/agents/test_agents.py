"""Training: what a checkpoint holds, how it resumes, and that learning helps."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")
pytest.importorskip("torch")

import torch
from small_training import small
from stable_baselines3.common.callbacks import BaseCallback

import llm_sched_env as lse
from llm_sched_env.agents.algorithms import make_model
from llm_sched_env.agents.checkpoint import Checkpoint, load_policy
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.environments import make_environment
from llm_sched_env.agents.ppo import train
from llm_sched_env.agents.residual_actions import residual_action
from llm_sched_env.errors import CheckpointError, ConfigurationError

FAST = {"horizon": 120.0, "warmup": 30.0, "replications": 2}


# One worker makes what the tests share, once.
pytestmark = pytest.mark.xdist_group("trained agent")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return train(small(), tmp_path_factory.mktemp("run"))


def test_residual_action_reaches_both_ends_and_is_the_plan_at_zero():
    center = np.array([0.2, 1.0, 0.0])
    np.testing.assert_allclose(residual_action(np.zeros(3), center, 1.0), center)
    np.testing.assert_allclose(residual_action(np.ones(3), center, 1.0), 1.0)
    np.testing.assert_allclose(residual_action(-np.ones(3), center, 1.0), 0.0)
    np.testing.assert_allclose(residual_action(np.full(3, -5.0), center, 0.5), center / 2)


def test_an_untrained_agent_is_the_plan(tmp_path):
    """The residual of a fresh network is 0: it earns what the rule earns, to rounding."""
    path = train(small(100, learning_rate=1e-30), tmp_path)
    agent = lse.evaluate(str(path), "overload", 5, **FAST)
    rule = lse.evaluate("trunk-reservation", "overload", 5, **FAST)
    assert agent.scores == pytest.approx(rule.scores, abs=1e-12)


def test_checkpoint_is_whole_and_self_contained(checkpoint):
    with zipfile.ZipFile(checkpoint) as archive:
        assert set(archive.namelist()) == {"learner.npz", "weights.npz", "metadata.json"}
        metadata = json.loads(archive.read("metadata.json"))
    assert metadata["configuration"]["instance"]["name"] == "overload"
    assert metadata["normaliser"]["observation"]["count"] > 100
    assert {"torch", "stable-baselines3", "llm-sched-env"} <= set(metadata["versions"])
    saved = Checkpoint.load(checkpoint)
    assert saved.steps == 300
    assert saved.curve[-1]["steps"] <= 300
    assert saved.configuration == small()


def test_raw_returns_are_logged_not_normalised_ones(checkpoint):
    scores = [row["score"] for row in Checkpoint.load(checkpoint).curve]
    assert all(0.3 < score < 1.5 for score in scores)


def test_evaluation_of_a_checkpoint_is_reproducible_at_any_size(checkpoint):
    for n_gpus in (5, 11):
        a = lse.evaluate(str(checkpoint), "overload", n_gpus, **FAST)
        b = lse.evaluate(load_policy(checkpoint), "overload", n_gpus, **FAST)
        assert a.scores == b.scores
        assert a.score.mean > 0.5


def test_same_seed_same_agent(tmp_path, checkpoint):
    again = Checkpoint.load(train(small(), tmp_path))
    first = Checkpoint.load(checkpoint)
    assert again.normaliser == first.normaliser
    assert [row["score"] for row in again.curve] == [row["score"] for row in first.curve]


@pytest.mark.extended
def test_a_run_resumes_with_its_own_settings_and_normaliser(tmp_path):
    train(small(200), tmp_path)
    before = Checkpoint.load(tmp_path / "agent.zip")
    train(small(500, learning_rate=0.5), tmp_path, resume=True)
    after = Checkpoint.load(tmp_path / "agent.zip")
    assert after.steps == 500
    assert after.configuration.learning_rate == before.configuration.learning_rate
    observed = [c.normaliser["observation"]["count"] for c in (before, after)]
    assert observed[1] > observed[0] + 250
    assert after.curve[: len(before.curve)] == before.curve
    assert after.seconds > before.seconds


def test_wrong_number_of_classes_is_one_clear_line(checkpoint):
    with pytest.raises(CheckpointError, match="8 classes") as caught:
        lse.evaluate(str(checkpoint), "dolly15k", 5, **FAST)
    assert "\n" not in str(caught.value)


def test_a_comparison_checks_every_agent_before_it_runs(checkpoint):
    from llm_sched_env.evaluation.comparison import ComparedWorkload, Competitor, compare

    agent = Competitor("ppo", load_policy(checkpoint))
    done = []
    with pytest.raises(CheckpointError, match="8 classes"):
        compare(
            [ComparedWorkload("overload", 5), ComparedWorkload("dolly15k", 5)],
            [agent],
            on_result=done.append,
        )
    assert done == []


def test_files_that_are_no_checkpoints(tmp_path, checkpoint):
    text = tmp_path / "text.zip"
    text.write_text("hello")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(checkpoint.read_bytes()[:1000])
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("something", "else")
    for path in (text, cut, other, tmp_path / "missing.zip"):
        with pytest.raises(CheckpointError, match="checkpoint") as caught:
            load_policy(path)
        assert "\n" not in str(caught.value)


def test_bad_configurations():
    for wrong in ({"epochs": 0}, {"half_life": 0.0}, {"pricing": "free"}, {"seed": -1}):
        with pytest.raises(ConfigurationError):
            small(**wrong)
    with pytest.raises(ConfigurationError, match="unknown_knob"):
        TrainingConfiguration.from_dict({**small().to_dict(), "unknown_knob": 1})


def test_time_limits_are_bootstrapped():
    """Truncated episodes carry the terminal observation through every wrapper."""
    venv = make_environment(small())
    venv.seed(0)
    venv.reset()
    for _ in range(50):
        _, _, dones, infos = venv.step(np.zeros((4, *venv.action_space.shape), np.float32))
    assert dones.all()
    for info in infos:
        assert info["TimeLimit.truncated"]
        assert info["terminal_observation"].shape == (16,)
        assert 0.2 < info["episode"]["r"] / info["episode"]["l"] < 1.5


def test_a_time_limit_is_worth_what_the_critic_says():
    """With a critic that always says v, a truncated step earns reward + discount * v."""
    configuration = small(rollout_steps=60)
    venv = make_environment(configuration)
    venv.seed(0)
    model = make_model(configuration, venv, Path())
    with torch.no_grad():
        for weights in model.policy.value_net.parameters():
            weights.zero_()
        model.policy.value_net.bias.fill_(7.0)
    seen = RewardsSeen()
    model.learn(240, callback=seen)
    expected = np.array(seen.rewards)
    assert [np.flatnonzero(row).tolist() for row in np.array(seen.ended).T] == [[49]] * 4
    expected[49] += configuration.discount * 7.0
    np.testing.assert_allclose(model.rollout_buffer.rewards, expected, rtol=1e-5)


class RewardsSeen(BaseCallback):
    """Rewards and ends of episodes as the environment gives them."""

    def __init__(self):
        super().__init__()
        self.rewards, self.ended = [], []

    def _on_step(self):
        self.rewards.append(self.locals["rewards"].copy())
        self.ended.append(self.locals["dones"].copy())
        return True


@pytest.mark.extended
def test_a_killed_run_goes_on_where_it_was_saved(tmp_path):
    """kill -9 in the middle: the curves have no gap, and the steps add up."""
    endless = small(10_000_000, checkpoint_every=1)
    program = (
        "import json, sys; from pathlib import Path\n"
        "from llm_sched_env.agents.configuration import TrainingConfiguration\n"
        "from llm_sched_env.agents.ppo import train\n"
        "train(TrainingConfiguration.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", program, json.dumps(endless.to_dict()), str(tmp_path)]
    path = tmp_path / "agent.zip"
    with subprocess.Popen(command) as process:
        while process.poll() is None and not (path.exists() and Checkpoint.load(path).steps >= 500):
            time.sleep(0.05)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    killed = Checkpoint.load(path)
    assert killed.steps >= 500
    assert [row["steps"] for row in killed.curve] == list(range(100, killed.steps + 1, 100))[1:]

    train(small(killed.steps + 300), tmp_path, resume=True)
    resumed = Checkpoint.load(path)
    assert resumed.steps == killed.steps + 300
    # An episode takes 200 steps: until the first ends there is nothing to log.
    first_part = [row["steps"] for row in killed.curve]
    assert [row["steps"] for row in resumed.curve][: len(first_part)] == first_part
    assert [row["steps"] for row in resumed.curve][-1] == resumed.steps
    assert resumed.evaluations[: len(killed.evaluations)] == killed.evaluations
    evaluated = [row["steps"] for row in resumed.evaluations]
    assert evaluated[: len(range(0, killed.steps + 1, 200))] == list(
        range(0, killed.steps + 1, 200)
    )
    assert evaluated[-1] == resumed.steps
    assert resumed.seconds > killed.seconds


def test_an_exported_agent_acts_alike_and_cannot_learn_on(tmp_path, checkpoint):
    whole = Checkpoint.load(checkpoint)
    path = tmp_path / "agent.zip"
    whole.exported().save(path)
    assert path.stat().st_size < 50_000
    results = [lse.evaluate(str(p), "overload", 5, **FAST).scores for p in (checkpoint, path)]
    assert results[0] == results[1]
    with pytest.raises(CheckpointError, match="optimiser"):
        train(small(400), tmp_path, resume=True)


@pytest.mark.extended
def test_an_agent_that_gets_worse_keeps_its_best_weights(tmp_path):
    """A learning rate that breaks the network: what was evaluated best, the rule, is kept."""
    path = train(small(400, learning_rate=1.0), tmp_path)
    saved = Checkpoint.load(path)
    best = max(saved.evaluations, key=lambda row: row["score"])
    assert saved.weights_steps == best["steps"] == 0
    assert saved.evaluations[-1]["minus trunk-reservation"] < -0.01
    rule = lse.evaluate("trunk-reservation", "overload", 5, **FAST)
    kept = lse.evaluate(str(path), "overload", 5, **FAST)
    assert kept.scores == pytest.approx(rule.scores, abs=1e-12)


@pytest.mark.extended
@pytest.mark.slow
def test_training_improves_a_bad_start(tmp_path):
    """Raw admission with a wide start learns to earn more than it began with."""
    configuration = TrainingConfiguration(
        lse.presets.overload().to_dict(),
        n_gpus=5,
        total_steps=40_000,
        initial_log_std=0.0,
        n_envs=16,
        rollout_steps=50,
        batch_size=400,
        horizon=100.0,
    )
    curve = Checkpoint.load(train(configuration, tmp_path)).curve
    first = np.mean([row["score"] for row in curve[:3]])
    last = np.mean([row["score"] for row in curve[-3:]])
    assert last > first + 0.02
