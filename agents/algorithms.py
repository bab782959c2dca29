"""Build the learning algorithm and its networks from a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import ARS, TQC, MaskablePPO, RecurrentPPO
from sb3_contrib.ars.policies import ARSPolicy
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.sac.policies import SACPolicy

from llm_sched_env.agents.class_network import PerClassPolicy, class_parameters
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.event_control import EventControl
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.model.instance import Instance


class _CountedARS(ARS):
    """ARS that counts a step of an environment once: it is called back once for each of them."""

    def _trigger_callback(
        self,
        _locals: dict[str, Any],
        _globals: dict[str, Any],
        callback: BaseCallback,
        n_envs: int,  # noqa: ARG002 - the interface of ARS
    ) -> None:
        super()._trigger_callback(_locals, _globals, callback, n_envs=1)


_ALGORITHMS: dict[str, tuple[type[BaseAlgorithm], type[BasePolicy]]] = {
    "ppo": (PPO, ActorCriticPolicy),
    "recurrent-ppo": (RecurrentPPO, RecurrentActorCriticPolicy),
    "maskable-ppo": (MaskablePPO, MaskableActorCriticPolicy),
    "sac": (SAC, SACPolicy),
    "tqc": (TQC, TQCPolicy),
    "ars": (_CountedARS, ARSPolicy),
}
_OFF_POLICY = ("sac", "tqc")
_LSTM_UNITS = 64
# SAC learns its weight of entropy; rewards are of the order of 0.1 after normalisation.
_ENTROPY = "auto_0.01"
# What only learning needs is not shipped with the weights that act.
_LEARNING_ONLY = (
    "critic",
    "value_net",
    "lstm_critic",
    "mlp_extractor.value",
    "mlp_extractor.critic",
)


def make_model(configuration: TrainingConfiguration, venv: VecEnv, out: Path) -> BaseAlgorithm:
    """A fresh model; around the plan its first mean action is the plan, exactly."""
    algorithm, policy = _ALGORITHMS[configuration.algorithm]
    if configuration.network == "per-class":
        policy = PerClassPolicy
    model = algorithm(
        policy,
        venv,
        learning_rate=configuration.learning_rate,
        policy_kwargs=network_arguments(configuration),
        tensorboard_log=str(out / "tensorboard") if configuration.tensorboard else None,
        seed=configuration.seed,
        device="cpu",
        **_learning_arguments(configuration),
    )
    if configuration.center == "plan" and configuration.control == "interval":
        _start_at_the_center(model.policy, configuration.initial_log_std)
    return model


def keeps_replay(configuration: TrainingConfiguration) -> bool:
    """Whether transitions are saved with the weights."""
    return configuration.algorithm in _OFF_POLICY


def acting_weights(policy: BasePolicy) -> dict[str, np.ndarray]:
    """The weights that choose actions, by name."""
    return {
        name: value.detach().cpu().numpy().copy()
        for name, value in policy.state_dict().items()
        if not name.startswith(_LEARNING_ONLY)
    }


def acting_policy(
    configuration: TrainingConfiguration,
    weights: dict[str, np.ndarray],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    class_table: np.ndarray | None = None,
) -> BasePolicy:
    """A policy with these weights; it acts and cannot learn on.

    Args:
        configuration: what was trained.
        weights: see :func:`acting_weights`.
        observation_space: that the network sees.
        action_space: of its actions.
        class_table: parameters of the classes to serve; default: of those trained on.

    Raises:
        ValueError: for weights that are not of such a policy.
    """
    _, policy_class = _ALGORITHMS[configuration.algorithm]
    if configuration.network == "per-class":
        policy_class = PerClassPolicy
    arguments = network_arguments(configuration, class_table)
    if configuration.algorithm != "ars":
        arguments["lr_schedule"] = _no_learning
    policy = policy_class(observation_space, action_space, **arguments)
    tensors = {name: torch.as_tensor(value) for name, value in weights.items()}
    try:
        missing, unexpected = policy.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    lacking = [name for name in missing if not name.startswith(_LEARNING_ONLY)]
    if lacking or unexpected:
        raise ValueError(f"weights lack {lacking} and have {unexpected}")
    return policy


def network_arguments(
    configuration: TrainingConfiguration, class_table: np.ndarray | None = None
) -> dict[str, Any]:
    """Keyword arguments of the policy class."""
    units = list(configuration.hidden_units)
    if configuration.network == "per-class":
        if class_table is None:
            run = interval_configuration(configuration)
            class_table = class_parameters(run, run.cluster.plan)
        return {
            "class_parameters": class_table.tolist(),
            "width": units[0],
            "log_std_init": configuration.initial_log_std,
        }
    if configuration.algorithm == "maskable-ppo" or configuration.algorithm in _OFF_POLICY:
        return {"net_arch": units}
    if configuration.algorithm == "ars":
        return {"net_arch": units, "squash_output": False}
    arguments: dict[str, Any] = {
        "net_arch": units,
        "log_std_init": configuration.initial_log_std,
    }
    if configuration.algorithm == "recurrent-ppo":
        arguments["lstm_hidden_size"] = _LSTM_UNITS
    return arguments


def interval_configuration(
    configuration: TrainingConfiguration,
    instance: Instance | None = None,
    n_gpus: int | None = None,
    horizon: float | None = None,
) -> IntervalConfiguration:
    """The environment of a training, from the empty cluster, for an instance and a size."""
    return IntervalConfiguration.validated(
        instance=instance or configuration.instance,
        n_gpus=n_gpus or configuration.n_gpus,
        pricing=configuration.pricing,
        horizon=horizon or configuration.evaluation_horizon,
        **configuration.environment,
    )


def event_configuration(
    configuration: TrainingConfiguration, horizon: float | None = None
) -> EventConfiguration:
    """The environment of a training under event control, from the empty cluster."""
    return EventConfiguration.validated(
        instance=configuration.instance,
        n_gpus=configuration.n_gpus,
        pricing=configuration.pricing,
        horizon=horizon or configuration.evaluation_horizon,
        **configuration.environment,
    )


def routing_configuration(
    configuration: TrainingConfiguration, horizon: float | None = None
) -> RoutingConfiguration:
    """The environment of a training that routes arrivals, from the empty cluster."""
    return RoutingConfiguration.validated(
        instance=configuration.instance,
        n_gpus=configuration.n_gpus,
        pricing=configuration.pricing,
        horizon=horizon or configuration.evaluation_horizon,
        **configuration.environment,
    )


def decision_control(
    configuration: TrainingConfiguration, n_clusters: int, horizon: float | None = None
) -> EventControl | RoutingControl:
    """N clusters of a training whose agent decides request by request."""
    if configuration.control == "event":
        return EventControl(event_configuration(configuration, horizon), n_clusters)
    return RoutingControl(routing_configuration(configuration, horizon), n_clusters)


def _learning_arguments(configuration: TrainingConfiguration) -> dict[str, Any]:
    if configuration.algorithm == "ars":
        episodes = configuration.n_envs
        return {"n_delta": 4, "n_eval_episodes": episodes, "delta_std": 0.02}
    if configuration.algorithm in _OFF_POLICY:
        return {
            "buffer_size": configuration.buffer_steps,
            "batch_size": 256,
            "gamma": configuration.discount,
            "train_freq": 1,
            "gradient_steps": configuration.gradient_steps,
            "learning_starts": configuration.steps_per_update,
            "ent_coef": _ENTROPY,
        }
    return {
        "n_steps": configuration.rollout_steps,
        "batch_size": configuration.batch_size,
        "n_epochs": configuration.epochs,
        "gamma": configuration.discount,
        "gae_lambda": configuration.gae_lambda,
        "clip_range": configuration.clip_range,
        "ent_coef": configuration.entropy_coefficient,
    }


def _start_at_the_center(policy: BasePolicy, log_std: float) -> None:
    """Zero the layer that gives the mean action; ARS starts there by itself."""
    constants: list[tuple[Any, float]] = []
    if isinstance(policy, ActorCriticPolicy):
        constants = [(policy.action_net, 0.0)]
    elif isinstance(policy, (SACPolicy, TQCPolicy)):
        constants = [(policy.actor.mu, 0.0), (policy.actor.log_std, log_std)]
    with torch.no_grad():
        for layer, constant in constants:
            for name, weights in layer.named_parameters():
                weights.fill_(constant if name.endswith("bias") else 0.0)


def _no_learning(_: float) -> float:
    """A learning rate of 0."""
    return 0.0
