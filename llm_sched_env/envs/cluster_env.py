"""Base class of the single environments: episodes, saved states, rendering."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np

from llm_sched_env.envs.cluster_control import ClusterControl, SavedState
from llm_sched_env.envs.episodes import chosen_start, episode_seed, no_episode
from llm_sched_env.envs.rendering import (
    FRAMES_PER_SECOND,
    RENDER_METADATA,
    RENDER_MODES,
    WINDOW,
    checked_render_mode,
    show,
    warn_no_mode,
)
from llm_sched_env.envs.window import Window
from llm_sched_env.planning import FluidPlan

Action = TypeVar("Action")
Control = TypeVar("Control", bound=ClusterControl[Any, Any, Any])


class ClusterEnv(gym.Env[np.ndarray, Action], Generic[Action, Control]):
    """One cluster under an agent's control.

    Args:
        control: of the cluster.
        render_mode: ``None``, ``"ansi"``, ``"rgb_array"`` or ``"human"``.
    """

    metadata = {**RENDER_METADATA, "render_modes": [*RENDER_MODES, WINDOW]}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, control: Control, render_mode: str | None) -> None:
        self.render_mode = checked_render_mode(render_mode, (*RENDER_MODES, WINDOW))
        name = control.configuration.cluster.instance.name
        self._window = Window(name, FRAMES_PER_SECOND) if render_mode == WINDOW else None
        self.control = control
        self.observation_space = control.observation_space
        self._begun = False
        self._ended = False

    @property
    def plan(self) -> FluidPlan:
        """The fluid plan of the instance."""
        return self.control.plan

    @property
    def budgets(self) -> dict[str, float]:
        """Greatest allowed sums of costs over an episode, by name; empty without budgets."""
        return self.control.budgets

    @property
    def constrained_plan(self) -> FluidPlan:
        """The fluid plan under the budgets: its revenue bounds what keeps them in the mean."""
        return self.control.constrained_plan

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
        self._show()
        return report.observations[0], self.control.info(0, report)

    def step(self, action: Action) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act and go to the end of the step; raises EpisodeError where no episode runs."""
        self._require_running()
        report = self.control.empty_report()
        self.control.step([action], report)
        self._ended = bool(self.control.truncated()[0])
        self._show()
        return (
            report.observations[0],
            float(report.rewards[0]),
            False,
            self._ended,
            self.control.info(0, report),
        )

    def _require_running(self) -> None:
        if not self._begun:
            raise no_episode("no episode has begun")
        if self._ended:
            raise no_episode(f"the episode ended at {self.control.times()[0]:g} s")

    def render(self) -> Any:
        """The cluster as text or picture; None in a window, and, with a warning, without a mode."""
        if self.render_mode is None:
            warn_no_mode()
            return None
        if self._window is not None:
            self._show()
            return None
        return show(self.control.batch.state(0), self.control.configuration, self.render_mode)

    def _show(self) -> None:
        """A picture in the window, if there is one."""
        if self._window is not None:
            picture = show(self.control.batch.state(0), self.control.configuration, "rgb_array")
            self._window.show(np.asarray(picture))

    def close(self) -> None:
        """Close the window, if there is one, and stop what runs iterations elsewhere."""
        if self._window is not None:
            self._window.close()
        self.control.close()
