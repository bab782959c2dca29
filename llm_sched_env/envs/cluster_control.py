"""Mechanics that fixed-step and event-driven control of N clusters share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from gymnasium import spaces

from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.costs import CostMeter
from llm_sched_env.envs.deadline_outcomes import DeadlineOutcomes
from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.observation_kernels import BUNDLED, GOODPUT, SEPARATE
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.planning import FluidPlan
from llm_sched_env.simulation.events.metrics import reset_metrics
from llm_sched_env.simulation.events.random_streams import stream_keys
from llm_sched_env.simulation.simulation import SimulationBatch
from llm_sched_env.simulation.state.layout import OCCUPANCIES, EngineState


@dataclass(frozen=True)
class SavedState:
    """A cluster between two steps: pass it to ``reset(options={"state": ...})``."""

    engine: EngineState


@dataclass(frozen=True)
class ClusterReport:
    """What N clusters show after a step, in fresh arrays.

    Attributes:
        observations: float32, shape (N, F).
        rewards: shape (N,); 0 where no step was made.
        terms: revenue of the step by prompt and output, currency, shape (N, 2).
        outcomes: completed requests of the step that were good, had a late first token, or had
            slow tokens, int64, shape (N, 3, I), rows DEADLINE_COUNTS; None without deadlines.
        costs: of the step, shape (N, C); None where none are asked for.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terms: np.ndarray
    outcomes: np.ndarray | None
    costs: np.ndarray | None

    def forget_step(self, k: int) -> None:
        """Cluster k has begun a new episode: it has earned nothing yet; its reward stays."""
        self.terms[k] = 0.0
        if self.outcomes is not None:
            self.outcomes[k] = 0
        if self.costs is not None:
            self.costs[k] = 0.0


Configuration = TypeVar(
    "Configuration", bound=IntervalConfiguration | EventConfiguration | RoutingConfiguration
)
Batch = TypeVar("Batch", bound=SimulationBatch)
Report = TypeVar("Report", bound=ClusterReport)


