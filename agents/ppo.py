"""Train PPO on interval control: read from top to bottom.

llmsched train --instance overload --gpus 20 --steps 250000 --out runs/overload
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from llm_sched_env.agents.checkpoint import (
    Checkpoint,
    normaliser_statistics,
    package_versions,
    restore_normaliser,
)
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.residual_actions import ResidualActions
from llm_sched_env.envs.sb3 import LLMSchedSB3VecEnv

CHECKPOINT_NAME = "agent.zip"


def make_environment(configuration: TrainingConfiguration) -> VecNormalize:
    """Native vector environment -> raw returns recorded -> plan residual -> normalised."""
    native = LLMSchedSB3VecEnv(
        configuration.n_envs,
        n_gpus=configuration.n_gpus,
        instance=configuration.instance,
        pricing=configuration.pricing,
        horizon=configuration.horizon,
        start=configuration.start,
        **configuration.environment,
    )
    center = native.vector_env.control.plan_action
    residual = ResidualActions(VecMonitor(native), center, configuration.residual_scale)
    return VecNormalize(residual, gamma=configuration.discount)


def make_model(configuration: TrainingConfiguration, venv: VecNormalize, out: Path) -> PPO:
    """PPO whose initial mean action is the fluid plan."""
    return PPO(
        "MlpPolicy",
        venv,
        n_steps=configuration.rollout_steps,
        batch_size=configuration.batch_size,
        n_epochs=configuration.epochs,
        learning_rate=configuration.learning_rate,
        gamma=configuration.discount,
        gae_lambda=configuration.gae_lambda,
        clip_range=configuration.clip_range,
        ent_coef=configuration.entropy_coefficient,
        policy_kwargs={
            "net_arch": list(configuration.hidden_units),
            "log_std_init": configuration.initial_log_std,
        },
        tensorboard_log=str(out / "tensorboard") if configuration.tensorboard else None,
        seed=configuration.seed,
        device="cpu",
    )


def train(
    configuration: TrainingConfiguration,
    out: Path,
    *,
    resume: bool = False,
    on_update: Callable[[dict[str, float]], None] | None = None,
) -> Path:
    """Train an agent and write ``out/agent.zip``.

    Args:
        configuration: all knobs; a resumed run keeps its own and takes ``total_steps`` only.
        out: folder of the run.
        resume: continue from ``out/agent.zip``; the environments start new episodes.
        on_update: called after each update with steps, seconds and the raw score of the
            episodes that ended lately.

    Returns:
        The path of the checkpoint.
    """
    torch.set_num_threads(1)  # small networks: more threads only wait for each other
    out.mkdir(parents=True, exist_ok=True)
    path = out / CHECKPOINT_NAME
    history = _History()
    steps_done = 0
    if resume:
        saved = Checkpoint.load(path)
        wanted = configuration.total_steps
        configuration = TrainingConfiguration.from_dict(
            {**saved.configuration.to_dict(), "total_steps": wanted}
        )
        history = _History(saved.seconds, saved.curve)
        steps_done = saved.steps
    venv = make_environment(configuration)
    # A resumed run must not replay the episodes of its first part.
    venv.seed(configuration.seed + steps_done)
    if resume:
        restore_normaliser(venv, saved.normaliser)
        model = PPO.load(io.BytesIO(saved.model), env=venv, device="cpu")
    else:
        model = make_model(configuration, venv, out)
    callback = _SaveAndReport(configuration, venv, path, history, on_update)
    remaining = configuration.total_steps - steps_done
    if remaining > 0:
        model.learn(remaining, callback=callback, reset_num_timesteps=not resume)
    callback.save(model)
    venv.close()
    return path


@dataclass
class _History:
    """Training time and curve, over all parts of a resumed run."""

    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


class _SaveAndReport(BaseCallback):
    """After each update: log the raw score; now and then save the checkpoint."""

    def __init__(
        self,
        configuration: TrainingConfiguration,
        venv: VecNormalize,
        path: Path,
        history: _History,
        on_update: Callable[[dict[str, float]], None] | None,
    ) -> None:
        super().__init__()
        self._configuration = configuration
        self._venv = venv
        self._path = path
        self._history = history
        self._on_update = on_update
        self._earlier_seconds = history.seconds
        self._started = time.perf_counter()
        self._updates = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._updates += 1
        self._history.seconds = self._earlier_seconds + time.perf_counter() - self._started
        buffer = self.model.ep_info_buffer
        returns = [episode["r"] / episode["l"] for episode in buffer] if buffer else []
        row = {
            "steps": float(self.model.num_timesteps),
            "seconds": self._history.seconds,
            "score": float(np.mean(returns)) if returns else float("nan"),
        }
        if returns:
            self._history.curve.append(row)
            self.logger.record("rollout/raw_score", row["score"])
        if self._on_update is not None:
            self._on_update(row)
        # The weights at this moment are those that produced the rollout.
        if self._updates % self._configuration.checkpoint_every == 0:
            self.save(self.model)

    def save(self, model: BaseAlgorithm) -> None:
        """Write the checkpoint."""
        buffer = io.BytesIO()
        model.save(buffer)
        self._history.seconds = self._earlier_seconds + time.perf_counter() - self._started
        Checkpoint(
            model=buffer.getvalue(),
            configuration=self._configuration,
            normaliser=normaliser_statistics(self._venv),
            steps=model.num_timesteps,
            seconds=self._history.seconds,
            curve=self._history.curve,
            versions=package_versions(),
        ).save(self._path)
