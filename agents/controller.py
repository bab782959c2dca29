"""Run a trained network greedily, without exploration noise, in N clusters at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.policies import BasePolicy

from llm_sched_env.agents.residual_actions import residual_action

_OBSERVATION_LIMIT = 10.0
_EPSILON = 1e-8


class Controller:
    """A network with its normaliser, its memory, and the meaning of its actions.

    Args:
        policy: of stable-baselines3, in the normalised observations.
        mean: of the observations, shape (F,).
        var: of the observations, shape (F,).
        frames: observations that the network sees, the newest last.
        center: controls that the action 0 means; None for the integers of event-driven control.
        scale: share of the way to the ends of the controls that the agent can go.
    """

    def __init__(
        self,
        policy: BasePolicy,
        mean: np.ndarray,
        var: np.ndarray,
        *,
        frames: int = 1,
        center: np.ndarray | None = None,
        scale: float = 1.0,
    ) -> None:
        self._policy = policy
        self._mean = np.asarray(mean)
        self._deviation = np.sqrt(np.asarray(var) + _EPSILON)
        self._frames = frames
        self._center = center
        self._scale = scale
        self.begin(1)

    def begin(self, n_clusters: int) -> None:
        """Forget everything: so many clusters begin an episode."""
        self._seen = np.zeros((n_clusters, self._frames * len(self._mean)), np.float32)
        self._memory: Any = None
        self._starting = np.ones(n_clusters, np.bool_)

    def act(self, observations: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
        """Controls, shape (N, A), or integers of event-driven control, shape (N,).

        Args:
            observations: shape (N, F).
            masks: of possible actions with event-driven control, bool, shape (N, 1 + 3I).
        """
        scaled = (observations - self._mean) / self._deviation
        scaled = np.clip(scaled, -_OBSERVATION_LIMIT, _OBSERVATION_LIMIT).astype(np.float32)
        self._seen = np.concatenate([self._seen, scaled], axis=1)[:, scaled.shape[1] :]
        possible = {} if masks is None else {"action_masks": masks}
        actions, self._memory = self._policy.predict(
            self._seen, self._memory, self._starting, deterministic=True, **possible
        )
        self._starting = np.zeros_like(self._starting)
        if self._center is None:
            return np.asarray(actions)
        return residual_action(actions, self._center, self._scale)
