"""Train an agent. Read this file from top to bottom.

llmsched train --instance overload --gpus 20 --steps 250000 --out runs/overload
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from llm_sched_env.agents.algorithms import keeps_replay, make_model
from llm_sched_env.agents.checkpoint import Checkpoint, Row
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.environments import make_environment, normaliser_of
from llm_sched_env.agents.imitation import clone
from llm_sched_env.agents.lagrangian import lagrangian_of
from llm_sched_env.agents.learner import restore_learner, restore_replay
from llm_sched_env.agents.normaliser import restore_normaliser
from llm_sched_env.agents.resumption import (
    begin_episode,
    episodes_begun,
    restore_random_states,
)
from llm_sched_env.agents.task_training import evaluation_of
from llm_sched_env.agents.trained_policy import TrainedPolicy
from llm_sched_env.agents.training_evaluation import HELD_OUT_SEED
from llm_sched_env.agents.training_record import REPLAY_NAME, EvaluateReportSave, TrainingRecord
from llm_sched_env.errors import CheckpointError
from llm_sched_env.files.atomic import make_folder

CHECKPOINT_NAME = "agent.zip"


def train(
    configuration: TrainingConfiguration,
    out: Path,
    *,
    resume: bool = False,
    on_update: Callable[[Row], None] | None = None,
) -> Path:
    """Train an agent and write ``out/agent.zip``, now and then on the way and at the end.

    Args:
        configuration: all knobs; a resumed run keeps its own and takes ``total_steps`` only.
        out: folder of the run.
        resume: continue from ``out/agent.zip``. PPO whose checkpoints fall on ends of episodes, as
            they do by default, ends with the weights of a training without a stop; otherwise the
            environments start new episodes.
        on_update: called after each update with steps, seconds, the raw score of the episodes
            that ended lately, and the last evaluation's ``difference`` to the first reference
            with its ``half_width``.

    Returns:
        The path of the checkpoint.
    """
    torch.set_num_threads(1)  # small networks: more threads only wait for each other
    make_folder(out)
    path = out / CHECKPOINT_NAME
    record, saved = TrainingRecord(), None
    if resume:
        saved = Checkpoint.load(path)
        record = TrainingRecord.of(saved)
        configuration = dataclasses.replace(
            saved.configuration, total_steps=configuration.total_steps
        )
    venv = make_environment(configuration)
    normaliser = normaliser_of(venv)
    # A resumed run must not replay the episodes of its first part.
    steps_done = saved.steps if saved is not None else 0
    venv.seed(configuration.seed + steps_done)
    model = make_model(configuration, venv, out)
    if saved is not None:
        _restore(saved, model, normaliser, out)
        begun = episodes_begun(configuration, saved.learner, saved.steps)
        if begun is not None:
            begin_episode(model, venv, normaliser, configuration.seed, begun)
    elif configuration.imitate:
        clone(model, normaliser, configuration)
    callback = EvaluateReportSave(configuration, normaliser, path, record, on_update)
    remaining = configuration.total_steps - steps_done
    if saved is not None and saved.learner is not None:
        restore_random_states(saved.learner)
    if remaining > 0:
        model.learn(remaining, callback=callback, reset_num_timesteps=saved is None)
    else:
        callback.init_callback(model)
    callback.evaluate()
    callback.save(model)
    venv.close()
    finished = callback.checkpoint(model)
    dataclasses.replace(finished, held_out=held_out(finished)).save(path)
    return path


def _restore(saved: Checkpoint, model: BaseAlgorithm, normaliser: VecNormalize, out: Path) -> None:
    """Put a fresh model and normaliser where the training was."""
    if saved.learner is None or saved.normaliser is None:
        raise CheckpointError(
            f"checkpoint {out / CHECKPOINT_NAME}: got one without its optimiser, cannot resume"
        )
    restore_normaliser(normaliser, saved.normaliser)
    restore_learner(model, saved.learner, saved.steps)
    if (told := lagrangian_of(normaliser)) is not None and saved.curve:
        last = saved.curve[-1]
        told.restore(
            *(
                np.array([last[f"{n} {name}"] for name in told.names])
                for n in ("integral", "multiplier")
            )
        )
    replay = out / REPLAY_NAME
    if keeps_replay(saved.configuration) and replay.exists():
        restore_replay(model, replay)


def held_out(checkpoint: Checkpoint) -> Row:
    """Compare the selected weights with the references, on fresh requests."""
    configuration = checkpoint.configuration
    runs = 2 * configuration.evaluation_runs
    evaluation = evaluation_of(configuration, HELD_OUT_SEED, runs)
    fluid_plan = evaluation.plan
    controller = TrainedPolicy(checkpoint).controller(
        fluid_plan.given, fluid_plan, configuration.n_gpus
    )
    return evaluation.row(controller)
