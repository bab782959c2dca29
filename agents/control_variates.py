"""Control variates: subtract a baseline policy's reward on the same requests.

The baseline's reward does not depend on the agent's exploration noise, so the gradient keeps its
mean and loses the variance that the requests add.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class BeyondReference(VecEnvWrapper):
    """The reward less that of constant controls in reference environments with the same seeds.

    Args:
        venv: where the agent acts; its actions are controls in [0, 1].
        reference: as many environments of the same kind.
        controls: of the twins in every interval, shape (A,).
    """

    def __init__(self, venv: VecEnv, reference: VecEnv, controls: np.ndarray) -> None:
        super().__init__(venv)
        self._reference = reference
        self._controls = np.tile(controls, (venv.num_envs, 1))

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seed both sides alike; every later episode stays alike, too."""
        seeds = list(self.venv.seed(seed))
        self._reference.seed(seeds[0])
        return seeds

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Options of the next reset, the same on both sides."""
        self._reference.set_options(options)
        self.venv.set_options(options)

    def reset(self) -> VecEnvObs:
        """Start an episode everywhere."""
        self._reference.reset()
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """The agent's outcome, its reward relative to the reference's."""
        observations, rewards, dones, infos = self.venv.step_wait()
        _, reference, _, _ = self._reference.step(self._controls)
        return observations, rewards - reference, dones, infos

    def close(self) -> None:
        """Release both sides."""
        self._reference.close()
        self.venv.close()


class BeyondGroup(VecEnvWrapper):
    """The reward less the mean of the others of a group that shares its requests.

    Args:
        venv: environments whose groups of consecutive ones share their seeds.
        size: environments of a group, >= 2.
    """

    def __init__(self, venv: VecEnv, size: int) -> None:
        super().__init__(venv)
        self._size = size

    def reset(self) -> VecEnvObs:
        """Start an episode everywhere."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """The outcome, rewards relative to the rest of the group."""
        observations, rewards, dones, infos = self.venv.step_wait()
        groups = rewards.reshape(-1, self._size)
        others = (groups.sum(axis=1, keepdims=True) - groups) / (self._size - 1)
        return observations, (groups - others).ravel(), dones, infos
