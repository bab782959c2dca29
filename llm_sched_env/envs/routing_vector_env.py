"""The native vector form of ``LLMSchedRouting-v0``: N clusters in one compiled call."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from typing_extensions import Unpack

from llm_sched_env.envs.cluster_vector import ClusterVectorEnv, decision_infos, default_threads
from llm_sched_env.envs.decision_space import DecisionSpaces
from llm_sched_env.envs.routing_configuration import RoutingArguments, RoutingConfiguration
from llm_sched_env.envs.routing_control import ArrivalReport, RoutingControl
from llm_sched_env.envs.routing_space import CANDIDATE_NUMBERS, routing_action_names
from llm_sched_env.errors import checked_integer

# A step is a few events: less than it takes to wake a thread.
_LEAST_PER_THREAD = 256


class LLMSchedRoutingVectorEnv(ClusterVectorEnv[RoutingControl, ArrivalReport]):
    """N independent ``LLMSchedRouting-v0`` environments, each equal to a single one with its seed.

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
        **arguments: those of :class:`llm_sched_env.envs.routing_configuration.RoutingArguments`.

    A step takes every environment to its own next arrival, so their times differ.
    ``reset(seed=s)`` seeds environment k with s + k, as the vector environments of Gymnasium do.
    ``reset`` takes the options of a single environment, and ``reset_mask``; ``render()`` has an
    entry for each environment, as Gymnasium's wrappers for vector environments expect.

    Example:
        >>> import gymnasium as gym
        >>> import llm_sched_env
        >>> envs = gym.make_vec("LLMSchedRouting-v0", num_envs=4, n_gpus=3, horizon=10.0)
        >>> envs.reset(seed=0)[0].shape
        (4, 61)
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
        **arguments: Unpack[RoutingArguments],
    ) -> None:
        configuration = RoutingConfiguration.validated(n_gpus=n_gpus, **arguments)
        num_envs = checked_integer("num_envs", num_envs)
        if threads is None:
            threads = default_threads(num_envs, _LEAST_PER_THREAD)
        control = RoutingControl(configuration, num_envs, threads=threads)
        super().__init__(control, autoreset_mode, render_mode, max_episode_steps)
        self.single_action_space = spaces.Discrete(self.control.n_actions)
        self.action_space = DecisionSpaces(num_envs, self.control.n_actions)

    @property
    def action_names(self) -> list[str]:
        """What each action does."""
        candidates = self.control.configuration.candidates
        return routing_action_names(self.control.cluster.instance, candidates)

    def action_masks(self) -> np.ndarray:
        """Which actions are possible now; bool, shape (N, A), a fresh array."""
        return self.control.action_masks()

    def _infos(self, report: ArrivalReport) -> dict[str, Any]:
        self.action_space.possible = report.masks.copy()
        own = {
            "request_class": report.classes.copy(),
            "prompt_tokens": report.prompts.copy(),
            "gpus": report.gpus.copy(),
        }
        for row, name in enumerate(CANDIDATE_NUMBERS):
            own[name] = report.known[:, row].copy()
        return decision_infos(report, own, self.control.cost_names)
