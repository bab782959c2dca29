"""Episodes of a policy as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from llm_sched_env.offline.behaviour import Behaviour


@dataclass(frozen=True)
class Episode:
    """One episode of T steps.

    Attributes:
        seed: of ``reset``: with the same actions the environment shows the same again.
        observations: the first and those after each step, shape (T + 1, F).
        actions: shape (T, A), or integers, shape (T,).
        rewards: float64, shape (T,).
        terminations: bool, shape (T,).
        truncations: bool, shape (T,).
        infos: numbers of ``info`` by name, nested as there, arrays of T + 1 rows; action masks are
            among them where there are such.
    """

    seed: int
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    infos: dict[str, Any]

    @property
    def total_reward(self) -> float:
        """The sum of its rewards."""
        return float(self.rewards.sum())


def episodes(
    env: gym.Env[Any, Any], behaviour: Behaviour, count: int, seed: int
) -> Iterator[Episode]:
    """Record episodes 0, 1, ... of a seed, each from its own random streams.

    Args:
        env: in which the policy acts.
        behaviour: the policy.
        count: how many episodes.
        seed: of all random numbers; episode k is the same whatever ``count`` is.
    """
    for k in range(count):
        streams = np.random.SeedSequence(seed, spawn_key=(k,))
        yield _episode(env, behaviour, int(streams.generate_state(1)[0]), streams)


def _episode(
    env: gym.Env[Any, Any], behaviour: Behaviour, seed: int, streams: np.random.SeedSequence
) -> Episode:
    observation, info = env.reset(seed=seed)
    behaviour.reset(env, streams)
    observations, infos = [observation], [info]
    actions, rewards, terminations, truncations = [], [], [], []
    ended = False
    while not ended:
        action = behaviour.act(env, observation, info)
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        infos.append(info)
        actions.append(action)
        rewards.append(float(reward))
        terminations.append(terminated)
        truncations.append(truncated)
        ended = terminated or truncated
    return Episode(
        seed,
        np.array(observations),
        np.array(actions),
        np.array(rewards),
        np.array(terminations, np.bool_),
        np.array(truncations, np.bool_),
        _stacked(infos),
    )


def _stacked(infos: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers that every step has, one below the other."""
    stacked: dict[str, Any] = {}
    for name, first in infos[0].items():
        if not all(name in info for info in infos):
            continue
        values = [info[name] for info in infos]
        if isinstance(first, dict):
            stacked[name] = _stacked(values)
        elif np.asarray(first).dtype.kind in "bif":
            stacked[name] = np.array(values)
    return stacked
