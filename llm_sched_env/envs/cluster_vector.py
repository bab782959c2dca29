"""Base class of the native vector environments: N clusters, episodes, autoreset."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from llm_sched_env.envs.cluster_control import ClusterControl, ClusterReport, SavedState
from llm_sched_env.envs.costs import cost_infos
from llm_sched_env.envs.deadline_outcomes import outcome_infos
from llm_sched_env.envs.decision_control import TimedReport
from llm_sched_env.envs.episodes import (
    checked_options,
    checked_step_limit,
    chosen_start,
    episode_seed,
    no_episode,
)
from llm_sched_env.envs.rendering import RENDER_METADATA, checked_render_mode, show, warn_no_mode
from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.planning import FluidPlan
from llm_sched_env.simulation.runtime.row_threads import available_processors

Control = TypeVar("Control", bound=ClusterControl[Any, Any, Any])
Report = TypeVar("Report", bound=ClusterReport)

# An error names so many environments.
_NAMED = 8


class ClusterVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray], Generic[Control, Report]):
    """N clusters advanced in one compiled call, each equal to a single environment with its seed.

    Args:
        control: of the clusters.
        autoreset_mode: ``NEXT_STEP``, ``SAME_STEP`` or ``DISABLED``, by name or as
            :class:`gymnasium.vector.AutoresetMode` or its value.
        render_mode: as for single environments; :meth:`render` then has an entry for each.
        max_episode_steps: steps after which an episode is truncated at the latest; None or -1:
            no such limit.
    """

    metadata = {**RENDER_METADATA, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - as Gymnasium has it

    def __init__(
        self,
        control: Control,
        autoreset_mode: str | AutoresetMode,
        render_mode: str | None,
        max_episode_steps: int | None,
    ) -> None:
        self.control = control
        self.num_envs = control.batch.n_clusters
        self.autoreset_mode = checked_mode(autoreset_mode)
        self.render_mode = checked_render_mode(render_mode)
        self.metadata = {**RENDER_METADATA, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = control.observation_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._step_limit = checked_step_limit(max_episode_steps)
        self._generators = [seeding.np_random()[0] for _ in range(self.num_envs)]
        self._steps = np.zeros(self.num_envs, np.int64)
        self._begun = np.zeros(self.num_envs, np.bool_)
        self._done = np.zeros(self.num_envs, np.bool_)
        self._running = False

    @abstractmethod
    def _infos(self, report: Report) -> dict[str, Any]:
        """The ``infos``, in fresh arrays."""

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

    def save_states(self) -> tuple[SavedState, ...]:
        """The clusters as they are now, each for ``reset(options={"state": ...})``."""
        return tuple(self.control.save(k) for k in range(self.num_envs))

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every environment, or where ``options["reset_mask"]`` is True."""
        options = checked_options(options)
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, np.bool_)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ConfigurationError(
                "reset_mask", mask, f"a boolean array of shape ({self.num_envs},)"
            )
        start = chosen_start(options)
        return self._begin(np.flatnonzero(mask), self._seeds(seed), [start] * self.num_envs)

    def reset_each(
        self,
        seeds: Sequence[int | None],
        options: Sequence[Mapping[str, Any] | None],
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every environment, each with a seed and reset options of its own.

        Args:
            seeds: one per environment; None goes on with its random numbers.
            options: one per environment, as a single environment takes them.

        Raises:
            ConfigurationError: for options that are not allowed; nothing has started then.
        """
        if not isinstance(options, Sequence) or len(options) != self.num_envs:
            raise ConfigurationError("reset options", options, f"a list of {self.num_envs} dicts")
        starts = [chosen_start(own) for own in options]
        return self._begin(np.arange(self.num_envs), self._seeds(seeds), starts)

    def _begin(
        self,
        where: np.ndarray,
        seeds: Sequence[int | None],
        starts: Sequence[str | SavedState | None],
    ) -> tuple[np.ndarray, dict[str, Any]]:
        for k in where.tolist():
            if seeds[k] is not None:
                self._generators[k] = seeding.np_random(seeds[k])[0]
            self._start(k, starts[k])
        self._running = bool(self._begun.all())
        report = self.control.report()
        return report.observations, self._infos(report)

    def _start(self, k: int, start: str | SavedState | None = None) -> None:
        """Begin an episode in environment k."""
        self.control.start(k, episode_seed(self._generators[k]), start)
        self._steps[k] = 0
        self._begun[k] = True
        self._done[k] = False

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if not isinstance(seed, (Sequence, np.ndarray)):
            first = checked_integer("seed", seed, least=0)
            return [first + k for k in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ConfigurationError("seed", list(seed), f"one seed or {self.num_envs} seeds")
        return [None if own is None else checked_integer("seed", own, least=0) for own in seed]

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Act everywhere; finished episodes follow the autoreset mode.

        Raises:
            EpisodeError: before every environment has been reset; with ``DISABLED`` also while
                an episode has ended.
        """
        if not self._running:
            where = _places(~self._begun) if self._begun.any() else ""
            raise no_episode(f"no episode has begun{where}")
        if self._done.any():
            return self._step_and_reset(actions)
        report = self.control.empty_report()
        self.control.step(actions, report)
        self._steps += 1
        truncated = self._truncated()
        infos = self._infos(report)
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._done = truncated.copy()
        elif truncated.any():
            infos = self._reset_now(truncated, report, infos)
        return report.observations, report.rewards, self._never(), truncated, infos

    def _truncated(self) -> np.ndarray:
        """Which episodes have reached the horizon or their last step; a fresh array."""
        truncated: np.ndarray = self.control.truncated()
        if self._step_limit is not None:
            truncated |= self._steps >= self._step_limit
        return truncated

    def _step_and_reset(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """NEXT_STEP: environments whose episode has ended are reset instead of stepped."""
        finished = self._done.copy()
        if self.autoreset_mode is AutoresetMode.DISABLED:
            remedy = '`reset()` or `reset(options={"reset_mask": ...})`'
            raise no_episode(f"the episode has ended{_places(finished)}", remedy)
        report = self.control.empty_report()
        self.control.step(actions, report, ~finished)
        self._steps += 1
        self._restart(finished, report)
        truncated = self._truncated() & ~finished
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
        self._restart(ended, report)
        return self._infos(report) | {
            "final_obs": final,
            "_final_obs": ended.copy(),
            "final_info": infos,
            "_final_info": ended.copy(),
        }

    def _restart(self, ended: np.ndarray, report: Report) -> None:
        """Begin new episodes and write what they show."""
        for k in np.flatnonzero(ended).tolist():
            self._start(k)
            self.control.observe(report, (k, k + 1))
            report.forget_step(k)

    def render(self) -> tuple[Any, ...] | None:
        """Every cluster as text or picture; None, with a warning, without a render mode."""
        mode = self.render_mode
        if mode is None:
            warn_no_mode()
            return None
        batch, configuration = self.control.batch, self.control.configuration
        return tuple(show(batch.state(k), configuration, mode) for k in range(self.num_envs))

    def _never(self) -> np.ndarray:
        """No episode terminates."""
        return np.zeros(self.num_envs, np.bool_)


def _places(where: np.ndarray) -> str:
    """The environments of a mask, the first few by number."""
    numbers = np.flatnonzero(where).tolist()
    named = ", ".join(map(str, numbers[:_NAMED])) + (", ..." if len(numbers) > _NAMED else "")
    return f" in environment{'s' if len(numbers) > 1 else ''} {named}"


def checked_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """The mode of this name or value; raises ConfigurationError."""
    for known in AutoresetMode:
        if mode is known or (isinstance(mode, str) and _plain(mode) == _plain(known.name)):
            return known
    names = ", ".join(f"{known.name} ({known.value})" for known in AutoresetMode)
    raise ConfigurationError("autoreset_mode", mode, names)


def _plain(name: str) -> str:
    """The same for names, NEXT_STEP, and values, NextStep."""
    return name.replace("_", "").lower()


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


def decision_infos(
    report: TimedReport, own: dict[str, Any], costs: Sequence[str] = ()
) -> dict[str, Any]:
    """Infos of N environments at a decision, as Gymnasium nests them.

    Args:
        report: what the environments show.
        own: of this kind of decision.
        costs: names of the costs.
    """
    values = {
        "time": report.times.copy(),
        "elapsed_seconds": report.elapsed.copy(),
        "revenue": revenue_infos(report.terms),
        "action_mask": report.masks.copy(),
        "events": report.events.copy(),
        **own,
    }
    if report.outcomes is not None:
        values["deadlines"] = outcome_infos(report.outcomes)
    every = np.ones(len(report.times), np.bool_)
    infos = values | {f"_{name}": every for name in values}
    return infos if report.costs is None else infos | cost_infos(costs, report.costs)
