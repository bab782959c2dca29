"""Agents that are trained on registered tasks, in their own environments."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("torch")

from llm_sched_env.agents.checkpoint import Checkpoint
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.environments import make_environment
from llm_sched_env.agents.ppo import train
from llm_sched_env.agents.task_training import PLAN, TaskEvaluation, task_configuration
from llm_sched_env.agents.trained_policy import TrainedPolicy
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.tasks import evaluate_task, task

SMALL = {
    "total_steps": 200,
    "n_envs": 4,
    "rollout_steps": 25,
    "batch_size": 50,
    "evaluation_every": 1,
    "checkpoint_every": 1,
}


class Plan:
    """The center of the residual actions, in every cluster."""

    def __init__(self, controls: np.ndarray) -> None:
        self.controls = controls

    def begin(self, n_clusters: int) -> None:
        self.n = n_clusters

    def act(self, observations: np.ndarray) -> np.ndarray:
        return np.tile(self.controls, (self.n, 1))


@pytest.mark.parametrize("name", ["Overload5", "Deadlines", "HiddenHardware"])
def test_an_environment_is_that_of_its_task(name: str) -> None:
    configuration = task_configuration(name, "ppo", **SMALL)
    venv = make_environment(configuration)
    envs = venv.unwrapped.vector_env
    given = envs.control.configuration
    assert given.horizon == 300.0
    for key, value in task(name).meaning.items():
        if key != "control":
            assert getattr(given, key) == value, key
            assert configuration.environment.get(key, False) in (value, list(np.ravel(value)))
    assert given.revenue == task(name).revenue
    venv.close()


def test_the_plan_is_its_own_reference() -> None:
    configuration = task_configuration("Bursts", "ppo-residual", **SMALL)
    evaluation = TaskEvaluation(configuration, seed=3, runs=4)
    row = evaluation.row(Plan(evaluation._envs.control.plan_action))
    assert row[f"minus {PLAN}"] == 0.0
    assert 0.3 < row["score"] < 1.2
    again = TaskEvaluation(configuration, seed=3, runs=4)
    other = TaskEvaluation(configuration, seed=4, runs=4)
    scores = [e.scores(Plan(e._envs.control.plan_action)).tolist() for e in (again, other)]
    assert np.mean(scores[0]) == row["score"]
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("DelayedObservations", "ppo-residual"),
        pytest.param("HiddenHardware", "recurrent", marks=pytest.mark.extended),
        pytest.param("Bursts", "sac", marks=pytest.mark.extended),
    ],
)
def test_an_agent_is_trained_kept_and_measured_on_its_task(name, variant, tmp_path) -> None:
    configuration = task_configuration(name, variant, **SMALL)
    path = train(configuration, tmp_path)
    saved = Checkpoint.load(path)
    assert saved.configuration == configuration
    assert saved.evaluations[0]["steps"] == 0.0
    assert saved.held_out["score"] > 0.1
    label, policy = resolve_policy(str(path))
    assert isinstance(policy, TrainedPolicy)
    assert policy.environment["gate"] == "net-value"
    assert policy.environment.get("drop_late", False) == task(name).settings.get("drop_late", False)
    result = evaluate_task(name, str(path), replications=1)
    assert 0.2 < result.share.mean < 1.1
    assert result.policy == label


def test_what_cannot_be_trained_is_one_line() -> None:
    with pytest.raises(ConfigurationError, match="task: got 'SessionRouting', expected Overload5"):
        task_configuration("SessionRouting", "ppo")
    with pytest.raises(ConfigurationError, match="task"):
        task_configuration("Nothing", "ppo")
    with pytest.raises(ConfigurationError, match="variant"):
        task_configuration("Bursts", "dqn")
    with pytest.raises(ConfigurationError, match="task"):
        task_configuration("Bursts", "group-relative")
    with pytest.raises(ConfigurationError, match="drop_late"):
        TrainingConfiguration({}, drop_late=1)
