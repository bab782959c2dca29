"""Actions relative to a centre: 0 is the centre, -1 and 1 are the ends of a control's range."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from llm_sched_env.agents.configuration import TrainingConfiguration


def action_center(configuration: TrainingConfiguration, plan_action: np.ndarray) -> np.ndarray:
    """The controls that the action 0 means; float64, shape (A,)."""
    if configuration.center == "middle":
        return np.full(plan_action.shape, 0.5)
    return plan_action.astype(np.float64)


def residual_action(action: np.ndarray, center: np.ndarray, scale: float) -> np.ndarray:
    """Controls in [0, 1] for actions in [-1, 1]; the last axis is that of ``center``.

    Args:
        action: the agent's; values outside [-1, 1] count as the ends.
        center: controls that the action 0 means.
        scale: share of the way to the ends that the agent can go.
    """
    reach = scale * np.clip(action, -1.0, 1.0)
    controls: np.ndarray = np.where(
        reach >= 0, center + reach * (1 - center), center + reach * center
    )
    clipped: np.ndarray = np.clip(controls, 0.0, 1.0)
    return clipped


def centered_action(controls: np.ndarray, center: np.ndarray, scale: float) -> np.ndarray:
    """The action in [-1, 1] whose :func:`residual_action` is nearest to these controls."""
    distance = controls - center
    room = scale * np.where(distance >= 0, 1 - center, center)
    action = np.divide(distance, room, out=np.zeros_like(distance), where=room > 0)
    clipped: np.ndarray = np.clip(action, -1.0, 1.0)
    return clipped


class ResidualActions(VecEnvWrapper):
    """A vector environment in [-1, 1] around a centre."""

    def __init__(self, venv: VecEnv, center: np.ndarray, scale: float) -> None:
        super().__init__(venv, action_space=spaces.Box(-1.0, 1.0, center.shape, np.float32))
        self._center = center.astype(np.float64)
        self._scale = scale

    def reset(self) -> VecEnvObs:
        """Start an episode everywhere."""
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        """Pass on the controls that the actions mean."""
        self.venv.step_async(residual_action(actions, self._center, self._scale))

    def step_wait(self) -> VecEnvStepReturn:
        """Nothing of the outcome changes."""
        return self.venv.step_wait()
