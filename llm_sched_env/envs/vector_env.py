"""The native vector form of ``LLMSched-v0``: N clusters in one compiled call."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from typing_extensions import Unpack

from llm_sched_env.envs.cluster_vector import ClusterVectorEnv, default_threads, revenue_infos
from llm_sched_env.envs.configuration import IntervalArguments, IntervalConfiguration
from llm_sched_env.envs.costs import cost_infos
from llm_sched_env.envs.deadline_outcomes import outcome_infos
from llm_sched_env.envs.interval import IntervalControl, IntervalReport
from llm_sched_env.errors import checked_integer
from llm_sched_env.plugins.deprecated_names import renamed_arguments

_LEAST_PER_THREAD = 8


class LLMSchedVectorEnv(ClusterVectorEnv[IntervalControl, IntervalReport]):
    """N independent ``LLMSched-v0`` environments, each equal to a single one with its seed.

    Args:
        num_envs: N.
        autoreset_mode: ``NEXT_STEP`` (default), ``SAME_STEP`` or ``DISABLED``, by name or as
            :class:`gymnasium.vector.AutoresetMode` or its value. With ``DISABLED`` a step while
            an episode has ended is an error, as it is in a single environment.
        threads: that advance the environments; default: one per processor, with at least
            8 environments each. Episodes do not depend on it.
        max_episode_steps: truncates episodes after so many steps, if the horizon does not, as
            it does in ``gym.make``; None or -1: no such limit.
        n_gpus: cluster size n of each.
        render_mode: as in a single environment.
        **arguments: those of :class:`llm_sched_env.envs.configuration.IntervalArguments`.

    ``reset(seed=s)`` seeds environment k with s + k, as the vector environments of Gymnasium do.
    ``reset`` takes the options of a single environment, and ``reset_mask``; ``render()`` has an
    entry for each environment, as Gymnasium's wrappers for vector environments expect.

    Example:
        >>> import gymnasium as gym
        >>> import llm_sched_env
        >>> envs = gym.make_vec("LLMSched-v0", num_envs=4, n_gpus=3, horizon=10.0)
        >>> envs.reset(seed=0)[0].shape
        (4, 16)
    """

    @renamed_arguments(slis="slos")
    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        threads: int | None = None,
        n_gpus: int = 20,
        *,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **arguments: Unpack[IntervalArguments],
    ) -> None:
        configuration = IntervalConfiguration.validated(n_gpus=n_gpus, **arguments)
        num_envs = checked_integer("num_envs", num_envs)
        if threads is None:
            threads = default_threads(num_envs, _LEAST_PER_THREAD)
        control = IntervalControl(configuration, num_envs, threads=threads)
        super().__init__(control, autoreset_mode, render_mode, max_episode_steps)
        self.single_action_space = self.control.action_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def plan_action(self) -> np.ndarray:
        """The fluid plan as a constant action of one environment; float32."""
        return self.control.plan_action

    def _infos(self, report: IntervalReport) -> dict[str, Any]:
        every = np.ones(self.num_envs, np.bool_)
        infos: dict[str, Any] = {
            "time": self.control.times(),
            "_time": every,
            "revenue": revenue_infos(report.terms),
            "_revenue": every,
            "arrivals": report.arrivals.copy(),
            "_arrivals": every,
            "counts": self.control.counts(),
            "_counts": every,
        }
        if report.outcomes is not None:
            infos |= {"deadlines": outcome_infos(report.outcomes), "_deadlines": every}
        if report.levels is not None:
            for name, values in self.control.level_terms(report.levels).items():
                infos[name] = {level: numbers.copy() for level, numbers in values.items()}
                infos[name] |= {f"_{level}": every for level in values}
                infos[f"_{name}"] = every
        if report.costs is not None:
            infos |= cost_infos(self.control.cost_names, report.costs)
        return infos
