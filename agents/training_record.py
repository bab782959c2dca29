"""The training callback that evaluates, reports progress and saves checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from llm_sched_env.agents.algorithms import acting_weights, interval_configuration, keeps_replay
from llm_sched_env.agents.checkpoint import Checkpoint, Row, package_versions
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.controller import Controller
from llm_sched_env.agents.lagrangian import lagrangian_of
from llm_sched_env.agents.learner import learner_arrays, save_replay
from llm_sched_env.agents.normaliser import normaliser_statistics, observation_moments
from llm_sched_env.agents.residual_actions import action_center
from llm_sched_env.agents.task_training import evaluation_of
from llm_sched_env.agents.training_evaluation import SELECTION_SEED, difference, rank

REPLAY_NAME = "replay.npz"
_WORST = (-np.inf, -np.inf)


@dataclass
class TrainingRecord:
    """Time, curves and the best weights, over all parts of a resumed run."""

    seconds: float = 0.0
    curve: list[Row] = field(default_factory=list)
    evaluations: list[Row] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    observation: dict[str, Any] = field(default_factory=dict)
    weights_steps: int = 0

    @classmethod
    def of(cls, saved: Checkpoint) -> TrainingRecord:
        """What a checkpoint knows."""
        return cls(
            saved.seconds,
            list(saved.curve),
            list(saved.evaluations),
            saved.weights,
            saved.observation,
            saved.weights_steps,
        )


class EvaluateReportSave(BaseCallback):
    """Between updates: log the raw score; now and then evaluate the policy, and save everything.

    The weights that are kept to act are those of the best evaluation, the untrained ones among
    them, on requests of their own; how good they are is measured on others (``held_out``).
    """

    def __init__(
        self,
        configuration: TrainingConfiguration,
        venv: VecNormalize,
        path: Path,
        record: TrainingRecord,
        on_update: Callable[[Row], None] | None,
    ) -> None:
        super().__init__()
        self.record = record
        self._configuration = configuration
        self._venv = venv
        self._path = path
        self._on_update = on_update
        self._evaluation = evaluation_of(configuration, SELECTION_SEED)
        self._center: np.ndarray | None = None
        if configuration.control == "interval":
            run = interval_configuration(configuration)
            self._center = action_center(configuration, run.plan_action(run.cluster.plan))
        self._earlier_seconds = record.seconds
        self._started = time.perf_counter()
        self._reached = self._logged = -1

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        """The weights have learned from every step so far."""
        if (update := self._update()) == self._reached:
            return
        self._reached = update
        if update % self._configuration.evaluation_every == 0 or not self.record.evaluations:
            self.evaluate()
        if update % self._configuration.checkpoint_every == 0:
            self.save(self.model)

    def _on_rollout_end(self) -> None:
        if (update := self._update()) == self._logged or update == 0:
            return
        self._logged = update
        buffer = self.model.ep_info_buffer
        returns = [episode["r"] / episode["l"] for episode in buffer] if buffer else []
        row = {
            "steps": float(self.model.num_timesteps),
            "seconds": self._seconds(),
            "score": float(np.mean(returns)) if returns else float("nan"),
        }
        if self._configuration.control != "interval":
            # An episode's rewards add up to horizon times score.
            steps = [episode["l"] for episode in buffer] if buffer else []
            row["score"] *= float(np.mean(steps)) / self._configuration.horizon if steps else 1.0
        if (told := lagrangian_of(self._venv)) is not None:
            for k, name in enumerate(told.names):
                row[f"episode cost {name}"] = float(told.last_costs[k])
                row[f"multiplier {name}"] = float(told.values[k])
                row[f"integral {name}"] = float(told.integral[k])
        if returns:
            self.record.curve.append(row)
            self.logger.record("rollout/raw_score", row["score"])
        if self._on_update is not None:
            self._on_update(row | self._last_difference())

    def evaluate(self) -> None:
        """Evaluate the policy as it is, unless that has been done."""
        steps = float(self.model.num_timesteps)
        evaluations = self.record.evaluations
        if evaluations and evaluations[-1]["steps"] == steps:
            return
        moments = observation_moments(self._venv)
        controller = Controller(
            self.model.policy,
            moments["mean"],
            moments["var"],
            frames=self._configuration.frame_stack,
            center=self._center,
            scale=self._configuration.residual_scale,
        )
        row = {"steps": steps} | self._evaluation.row(controller)
        budgets = self._configuration.budgets
        best = max((rank(earlier, budgets) for earlier in evaluations), default=_WORST)
        evaluations.append(row | {"seconds": self._seconds()})
        for reference in self._configuration.references:
            self.logger.record(f"evaluation/minus {reference}", row[f"minus {reference}"])
        if rank(row, budgets) > best:
            self.record.weights = acting_weights(self.model.policy)
            self.record.observation = moments
            self.record.weights_steps = int(steps)

    def checkpoint(self, model: BaseAlgorithm) -> Checkpoint:
        """Everything as it is now."""
        self.record.seconds = self._seconds()
        return Checkpoint(
            weights=self.record.weights,
            observation=self.record.observation,
            weights_steps=self.record.weights_steps,
            configuration=self._configuration,
            steps=model.num_timesteps,
            seconds=self.record.seconds,
            curve=self.record.curve,
            evaluations=self.record.evaluations,
            held_out={},
            versions=package_versions(),
            learner=learner_arrays(model),
            normaliser=normaliser_statistics(self._venv),
        )

    def save(self, model: BaseAlgorithm) -> None:
        """Write the checkpoint, with transitions where they are replayed."""
        if keeps_replay(self._configuration):
            save_replay(model, self._path.with_name(REPLAY_NAME))
        self.checkpoint(model).save(self._path)

    def _update(self) -> int:
        return int(self.model.num_timesteps) // self._configuration.steps_per_update

    def _seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._started

    def _last_difference(self) -> Row:
        """Of the last evaluation, to the first reference."""
        if not self.record.evaluations or not self._configuration.references:
            return {}
        mean, half_width = difference(
            self.record.evaluations[-1], self._configuration.references[0]
        )
        return {"difference": mean, "half_width": half_width}
