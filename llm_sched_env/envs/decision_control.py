"""Mechanics that controls share whose agents decide when something happens."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from gymnasium import spaces

from llm_sched_env.envs.cluster_control import (
    Batch,
    ClusterControl,
    ClusterReport,
    Configuration,
    SavedState,
)
from llm_sched_env.envs.costs import cost_info
from llm_sched_env.envs.deadline_outcomes import outcome_info
from llm_sched_env.envs.decision_space import checked_decisions
from llm_sched_env.simulation.events.decisions import RUN_ON, STAND_STILL


@dataclass(frozen=True)
class TimedReport(ClusterReport):
    """What N clusters show at a decision, whatever it is about.

    Attributes:
        times: seconds since each cluster's start, shape (N,).
        elapsed: seconds since the last decision, shape (N,).
        events: arrivals, completions and abandonments since the start; int64, shape (N,).
        masks: 1 where an action is possible; int8, shape (N, A).
    """

    times: np.ndarray
    elapsed: np.ndarray
    events: np.ndarray
    masks: np.ndarray

    def forget_step(self, k: int) -> None:
        """Cluster k has begun a new episode."""
        super().forget_step(k)
        self.elapsed[k] = 0.0


Report = TypeVar("Report", bound=TimedReport)


class DecisionControl(ClusterControl[Configuration, Batch, Report]):
    """N clusters, each of which goes on to its own next decision.

    Args:
        configuration: what is controlled and how; its ``horizon`` is the length of an episode.
        batch: the clusters.
        observation_space: of one cluster.
        n_actions: A, of one cluster.
        bound: R*, currency per GPU and second: what rewards are a share of.
    """

    def __init__(
        self,
        configuration: Configuration,
        batch: Batch,
        observation_space: spaces.Box,
        n_actions: int,
        bound: float,
    ) -> None:
        self.n_actions = n_actions
        super().__init__(configuration, batch, observation_space)
        n_clusters = batch.n_clusters
        self._until = np.zeros(n_clusters)
        self._decided_at = np.zeros(n_clusters)
        self._finished = np.zeros(n_clusters, np.bool_)
        self._everywhere = np.ones(n_clusters, np.bool_)
        self._masks = np.ones((n_clusters, n_actions), np.int8)
        self._reward_scale = 1.0 / (self.cluster.n_gpus * bound)

    @abstractmethod
    def _decide(self, actions: np.ndarray) -> np.ndarray:
        """Act in each cluster and go to its next decision; which have reached their ends.

        Args:
            actions: possible ones, RUN_ON or STAND_STILL; int64, shape (N,).
        """

    def start(
        self,
        k: int,
        seed: np.random.SeedSequence,
        start: str | SavedState | None = None,
        end: float | None = None,
    ) -> None:
        """Begin an episode on cluster k that ends at a time, s; default: the horizon later."""
        super().start(k, seed, start)
        self._decided_at[k] = self._origin[k]
        self._until[k] = self._origin[k] + self.configuration.horizon if end is None else end
        self._finished[k] = False

    def action_masks(self) -> np.ndarray:
        """Which actions are possible now; bool, shape (N, A), a fresh array."""
        masks: np.ndarray = self._masks != 0
        return masks

    def step(self, actions: Any, report: Report, active: np.ndarray | None = None) -> None:
        """Take actions, shape (N,), in the active clusters and go to their next decisions.

        Args:
            actions: possible ones.
            report: receives what the clusters show and earn.
            active: bool, shape (N,); default all.

        Raises:
            ConfigurationError: for an action that is not possible; nothing has moved then.
        """
        checked = checked_decisions(
            actions, self._masks, self._everywhere if active is None else active
        )
        self._run(checked if active is None else np.where(active, checked, STAND_STILL), report)

    def end_at(self, k: int, time: float) -> None:
        """Move the end of cluster k's episode to a time, seconds."""
        self._until[k] = time

    def resume(self, report: Report) -> None:
        """Go on to the next decision of clusters whose episodes had ended and end later now."""
        self._run(np.full(self.batch.n_clusters, RUN_ON), report)

    def _run(self, actions: np.ndarray, report: Report) -> None:
        n = self.batch.n_clusters
        self._finished = self._decide(actions)
        self._read(report, 0, n)
        self._billed[:] = self._revenue
        if self._outcomes is not None:
            self._outcomes.take(report.outcomes, 0, n)
        if self.cost_meter is not None:
            self.cost_meter.take(report.costs, 0, n)
        # Time without a decision at its end counts on.
        self._decided_at = np.where(self._finished, self._decided_at, report.times)

    def observe(self, report: Report, rows: tuple[int, int] | None = None) -> None:
        """Write what a range of rows (default all) shows now, but not what it has earned."""
        first, last = rows if rows is not None else (0, self.batch.n_clusters)
        earned = self._scratch
        seen = dataclasses.replace(
            report, rewards=earned.rewards, terms=earned.terms, elapsed=earned.elapsed
        )
        self._read(seen, first, last)

    def info(self, k: int, report: Report) -> dict[str, Any]:
        """The ``info`` of cluster k that is the same whatever its decisions are about."""
        prompt, output = report.terms[k].tolist()
        info: dict[str, Any] = {
            "time": float(report.times[k]),
            "elapsed_seconds": float(report.elapsed[k]),
            "revenue": {"prompt": prompt, "output": output},
            "action_mask": report.masks[k],
            "events": int(report.events[k]),
        }
        if report.outcomes is not None:
            info["deadlines"] = outcome_info(report.outcomes[k])
        if report.costs is not None:
            info |= cost_info(self.cost_names, report.costs[k])
        return info

    def truncated(self) -> np.ndarray:
        """Which episodes have reached the horizon; shape (N,), bool, a fresh array."""
        return self._finished.copy()
