"""Per-class network: one set of weights serves any number of classes.

Each class is seen as its own features, its parameters and the cluster's features; what all classes
look like enters through a mean. Renaming classes renames the actions and changes nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.observation import CLASS_FEATURES, CLUSTER_FEATURES
from llm_sched_env.planning import FluidPlan

_N_FEATURES, _N_CLUSTER = len(CLASS_FEATURES), len(CLUSTER_FEATURES)


def class_parameters(run: IntervalConfiguration, fluid_plan: FluidPlan) -> np.ndarray:
    """What a network is told about each class, all of the order of 1; shape (I, S).

    Decimal logarithms of mean tokens per thousand, prefills per GPU that the arrivals amount to,
    patience rate per 0.1/s, admitted share, and the plan's controls.
    """
    instance = run.cluster.instance
    columns = [
        np.log10(instance.prompt_tokens / 1000.0),
        np.log10(instance.output_tokens / 1000.0),
        instance.arrival_rates / instance.prefill_rates,
        instance.patience_rates / 0.1,
        fluid_plan.admission_fraction,
        *run.plan_action(fluid_plan).reshape(-1, instance.n_classes),
    ]
    return np.stack(columns, axis=1)


class ClassPooledMoments(RunningMeanStd):
    """Running moments of observations, the same for a feature in every class.

    Args:
        n_classes: I.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__(shape=(_N_FEATURES * n_classes + _N_CLUSTER,))
        self._n_classes = n_classes

    def update(self, arr: np.ndarray) -> None:
        """Count a batch of observations, shape (N, 6 I + 4)."""
        split = _N_FEATURES * self._n_classes
        classes = arr[:, :split].reshape(len(arr), _N_FEATURES, self._n_classes)
        cluster = arr[:, split:]
        mean = [np.repeat(classes.mean(axis=(0, 2)), self._n_classes), cluster.mean(axis=0)]
        var = [np.repeat(classes.var(axis=(0, 2)), self._n_classes), cluster.var(axis=0)]
        self.update_from_moments(np.concatenate(mean), np.concatenate(var), len(arr))


def moments_for(moments: np.ndarray, n_classes: int) -> np.ndarray:
    """Pooled moments, shape (6 J + 4,), for I classes instead of J."""
    features = moments[:-_N_CLUSTER].reshape(_N_FEATURES, -1)[:, 0]
    return np.concatenate([np.repeat(features, n_classes), moments[-_N_CLUSTER:]])


class PerClassPolicy(ActorCriticPolicy):
    """PPO's networks, shared by the classes.

    Args:
        observation_space: of ``LLMSched-v0``.
        action_space: some of the controls that each class has, one part after the other.
        lr_schedule: as SB3 has it.
        class_parameters: see :func:`class_parameters`; not among the weights.
        width: units of a hidden layer.
        **kwargs: of :class:`ActorCriticPolicy`.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *,
        class_parameters: list[list[float]],
        width: int,
        **kwargs: Any,
    ) -> None:
        self._parameters_of_classes = class_parameters
        self._width = width
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    # What stands for SB3's extractor, with its interface.
    mlp_extractor: Any

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = _ClassBodies(self._parameters_of_classes, self._width)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        parts = get_action_dim(self.action_space) // len(self._parameters_of_classes)
        self.action_net = _ClassHead(self._width, parts)
        self.log_std = nn.Parameter(torch.full((parts,), float(self.log_std_init)))
        make_optimizer: Any = self.optimizer_class
        self.optimizer = make_optimizer(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Distribution:
        spread = self.log_std.repeat_interleave(len(self._parameters_of_classes))
        return self.action_dist.proba_distribution(self.action_net(latent_pi), spread)


class _ClassBodies(nn.Module):
    """Observations, shape (N, 6 I + 4), to a latent per class and one for the value."""

    table: torch.Tensor

    def __init__(self, parameters: list[list[float]], width: int) -> None:
        super().__init__()
        table = torch.tensor(parameters, dtype=torch.float32)
        self.register_buffer("table", table, persistent=False)
        size = _N_FEATURES + table.shape[1] + _N_CLUSTER
        self.actor = _SharedBody(size, width)
        self.critic = _SharedBody(size, width)
        self.latent_dim_pi = width * len(parameters)
        self.latent_dim_vf = width

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents of the actor, (N, I * width), and of the critic, (N, width)."""
        return self.forward_actor(observations), self.forward_critic(observations)

    def forward_actor(self, observations: torch.Tensor) -> torch.Tensor:
        """Class after class."""
        latent: torch.Tensor = self.actor(self._by_class(observations)).flatten(1)
        return latent

    def forward_critic(self, observations: torch.Tensor) -> torch.Tensor:
        """The mean over classes."""
        latent: torch.Tensor = self.critic(self._by_class(observations)).mean(dim=1)
        return latent

    def _by_class(self, observations: torch.Tensor) -> torch.Tensor:
        """Inputs of each class, shape (N, I, 6 + S + 4)."""
        n, n_classes = len(observations), len(self.table)
        features = observations[:, :-_N_CLUSTER].reshape(n, _N_FEATURES, n_classes)
        return torch.cat(
            [
                features.transpose(1, 2),
                self.table.expand(n, -1, -1),
                observations[:, None, -_N_CLUSTER:].expand(-1, n_classes, -1),
            ],
            dim=2,
        )


class _SharedBody(nn.Module):
    """Two layers per class, the second of which also sees the mean of the first."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.own = nn.Linear(size, width)
        self.joint = nn.Linear(2 * width, width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Shape (N, I, size) to (N, I, width)."""
        own = torch.tanh(self.own(inputs))
        pooled = own.mean(dim=1, keepdim=True).expand_as(own)
        return torch.tanh(self.joint(torch.cat([own, pooled], dim=2)))


class _ClassHead(nn.Module):
    """Latents, (N, I * width), to mean actions, part after part, (N, parts * I)."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self._width = width
        self.linear = nn.Linear(width, parts)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        by_class = self.linear(latent.reshape(len(latent), -1, self._width))
        actions: torch.Tensor = by_class.transpose(1, 2).flatten(1)
        return actions
