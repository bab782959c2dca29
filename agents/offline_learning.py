"""Learning from recorded episodes alone: behaviour cloning, and implicit Q-learning.

Read this file from top to bottom. Data are those of ``llmsched dataset``; nothing is simulated.
Implicit Q-learning is that of Kostrikov, Nair and Levine (ICLR 2022): V is the upper expectile of
Q over the actions of the data, Q is fitted to rewards and V, and the policy clones what is better
than V. No value of an action that is not in the data is ever asked for.

    data = read_transitions(minari.load_dataset("llmsched/overload/random-v0"))
    policy = learn(data, OfflineConfiguration(method="iql"))
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import one_hot

from llm_sched_env.errors import ConfigurationError, checked_integer, is_finite_number, one_of
from llm_sched_env.model.instance import Instance
from llm_sched_env.offline.behaviour import CONTROL_BY_TASK
from llm_sched_env.planning import FluidPlan

METHODS = ("bc", "iql")
_MEANING = {
    "interval": ("gate", "router", "pools", "controls", "interval"),
    "event": ("router", "pools", "wake_interval"),
    "routing": ("candidates", "load", "scheduler", "refresh_seconds"),
}
_GREATEST_WEIGHT = 100.0


@dataclass(frozen=True)
class OfflineConfiguration:
    """All knobs of a training on recorded data.

    Example:
        >>> OfflineConfiguration(method="bc").steps
        5000
    """

    method: str = "iql"
    steps: int = 5_000  # gradient steps
    batch_size: int = 256
    hidden_units: int = 64  # of each of two layers
    learning_rate: float = 1e-3
    half_life: float = 20.0  # seconds after which revenue counts half, as in PPO's trainings
    expectile: float = 0.7  # of V; 0.5 is the mean
    temperature: float = 3.0  # 0: IQL clones everything
    target_rate: float = 0.005  # per step, of Q's slow copy
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigurationError("method", self.method, one_of(METHODS))
        for name in ("steps", "batch_size", "hidden_units"):
            checked_integer(name, getattr(self, name))
        for name in ("learning_rate", "half_life", "expectile", "target_rate"):
            if not is_finite_number(getattr(self, name), positive=True):
                raise ConfigurationError(name, getattr(self, name), "a finite number > 0")
        if self.expectile >= 1 or self.target_rate > 1 or not is_finite_number(self.temperature):
            raise ConfigurationError("expectile", self.expectile, "a number between 0 and 1")
        checked_integer("seed", self.seed, least=0)


@dataclass(frozen=True)
class Transitions:
    """Steps of all episodes, one below the other.

    Attributes:
        observations: float32, shape (K, F).
        actions: float32 in [0, 1], shape (K, A), or integers, shape (K,).
        rewards: float32, shape (K,).
        following: observations after the step, shape (K, F).
        seconds: how long the step took, float32, shape (K,).
        masks: of possible actions at decisions, bool, shape (K, A); None with fixed steps.
        action_count: A of integers; 0 with fixed steps.
        environment: what the actions mean, as a policy's attribute ``environment`` says; None for a
            registered task, which says it itself.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    following: np.ndarray
    seconds: np.ndarray
    masks: np.ndarray | None
    action_count: int
    environment: dict[str, Any] | None


def read_transitions(dataset: Any) -> Transitions:
    """The steps of a dataset of Minari that ``llmsched dataset`` wrote."""
    episodes = list(dataset.iterate_episodes())
    count = int(getattr(dataset.action_space, "n", 0))
    masks = [e.infos["action_mask"][:-1] for e in episodes] if count else []
    return Transitions(
        np.concatenate([e.observations[:-1] for e in episodes]).astype(np.float32),
        np.concatenate([e.actions for e in episodes]),
        np.concatenate([e.rewards for e in episodes]).astype(np.float32),
        np.concatenate([e.observations[1:] for e in episodes]).astype(np.float32),
        np.concatenate([np.diff(e.infos["time"]) for e in episodes]).astype(np.float32),
        np.concatenate(masks).astype(np.bool_) if count else None,
        count,
        _environment(json.loads(dataset.storage.metadata["env_spec"])),
    )


def _environment(spec: dict[str, Any]) -> dict[str, Any] | None:
    """What a policy's attribute ``environment`` says of actions in an environment."""
    control = CONTROL_BY_TASK.get(spec["id"])
    if control is None:
        return None
    given = spec["kwargs"]
    return {"control": control} | {n: given[n] for n in _MEANING[control] if n in given}


class OfflinePolicy:
    """A learned policy for :func:`llm_sched_env.evaluate`: the mean action, or the likeliest one.

    Args:
        actor: the network that acts, on normalised observations.
        mean: of the observations of the data, shape (F,).
        deviation: of them, shape (F,).
        environment: see :class:`Transitions`.
    """

    def __init__(
        self,
        actor: nn.Module,
        mean: np.ndarray,
        deviation: np.ndarray,
        environment: dict[str, Any] | None,
    ) -> None:
        self._actor, self._mean, self._deviation = actor, mean, deviation
        if environment is not None:
            self.environment = environment

    def reset(
        self, instance: Instance, plan: FluidPlan, n_gpus: int, rng: np.random.Generator
    ) -> None:
        """Nothing to prepare: the network is what it is."""

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> Any:
        """The action of this step."""
        scaled = torch.as_tensor((observation - self._mean) / self._deviation).float()
        with torch.no_grad():
            output = self._actor(scaled)
        if "action_mask" not in info:
            return torch.sigmoid(output).numpy()
        possible = torch.as_tensor(info["action_mask"]) != 0
        return int(output.masked_fill(~possible, -torch.inf).argmax())


