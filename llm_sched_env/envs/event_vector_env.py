"""The native vector form of ``LLMSchedEvent-v0``: N clusters in one compiled call."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from typing_extensions import Unpack

from llm_sched_env.envs.cluster_vector import ClusterVectorEnv, decision_infos, default_threads
from llm_sched_env.envs.decision_space import DecisionSpaces, action_names
from llm_sched_env.envs.event_configuration import EventArguments, EventConfiguration
from llm_sched_env.envs.event_control import DecisionReport, EventControl
from llm_sched_env.errors import checked_integer

# A step is an event or two: less than it takes to wake a thread.
_LEAST_PER_THREAD = 256


class LLMSchedEventVectorEnv(ClusterVectorEnv[EventControl, DecisionReport]):
    """N independent ``LLMSchedEvent-v0`` environments, each equal to a single one with its seed.

    Args:
        num_envs: N.
        autoreset_mode: ``NEXT_STEP`` (default), ``SAME_STEP`` or ``DISABLED``, by name or as
            :class:`gymnasium.vector.AutoresetMode` or its value. With ``DISABLED`` a step while
            an episode has ended is an error, as it is in a single environment.
        threads: that advance the environments; default: one per processor, with at least
            256 environments each. Episodes do not depend on it.
        max_episode_steps: truncates episodes after so many steps, if the horizon does not, as
            it does in ``gym.make``; None or -1: no such limit.
        n_gpus: cluster size n of each.
        render_mode: as in a single environment.
        **arguments: those of :class:`llm_sched_env.envs.event_configuration.EventArguments`.

    A step takes every environment to its own next decision, so their times differ.
    ``reset(seed=s)`` seeds environment k with s + k, as the vector environments of Gymnasium do.
    ``reset`` takes the options of a single environment, and ``reset_mask``; ``render()`` has an
    entry for each environment, as Gymnasium's wrappers for vector environments expect.

    Example:
        >>> import gymnasium as gym
        >>> import llm_sched_env
        >>> envs = gym.make_vec("LLMSchedEvent-v0", num_envs=4, n_gpus=3, horizon=10.0)
        >>> envs.reset(seed=0)[0].shape
        (4, 20)
    """

    action_space: DecisionSpaces

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        threads: int | None = None,
        n_gpus: int = 20,
        *,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **arguments: Unpack[EventArguments],
    ) -> None:
        configuration = EventConfiguration.validated(n_gpus=n_gpus, **arguments)
        num_envs = checked_integer("num_envs", num_envs)
        if threads is None:
            threads = default_threads(num_envs, _LEAST_PER_THREAD)
        control = EventControl(configuration, num_envs, threads=threads)
        super().__init__(control, autoreset_mode, render_mode, max_episode_steps)
        self.single_action_space = spaces.Discrete(self.control.n_actions)
        self.action_space = DecisionSpaces(num_envs, self.control.n_actions)

    @property
    def action_names(self) -> list[str]:
        """What each action does."""
        return action_names(self.control.cluster.instance)

    def action_masks(self) -> np.ndarray:
        """Which actions are possible now; bool, shape (N, 1 + 3I), a fresh array."""
        return self.control.action_masks()

    def _infos(self, report: DecisionReport) -> dict[str, Any]:
        self.action_space.possible = report.masks.copy()
        own = {
            "counts": report.counts.copy(),
            "head_ranks": report.head_ranks.copy(),
            "head_arrivals": report.head_arrivals.copy(),
        }
        return decision_infos(report, own, self.control.cost_names)
