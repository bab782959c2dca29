"""Train on a registered task: its configuration, and evaluations in its own environment.

What is held out is never seen: weights are chosen on episodes of the environment, where a trace
shows its first half only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.controller import Controller
from llm_sched_env.agents.training_evaluation import PairedEvaluation, Row, row_of_scores
from llm_sched_env.agents.training_variants import variant as named_variant
from llm_sched_env.errors import ConfigurationError, one_of
from llm_sched_env.presets import resolve_instance
from llm_sched_env.tasks.environments import make_vector_task
from llm_sched_env.tasks.suite import TASKS, task
from llm_sched_env.tasks.task import INTERVAL

PLAN = "plan"
"""The reference: the plan's constant action, trunk reservation's where the gate is net-value."""
_EPISODES_PER_SEED = 1_000
_SETTINGS = (
    *("n_gpus", "gate", "router", "pools", "controls", "drop_late"),
    *("interval", "horizon", "start", "pricing"),
)


def task_configuration(name: str, variant: str, **more: Any) -> TrainingConfiguration:
    """The configuration of a training on a task.

    Args:
        name: of the task, whose step is an interval.
        variant: of ``training_variants``; what its actions mean is the task's.
        **more: other fields.

    Raises:
        ConfigurationError: for a task without intervals, or an unknown name.

    Example:
        >>> configuration = task_configuration("Bursts", "ppo")
        >>> configuration.task, configuration.n_gpus, configuration.center
        ('Bursts', 5, 'middle')
    """
    chosen = task(name)
    if chosen.environment != INTERVAL:
        at_intervals = [own.name for own in TASKS.values() if own.environment == INTERVAL]
        raise ConfigurationError("task", name, one_of(at_intervals))
    arguments = chosen.arguments()
    settings = {key: arguments[key] for key in _SETTINGS if key in arguments}
    settings["controls"] = tuple(settings["controls"])
    return named_variant(variant).configuration(
        resolve_instance(arguments.get("instance", "base")).to_dict(),
        **{**settings, "task": chosen.name, "references": (PLAN,), **more},
    )


class TaskEvaluation:
    """Episodes of a task under an agent, and under the plan on the same requests.

    Args:
        configuration: of the training.
        seed: of the episodes.
        runs: how many; default: ``configuration.evaluation_runs``.
    """

    def __init__(
        self, configuration: TrainingConfiguration, seed: int, runs: int | None = None
    ) -> None:
        runs = runs or configuration.evaluation_runs
        self._envs = make_vector_task(configuration.task, runs, AutoresetMode.DISABLED)
        self._seeds = [seed * _EPISODES_PER_SEED + k for k in range(runs)]
        self.plan = self._envs.plan
        self._references: dict[str, np.ndarray] = {}

    def row(self, controller: Controller) -> Row:
        """The agent's score and its difference to the plan; see :class:`.PairedEvaluation`."""
        if not self._references:
            control: Any = self._envs.control
            constant = np.tile(control.plan_action, (self._envs.num_envs, 1))
            self._references = {PLAN: self._scores(lambda _: constant)}
        return row_of_scores(self.scores(controller), self._references)

    def scores(self, controller: Controller) -> np.ndarray:
        """The agent's mean reward in each episode, shape (K,)."""
        controller.begin(self._envs.num_envs)
        return self._scores(controller.act)

    def _scores(self, act: Any) -> np.ndarray:
        observations, _ = self._envs.reset(seed=self._seeds)
        total, steps = np.zeros(self._envs.num_envs), 0
        ended = np.zeros(self._envs.num_envs, np.bool_)
        # Episodes at intervals are equally long.
        while not ended.all():
            observations, rewards, _, ended, _ = self._envs.step(act(observations))
            total += rewards
            steps += 1
        return total / steps


def evaluation_of(
    configuration: TrainingConfiguration, seed: int, runs: int | None = None
) -> PairedEvaluation | TaskEvaluation:
    """What evaluates a training: in its task, or on an instance.

    Args:
        configuration: of the training.
        seed: of the runs.
        runs: how many.
    """
    kind = TaskEvaluation if configuration.task else PairedEvaluation
    return kind(configuration, seed, runs)