def learn(data: Transitions, configuration: OfflineConfiguration) -> OfflinePolicy:
    """Train a policy on recorded steps; the same seed gives the same policy.

    Args:
        data: of one task.
        configuration: all knobs.
    """
    torch.set_num_threads(1)  # small networks: more threads only wait for each other
    torch.manual_seed(configuration.seed)
    generator = torch.Generator().manual_seed(configuration.seed)
    mean = data.observations.mean(axis=0)
    deviation = data.observations.std(axis=0) + 1e-3
    seen, following = (
        torch.as_tensor((array - mean) / deviation).float()
        for array in (data.observations, data.following)
    )
    actions = torch.as_tensor(data.actions)
    if not data.action_count:
        actions = actions.float()
    masks = None if data.masks is None else torch.as_tensor(data.masks)
    discounts = 0.5 ** (torch.as_tensor(data.seconds) / configuration.half_life)
    rewards = torch.as_tensor(data.rewards / max(float(data.rewards.std()), 1e-6))
    outputs = data.action_count or data.actions.shape[1]
    learner = _Learner(configuration, seen.shape[1], outputs, discrete=data.action_count > 0)
    for _ in range(configuration.steps):
        rows: Any = torch.randint(len(seen), (configuration.batch_size,), generator=generator)
        learner.step(
            seen[rows],
            actions[rows],
            rewards[rows],
            following[rows],
            discounts[rows],
            None if masks is None else masks[rows],
        )
    return OfflinePolicy(learner.actor, mean, deviation, data.environment)


class _Learner:
    """The networks and one gradient step of all of them."""

    def __init__(
        self, configuration: OfflineConfiguration, features: int, outputs: int, *, discrete: bool
    ) -> None:
        units = configuration.hidden_units
        self._knobs = configuration
        self._discrete, self._outputs = discrete, outputs
        self.actor = _network(features, outputs, units)
        self._value = _network(features, 1, units)
        self._critics = nn.ModuleList(_network(features + outputs, 1, units) for _ in range(2))
        self._targets = nn.ModuleList(_network(features + outputs, 1, units) for _ in range(2))
        self._targets.load_state_dict(self._critics.state_dict())
        networks = nn.ModuleList([self.actor])
        if configuration.method == "iql":
            networks.extend([self._value, self._critics])
        self._optimizer = torch.optim.Adam(
            networks.parameters(), configuration.learning_rate, foreach=True
        )

    def step(
        self,
        seen: torch.Tensor,
        actions: torch.Tensor,
        rewards: torch.Tensor,
        following: torch.Tensor,
        discounts: torch.Tensor,
        masks: torch.Tensor | None,
    ) -> None:
        """One batch. Episodes are cut by their horizon and do not end: V goes on after them."""
        weights, loss = torch.ones(len(seen)), torch.zeros(())
        if self._knobs.method == "iql":
            weights, loss = self._values(seen, actions, rewards, following, discounts)
        loss = loss + (weights * self._surprise(seen, actions, masks)).mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self._knobs.method == "iql":
            self._follow()

    def _follow(self) -> None:
        """Q's slow copy goes a little towards Q."""
        with torch.no_grad():
            for slow, fast in zip(
                self._targets.parameters(), self._critics.parameters(), strict=True
            ):
                slow.lerp_(fast, self._knobs.target_rate)

    def _values(
        self,
        seen: torch.Tensor,
        actions: torch.Tensor,
        rewards: torch.Tensor,
        following: torch.Tensor,
        discounts: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How much each action is to be cloned, and the losses of V and Q."""
        coded = one_hot(actions.long(), self._outputs).float() if self._discrete else actions
        pairs = torch.cat([seen, coded], dim=1)
        with torch.no_grad():
            worth = torch.minimum(*(network(pairs)[:, 0] for network in self._targets))
            target = rewards + discounts * self._value(following)[:, 0]
        value = self._value(seen)[:, 0]
        advantage = worth - value
        knobs = self._knobs
        slope = torch.where(advantage > 0, knobs.expectile, 1.0 - knobs.expectile)
        loss = (slope * advantage**2).mean()
        for network in self._critics:
            loss = loss + ((network(pairs)[:, 0] - target) ** 2).mean()
        weights = torch.exp(knobs.temperature * advantage.detach()).clamp(max=_GREATEST_WEIGHT)
        return weights, loss

    def _surprise(
        self, seen: torch.Tensor, actions: torch.Tensor, masks: torch.Tensor | None
    ) -> torch.Tensor:
        """How far the actor is from the actions of the data, shape (batch,)."""
        output = self.actor(seen)
        if masks is None:
            squared: torch.Tensor = ((torch.sigmoid(output) - actions) ** 2).sum(dim=1)
            return squared
        likelihoods = output.masked_fill(~masks, -torch.inf).log_softmax(dim=1)
        surprise: torch.Tensor = -likelihoods.gather(1, actions.long()[:, None])[:, 0]
        return surprise


def _network(inputs: int, outputs: int, units: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(),
        nn.Linear(units, outputs),
    )  # fmt: skip
