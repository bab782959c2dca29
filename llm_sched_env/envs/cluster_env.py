"""What the single environments have in common: episodes, saved states and pictures."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np

from llm_sched_env.envs.cluster_control import ClusterControl, SavedState
from llm_sched_env.envs.configuration import STARTS
from llm_sched_env.envs.rendering import RENDER_MODES, describe, draw
from llm_sched_env.errors import ConfigurationError, LLMSchedError
from llm_sched_env.planning import FluidPlan

Action = TypeVar("Action")
Control = TypeVar("Control", bound=ClusterControl[Any, Any, Any])


class ClusterEnv(gym.Env[np.ndarray, Action], Generic[Action, Control]):
    """One cluster under an agent's control.

    Args:
        control: of the cluster.
        render_mode: ``None``, ``"ansi"`` or ``"rgb_array"``.
    """

    metadata = {"render_modes": [*RENDER_MODES], "render_fps": 1}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, control: Control, render_mode: str | None) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            allowed = f"None or one of {', '.join(RENDER_MODES)}"
            raise ConfigurationError("render_mode", render_mode, allowed)
        self.render_mode = render_mode
        self.control = control
        self.observation_space = control.observation_space
        self._running = False

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
        self._running = True
        report = self.control.report()
        return report.observations[0], self.control.info(0, report)

    def step(self, action: Action) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Act and go to the end of the step."""
        if not self._running:
            raise LLMSchedError("step: got no running episode, allowed is after reset(); reset()")
        report = self.control.empty_report()
        self.control.step([action], report)
        return (
            report.observations[0],
            float(report.rewards[0]),
            False,
            bool(self.control.truncated()[0]),
            self.control.info(0, report),
        )

    def render(self) -> Any:
        """The cluster as text or picture; None, with a warning, without a render mode."""
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without a render_mode")
            return None
        show = describe if self.render_mode == "ansi" else draw
        return show(self.control.batch.state(0), self.control.configuration)


def episode_seed(generator: np.random.Generator) -> np.random.SeedSequence:
    """The seed of the next episode of an environment with this generator."""
    return np.random.SeedSequence(generator.integers(0, 2**63, size=2).tolist())


def chosen_start(options: dict[str, Any] | None) -> str | SavedState | None:
    """The start asked for by reset options, or None for the environment's own."""
    if not options:
        return None
    if len(options) != 1 or next(iter(options)) not in ("start", "state"):
        raise ConfigurationError("reset options", sorted(options), 'one of "start" or "state"')
    if "state" in options:
        state = options["state"]
        if not isinstance(state, SavedState):
            raise ConfigurationError(
                "reset option state", type(state).__name__, "what save_state() returned"
            )
        return state
    if options["start"] not in STARTS:
        raise ConfigurationError("reset option start", options["start"], " or ".join(STARTS))
    start: str = options["start"]
    return start
