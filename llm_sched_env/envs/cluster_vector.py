"""What the native vector environments have in common: N clusters, episodes, autoreset."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from llm_sched_env.envs.cluster_control import ClusterControl, ClusterReport
from llm_sched_env.envs.cluster_env import chosen_start, episode_seed
from llm_sched_env.errors import ConfigurationError, LLMSchedError, checked_integer
from llm_sched_env.simulation.row_threads import available_processors

Control = TypeVar("Control", bound=ClusterControl[Any, Any, Any])
Report = TypeVar("Report", bound=ClusterReport)


class ClusterVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray], Generic[Control, Report]):
    """N clusters advanced in one compiled call, each equal to a single environment with its seed.

    Args:
        control: of the clusters.
        autoreset_mode: ``NEXT_STEP``, ``SAME_STEP`` or ``DISABLED``, by name or as
            :class:`gymnasium.vector.AutoresetMode`.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - as Gymnasium has it

    def __init__(self, control: Control, autoreset_mode: str | AutoresetMode) -> None:
        self.control = control
        self.num_envs = control.batch.n_clusters
        self.autoreset_mode = checked_mode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.autoreset_mode}
        self.single_observation_space = control.observation_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._generators = [seeding.np_random()[0] for _ in range(self.num_envs)]
        self._done = np.ones(self.num_envs, np.bool_)
        self._running = False

    @abstractmethod
    def _infos(self, report: Report) -> dict[str, Any]:
        """What agents are told beside the observations, in fresh arrays."""

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every environment, or where ``options["reset_mask"]`` is True."""
        options = dict(options or {})
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, np.bool_)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ConfigurationError("reset_mask", mask, f"booleans of shape ({self.num_envs},)")
        start = chosen_start(options)
        seeds = self._seeds(seed)
        for k in np.flatnonzero(mask).tolist():
            if seeds[k] is not None:
                self._generators[k] = seeding.np_random(seeds[k])[0]
            self.control.start(k, episode_seed(self._generators[k]), start)
        self._done[mask] = False
        self._running = True
        report = self.control.report()
        return report.observations, self._infos(report)

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + k for k in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ConfigurationError("seed", list(seed), f"one seed or {self.num_envs} of them")
        return seed

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Act everywhere; finished episodes follow the autoreset mode."""
        if not self._running:
            raise LLMSchedError("step: got no running episode, allowed is after reset(); reset()")
        finished = self._done
        if finished.any():
            return self._step_and_reset(actions)
        report = self.control.empty_report()
        self.control.step(actions, report)
        truncated = self.control.truncated()
        infos = self._infos(report)
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._done = truncated.copy()
        elif truncated.any():
            infos = self._reset_now(truncated, report, infos)
        return report.observations, report.rewards, self._never(), truncated, infos

    def _step_and_reset(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """NEXT_STEP: environments whose episode has ended are reset instead of stepped."""
        finished = self._done
        if self.autoreset_mode is AutoresetMode.DISABLED:
            raise LLMSchedError(
                f"step: got finished episodes {np.flatnonzero(finished).tolist()}, allowed are "
                'running ones; reset them with options={"reset_mask": ...}'
            )
        report = self.control.empty_report()
        self.control.step(actions, report, ~finished)
        for k in np.flatnonzero(finished).tolist():
            self.control.start(k, episode_seed(self._generators[k]))
            self.control.observe(report, (k, k + 1))
            report.forget_step(k)
        truncated = self.control.truncated() & ~finished
        self._done = truncated.copy()
        return (
            report.observations,
            report.rewards,
            self._never(),
            truncated,
            self._infos(report),
        )

    def _reset_now(
        self, ended: np.ndarray, report: Report, infos: dict[str, Any]
    ) -> dict[str, Any]:
        """SAME_STEP: new episodes at once; the last observations and infos go to ``final_*``."""
        final = np.full(self.num_envs, None, dtype=object)
        for k in np.flatnonzero(ended).tolist():
            final[k] = report.observations[k].copy()
            self.control.start(k, episode_seed(self._generators[k]))
            self.control.observe(report, (k, k + 1))
            report.forget_step(k)
        return self._infos(report) | {
            "final_obs": final,
            "_final_obs": ended.copy(),
            "final_info": infos,
            "_final_info": ended.copy(),
        }

    def _never(self) -> np.ndarray:
        """No episode terminates."""
        return np.zeros(self.num_envs, np.bool_)


def checked_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """The mode of this name; raises ConfigurationError."""
    if isinstance(mode, AutoresetMode):
        return mode
    try:
        return AutoresetMode[str(mode).upper()]
    except KeyError:
        names = ", ".join(m.name for m in AutoresetMode)
        raise ConfigurationError("autoreset_mode", mode, names) from None


def default_threads(num_envs: int, least: int) -> int:
    """One per processor, with at least so many environments each."""
    return max(1, min(available_processors(), checked_integer("num_envs", num_envs) // least))


def revenue_infos(terms: np.ndarray) -> dict[str, Any]:
    """Revenue by prompt and output, as Gymnasium nests infos; terms of shape (N, 2)."""
    every = np.ones(len(terms), np.bool_)
    return {
        "prompt": terms[:, 0].copy(),
        "_prompt": every,
        "output": terms[:, 1].copy(),
        "_output": every,
    }
