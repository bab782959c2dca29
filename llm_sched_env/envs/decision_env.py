"""Base class of the single environments whose agents decide when something happens."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from llm_sched_env.envs.cluster_env import ClusterEnv
from llm_sched_env.envs.decision_control import DecisionControl
from llm_sched_env.envs.decision_space import DecisionSpace

Control = TypeVar("Control", bound=DecisionControl[Any, Any, Any])


class DecisionEnv(ClusterEnv[Any, Control]):
    """One cluster that waits for a decision; its action space samples possible actions.

    Args:
        control: of the cluster.
        render_mode: as in :class:`ClusterEnv`.
    """

    def __init__(self, control: Control, render_mode: str | None) -> None:
        super().__init__(control, render_mode)
        self._decision_space = DecisionSpace(control.n_actions)
        self.action_space = self._decision_space

    def action_masks(self) -> np.ndarray:
        """Which actions are possible now; bool, shape (A,), a fresh array."""
        masks: np.ndarray = self.control.action_masks()[0]
        return masks

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; ``options`` may hold ``start`` or ``state``."""
        observation, info = super().reset(seed=seed, options=options)
        self._decision_space.possible = info["action_mask"].copy()
        return observation, info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act and go to the next decision; raises EpisodeError where no episode runs."""
        result = super().step(action)
        self._decision_space.possible = result[4]["action_mask"].copy()
        return result
