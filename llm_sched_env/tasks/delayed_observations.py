"""Delayed observations: an agent sees the cluster as it was some intervals ago."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.envs.cluster_control import SavedState
from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.interval import IntervalControl, IntervalReport
from llm_sched_env.errors import checked_integer
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.policies.registry import PythonPolicy
from llm_sched_env.simulation.simulation import SimulationBatch
from llm_sched_env.tasks.forms import Form
from llm_sched_env.tasks.wrapped_policies import WrappedPolicy


@dataclass(frozen=True)
class DelayedObservations(Form):
    """Observations and ``info["counts"]`` are those of some intervals ago; rewards are at once.

    Before so many intervals have passed they are those of the start of the episode. Compiled rules
    run inside the cluster and see it as it is.

    Args:
        intervals: how many.
    """

    intervals: int

    def interval_control(
        self, configuration: IntervalConfiguration, n_clusters: int, threads: int
    ) -> IntervalControl:
        """Clusters that are shown late."""
        return DelayedControl(configuration, n_clusters, threads=threads, delay=self.intervals)

    def agent(self, policy: PythonPolicy, cluster: Cluster) -> PythonPolicy:  # noqa: ARG002
        """One that is shown observation and ``info`` late."""
        return DelayedPolicy(policy, self.intervals)


class DelayedControl(IntervalControl):
    """N clusters whose observations and counts come late.

    Args:
        configuration: as in :class:`IntervalControl`, like the others.
        n_clusters: N.
        threads: of the engine.
        delay: intervals.
        batch_type: builds the clusters.
    """

    def __init__(
        self,
        configuration: IntervalConfiguration,
        n_clusters: int = 1,
        threads: int = 1,
        *,
        delay: int,
        batch_type: Callable[..., SimulationBatch] = SimulationBatch,
    ) -> None:
        # One place more: the newest is kept beside the one that is shown.
        self._places = checked_integer("delay", delay, least=0) + 1
        super().__init__(configuration, n_clusters, threads=threads, batch_type=batch_type)
        shown = self.empty_report().observations
        self._observations = np.zeros((self._places, *shown.shape), np.float32)
        counts = super().counts()
        self._counts = np.zeros((self._places, *counts.shape), np.int64)

    def start(
        self, k: int, seed: np.random.SeedSequence, start: str | SavedState | None = None
    ) -> None:
        """Begin an episode on cluster k."""
        super().start(k, seed, start)
        self._remember(self._scratch.observations, slice(k, k + 1))

    def step(self, actions: Any, report: IntervalReport, active: np.ndarray | None = None) -> None:
        """Hold actions for one interval; see :meth:`IntervalControl.step`."""
        super().step(actions, report, active)
        rows = np.arange(self.batch.n_clusters) if active is None else np.flatnonzero(active)
        self._remember(report.observations, rows)
        report.observations[rows] = self._observations[self._shown_places(rows), rows]

    def observe(self, report: IntervalReport, rows: tuple[int, int] | None = None) -> None:
        """Write what a range of rows (default all) shows now, but not what it has earned."""
        super().observe(report, rows)
        shown = np.arange(*(rows if rows is not None else (0, self.batch.n_clusters)))
        report.observations[shown] = self._observations[self._shown_places(shown), shown]

    def counts(self) -> np.ndarray:
        """Requests at each station as they are shown; see :meth:`IntervalControl.counts`."""
        rows = np.arange(self.batch.n_clusters)
        found: np.ndarray = self._counts[self._shown_places(rows), rows]
        return found

    def info(self, k: int, report: IntervalReport) -> dict[str, Any]:
        """The ``info`` of cluster k, in addition to its observation."""
        place = int(self._shown_places(np.array([k]))[0])
        return super().info(k, report) | {"counts": self._counts[place, k].copy()}

    def _remember(self, observations: np.ndarray, rows: slice | np.ndarray) -> None:
        """Keep what the clusters of these rows are like now."""
        where = np.arange(self.batch.n_clusters)[rows]
        places = self._steps[where] % self._places
        self._observations[places, where] = observations[where]
        self._counts[places, where] = self._counts_of(self.batch.states.classes)[where]

    def _shown_places(self, rows: np.ndarray) -> np.ndarray:
        """Where the observation lies that these rows show."""
        places: np.ndarray = np.maximum(self._steps[rows] - self._places + 1, 0) % self._places
        return places


class DelayedPolicy(WrappedPolicy):
    """A policy that is shown observation and ``info`` of some decisions ago.

    Args:
        policy: which.
        delay: decisions.
    """

    def __init__(self, policy: PythonPolicy, delay: int) -> None:
        super().__init__(policy)
        self._seen: deque[tuple[np.ndarray, dict[str, Any]]] = deque(maxlen=delay + 1)

    def reset(
        self, instance: Instance, plan: FluidPlan, n_gpus: int, rng: np.random.Generator
    ) -> None:
        """Prepare for one run, of which nothing has been seen."""
        self._seen.clear()
        super().reset(instance, plan, n_gpus, rng)

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> Any:
        """The action of the next interval."""
        self._seen.append((observation, info))
        return super().act(*self._seen[0])
