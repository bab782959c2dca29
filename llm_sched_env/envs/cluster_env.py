"""Base class of the single environments: episodes, saved states, rendering."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np

from llm_sched_env.envs.cluster_control import ClusterControl, SavedState
from llm_sched_env.envs.episodes import chosen_start, episode_seed, no_episode
from llm_sched_env.envs.rendering import RENDER_METADATA, checked_render_mode, show, warn_no_mode
from llm_sched_env.planning import FluidPlan

Action = TypeVar("Action")
Control = TypeVar("Control", bound=ClusterControl[Any, Any, Any])


class ClusterEnv(gym.Env[np.ndarray, Action], Generic[Action, Control]):
    """One cluster under an agent's control.

    Args:
        control: of the cluster.
        render_mode: ``None``, ``"ansi"`` or ``"rgb_array"``.
    """

    metadata = {**RENDER_METADATA}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, control: Control, render_mode: str | None) -> None:
        self.render_mode = checked_render_mode(render_mode)
        self.control = control
        self.observation_space = control.observation_space
        self._begun = False
        self._ended = False

    @property
    def plan(self) -> FluidPlan:
        """The fluid plan of the instance."""
        return self.control.plan

    def save_state(self) -> SavedState:
        """The cluster as it is now, for ``reset(options={"state": ...})``."""
        return self.control.save(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; ``options`` may hold ``start`` or ``state``."""
        start = chosen_start(options)
        super().reset(seed=seed)
        self.control.start(0, episode_seed(self.np_random), start)
        self._begun, self._ended = True, False
        report = self.control.report()
        return report.observations[0], self.control.info(0, report)

    def step(self, action: Action) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act and go to the end of the step; raises EpisodeError where no episode runs."""
        self._require_running()
        report = self.control.empty_report()
        self.control.step([action], report)
        self._ended = bool(self.control.truncated()[0])
        return (
            report.observations[0],
            float(report.rewards[0]),
            False,
            self._ended,
            self.control.info(0, report),
        )

    def close(self) -> None:
        """Stop what runs iterations outside of the simulator."""
        self.control.close()

    def _require_running(self) -> None:
        if not self._begun:
            raise no_episode("no episode has begun")
        if self._ended:
            raise no_episode(f"the episode ended at {self.control.times()[0]:g} s")

    def render(self) -> Any:
        """The cluster as text or picture; None, with a warning, without a render mode."""
        if self.render_mode is None:
            warn_no_mode()
            return None
        return show(self.control.batch.state(0), self.control.configuration, self.render_mode)