class ClusterControl(ABC, Generic[Configuration, Batch, Report]):
    """N clusters under an agent's control, and what they have earned.

    Args:
        configuration: what is controlled and how.
        batch: the clusters.
        observation_space: of one cluster.
    """

    def __init__(
        self,
        configuration: Configuration,
        batch: Batch,
        observation_space: spaces.Box,
    ) -> None:
        self.configuration = configuration
        self.cluster = configuration.cluster
        self.plan = self.cluster.plan
        self.batch = batch
        self.observation_space = observation_space
        self._plan_controls = self.plan.controls(self.cluster.n_gpus)
        # The parts that are not controlled stay at the plan, whose ranks are there already.
        self.batch.controls[:, : len(self._plan_controls)] = self._plan_controls
        self._origin = np.zeros(batch.n_clusters)
        self._scheme = BUNDLED if self.cluster.pricing == "bundled" else SEPARATE
        if configuration.revenue == "goodput":
            self._scheme = GOODPUT
        self._outcomes = DeadlineOutcomes(batch) if batch.instance.has_deadlines else None
        self.cost_meter = None
        if configuration.costs is not None:
            seconds = configuration.episode_seconds
            self.cost_meter = CostMeter(configuration.costs, self.cluster, batch, seconds)
        self._billed = np.zeros((batch.n_clusters, 2))
        self._revenue = np.zeros((batch.n_clusters, 2))
        self._scratch = self.empty_report()

    @abstractmethod
    def empty_report(self) -> Report:
        """A report in which nothing has been earned; the observations are not written yet."""

    @abstractmethod
    def step(self, actions: Any, report: Report, active: np.ndarray | None = None) -> None:
        """Act in the active clusters (default all) and write what they show and earn.

        Args:
            actions: one per cluster; those of the others must be actions, too.
            report: receives what the active clusters show and earn.
            active: bool, shape (N,).

        Raises:
            ConfigurationError: for an action that is not allowed; nothing has moved then.
        """

    @abstractmethod
    def truncated(self) -> np.ndarray:
        """Which episodes have reached the horizon; shape (N,), bool, a fresh array."""

    @abstractmethod
    def observe(self, report: Report, rows: tuple[int, int] | None = None) -> None:
        """Write what a range of rows (default all) shows now, but not what it has earned."""

    @abstractmethod
    def info(self, k: int, report: Report) -> dict[str, Any]:
        """The ``info`` of cluster k, in addition to its observation."""

    @abstractmethod
    def _read(self, report: Report, first: int, last: int) -> None:
        """Write what clusters first..last-1 show, and have earned since the last step."""

    def _empty_arrays(
        self,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Observations, rewards, terms, outcomes and costs of an empty report."""
        n = self.batch.n_clusters
        shape = (n, *(self.observation_space.shape or ()))
        outcomes = None if self._outcomes is None else self._outcomes.none()
        costs = None if self.cost_meter is None else self.cost_meter.none()
        return np.empty(shape, np.float32), np.zeros(n), np.zeros((n, 2)), outcomes, costs

    def start(
        self, k: int, seed: np.random.SeedSequence, start: str | SavedState | None = None
    ) -> None:
        """Begin an episode on cluster k, empty, at the plan, or from a saved state.

        A saved state continues with random streams of its own when ``seed`` differs.
        """
        start = self.configuration.start if start is None else start
        if isinstance(start, SavedState):
            self.batch.restore(k, start.engine)
            self.batch.states.keys[k] = stream_keys(seed)
        else:
            occupancy = None
            if start == "plan":
                occupancy = np.where(np.isfinite(self.plan.occupancy), self.plan.occupancy, 0.0)
            self.batch.start(k, seed, self._plan_controls, occupancy)
        self._origin[k] = self.batch.states.clock["time"][k, 0]
        self._begin_step(k)

    def close(self) -> None:
        """The simulator leaves nothing running."""

    def reset_metrics(self, k: int, *, pay_earlier_arrivals: bool = True) -> None:
        """End the warm-up of cluster k: measure from now on.

        Without ``pay_earlier_arrivals`` requests that are there already earn nothing more.
        """
        reset_metrics(self.batch.state(k), pay_earlier_arrivals=pay_earlier_arrivals)
        self._begin_step(k)

    def _begin_step(self, k: int) -> None:
        """What cluster k earns counts from now on."""
        self._read(self._scratch, k, k + 1)
        self._billed[k] = self._revenue[k]
        if self._outcomes is not None:
            self._outcomes.begin(k)
        if self.cost_meter is not None:
            self.cost_meter.begin(k)

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Names of the costs, C of them; none where none are asked for."""
        return () if self.cost_meter is None else self.cost_meter.names

    @property
    def budgets(self) -> dict[str, float]:
        """Greatest allowed sums of costs over an episode, by name; empty without budgets."""
        costs = self.configuration.costs
        return {} if costs is None else dict(costs.budgets)

    @property
    def constrained_plan(self) -> FluidPlan:
        """The fluid plan under the budgets, whose revenue bounds what keeps them."""
        costs = self.configuration.costs
        return self.plan if costs is None else costs.constrained_plan(self.cluster)

    def save(self, k: int) -> SavedState:
        """The state of cluster k."""
        return SavedState(self.batch.snapshot(k))

    def report(self) -> Report:
        """What the clusters show now, with nothing earned."""
        report = self.empty_report()
        self.observe(report)
        return report

    def observations(self) -> np.ndarray:
        """What the agents see now; float32, shape (N, F), a fresh array."""
        return self.report().observations

    def counts(self) -> np.ndarray:
        """Requests at each station now, int64, shape (N, 5, P), a fresh array.

        By pair of a class and a group of GPUs, with queues at the first group of a class. Rows:
        waiting for prefill, in prefill, waiting for a decode slot, decoding next to a running
        prefill, decoding without one.
        """
        return self._counts_of(self.batch.states.classes)

    @staticmethod
    def _counts_of(classes: np.ndarray) -> np.ndarray:
        """Counts by station from CLASS_STATE of shape (N, P), whose first fields they are."""
        numbers = classes.view(np.int64).reshape(*classes.shape, -1)
        return numbers[..., : len(OCCUPANCIES)].swapaxes(1, 2).copy()

    def times(self) -> np.ndarray:
        """Seconds since each cluster's start; shape (N,)."""
        return self.batch.states.clock["time"][:, 0].copy()
