"""PPO in one file, against the plain vector interface of Gymnasium: change what you like.

No framework, only PyTorch: networks, advantages, the clipped loss and an evaluation against rules
on the same requests. It learns from scratch, on priorities and reserves of free slots. Needs the
extra ``agents``. Run it with ``python examples/single_file_ppo.py [STEPS]``.
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

import llm_sched_env as lse

ENVS, ROLLOUT, EPOCHS, BATCH = 32, 100, 6, 800
DISCOUNT, LAMBDA, CLIP, LEARNING_RATE = 0.966, 0.95, 0.2, 1e-3  # revenue in 20 s counts half
SPACE: dict[str, Any] = {
    "gate": "net-value",
    "router": "net-value",
    "pools": "dynamic",
    "controls": ("priority", "reserve"),
}


class ActorCritic(nn.Module):
    """A Gaussian policy over [-1, 1]^A, and a value; features are normalised on the way."""

    def __init__(self, features: int, actions: int) -> None:
        super().__init__()
        self.actor, self.critic = (
            nn.Sequential(nn.Linear(features, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), last)
            for last in (nn.Linear(64, actions), nn.Linear(64, 1))
        )
        nn.init.zeros_(self.actor[-1].weight)  # the first mean action is the middle of each range
        nn.init.zeros_(self.actor[-1].bias)
        self.log_std = nn.Parameter(torch.full((actions,), -1.5))
        self.mean, self.variance, self.count = torch.zeros(features), torch.ones(features), 1e-4

    def update_moments(self, observations: torch.Tensor) -> None:
        """Take a batch into the running mean and variance (Chan et al., 1979)."""
        n, total = len(observations), self.count + len(observations)
        shift = observations.mean(0) - self.mean
        self.variance = (
            self.variance * self.count
            + observations.var(0, unbiased=False) * n
            + shift**2 * self.count * n / total
        ) / total
        self.mean, self.count = self.mean + shift * n / total, total

    def forward(
        self, observations: torch.Tensor
    ) -> tuple[torch.distributions.Normal, torch.Tensor]:
        """The distribution of actions, and values."""
        x = ((observations - self.mean) / (self.variance + 1e-8).sqrt()).clamp(-10, 10)
        return torch.distributions.Normal(self.actor(x), self.log_std.exp()), self.critic(x)[..., 0]


class Greedy:
    """The mean action as a policy of ``evaluate``."""

    environment = SPACE

    def __init__(self, network: ActorCritic) -> None:
        self.network = network

    def reset(self, *_: Any) -> None:
        """Nothing is remembered between runs."""

    def act(self, observation: np.ndarray, _: dict[str, Any]) -> np.ndarray:
        """Controls for the next second, in [0, 1]."""
        with torch.no_grad():
            action = self.network(torch.as_tensor(observation))[0].mean
        return to_controls(action).numpy()


def to_controls(actions: torch.Tensor) -> torch.Tensor:
    """From [-1, 1], where the network acts, to [0, 1], where the environment does."""
    return (0.5 + 0.5 * actions).clamp(0.0, 1.0)


def advantages(
    rewards: torch.Tensor, values: torch.Tensor, following: torch.Tensor, ended: torch.Tensor
) -> torch.Tensor:
    """Generalised advantages (Schulman et al., 2016); all of shape (T, N).

    Args:
        rewards: of the steps.
        values: before them.
        following: of the observation after each step, also where the episode was cut.
        ended: whether it was cut there.
    """
    found, last = torch.zeros_like(rewards), torch.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + DISCOUNT * following[t] - values[t]
        last = delta + DISCOUNT * LAMBDA * (1.0 - ended[t]) * last
        found[t] = last
    return found


def rollout(
    envs: gym.vector.VectorEnv, network: ActorCritic, observation: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Play ROLLOUT steps in all clusters; what happened, and the last observation."""
    steps: dict[str, list[torch.Tensor]] = {}
    for _ in range(ROLLOUT):
        distribution, value = network(observation)
        action = distribution.sample()
        new, reward, _, cut, info = envs.step(to_controls(action).numpy())
        # Episodes have no end, only a horizon: the value of what was seen last counts.
        after = np.where(cut[:, None], np.stack(info["final_obs"]), new) if cut.any() else new
        step = {
            "observation": observation,
            "action": action,
            "log_prob": distribution.log_prob(action).sum(-1),
            "value": value,
            "reward": torch.as_tensor(reward, dtype=torch.float32),
            "following": network(torch.as_tensor(after))[1],
            "ended": torch.as_tensor(cut, dtype=torch.float32),
        }
        for name, tensor in step.items():
            steps.setdefault(name, []).append(tensor)
        observation = torch.as_tensor(new)
    return {name: torch.stack(tensors) for name, tensors in steps.items()}, observation


def update(network: ActorCritic, optimizer: torch.optim.Optimizer, played: Any) -> None:
    """Climb the clipped objective."""
    advantage = advantages(played["reward"], played["value"], played["following"], played["ended"])
    flat = {name: tensor.flatten(0, 1) for name, tensor in played.items()}
    flat |= {"advantage": advantage.flatten(), "target": (advantage + played["value"]).flatten()}
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(flat["target"])).split(BATCH):
            distribution, value = network(flat["observation"][rows])
            ratio = (
                distribution.log_prob(flat["action"][rows]).sum(-1) - flat["log_prob"][rows]
            ).exp()
            gain = flat["advantage"][rows]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            gained = torch.minimum(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain).mean()
            loss = -gained + 0.5 * (value - flat["target"][rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()


def train(steps: int, n_gpus: int = 5, instance: str = "overload", seed: int = 0) -> ActorCritic:
    """Learn from so many steps of all clusters together."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    envs = gym.make_vec(
        "LLMSched-v0",
        num_envs=ENVS,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
        instance=instance,
        n_gpus=n_gpus,
        horizon=200.0,
        start="plan",
        **SPACE,
    )
    assert isinstance(envs.single_observation_space, gym.spaces.Box)
    network = ActorCritic(envs.single_observation_space.shape[0], envs.single_action_space.shape[0])
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    observation = torch.as_tensor(envs.reset(seed=seed)[0])
    for done in range(0, steps, ENVS * ROLLOUT):
        with torch.no_grad():
            played, observation = rollout(envs, network, observation)
        update(network, optimizer, played)
        network.update_moments(played["observation"].flatten(0, 1))
        if done % (8 * ENVS * ROLLOUT) == 0:
            print(f"{done:7,} steps: {played['reward'].mean():.3f} of R*")
    envs.close()
    return network


def main(steps: int = 128_000) -> None:
    """Train at n = 5, and compare the greedy policy with rules."""
    for policy in (Greedy(train(steps)), "gate-and-route", "trunk-reservation"):
        score = lse.evaluate(policy, "overload", n_gpus=5, replications=4).score.mean
        print(f"{policy if isinstance(policy, str) else 'PPO':18s} {score:.3f} of R*")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
