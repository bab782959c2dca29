"""Interval control of N clusters: the mechanics shared by every environment and by evaluation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from llm_sched_env.envs.actions import apply_actions, as_actions, bad_action, rank_shares
from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.observation import observation_space
from llm_sched_env.envs.reading import read_clusters
from llm_sched_env.planning import plan
from llm_sched_env.simulation.layout import EngineState, RequestStream
from llm_sched_env.simulation.metrics import reset_metrics
from llm_sched_env.simulation.random_streams import stream_keys
from llm_sched_env.simulation.simulation import SimulationBatch


@dataclass(frozen=True)
class SavedState:
    """A cluster between two intervals: pass it to ``reset(options={"state": ...})``."""

    engine: EngineState


@dataclass(frozen=True)
class IntervalReport:
    """What N clusters show after an interval, in fresh arrays.

    Attributes:
        observations: float32, shape (N, 6I + 4).
        rewards: shape (N,); 0 where no interval was run.
        terms: revenue of the interval by prompt and output, currency, shape (N, 2).
        arrivals: requests of each class that arrived in the interval, int64, shape (N, I).
    """

    observations: np.ndarray
    rewards: np.ndarray
    terms: np.ndarray
    arrivals: np.ndarray


class IntervalControl:
    """N clusters whose controls change once per interval.

    Args:
        configuration: what is controlled and how.
        n_clusters: N.
        stream: recorded requests; default: drawn from the instance.
        threads: rows are split over this many threads; the result does not depend on it.
        latencies: whether latency histograms are kept.
        billing: as in :class:`SimulationBatch`.
    """

    def __init__(
        self,
        configuration: IntervalConfiguration,
        n_clusters: int = 1,
        stream: RequestStream | None = None,
        threads: int = 1,
        *,
        latencies: bool = False,
        billing: str | None = None,
    ) -> None:
        self.configuration = configuration
        instance, n_gpus = configuration.instance, configuration.n_gpus
        self.plan = plan(instance, configuration.pricing)
        self.batch = SimulationBatch(
            instance,
            configuration.rule,
            n_gpus,
            n_clusters,
            stream,
            latencies=latencies,
            threads=threads,
            billing=billing,
            ranks=self.plan.admission_ranks,
        )
        self._controlled = configuration.controlled
        self._plan_controls = self.plan.controls(n_gpus)
        # The parts that are not controlled stay at the plan; the plan's ranks are there already.
        self.batch.controls[:, : len(self._plan_controls)] = self._plan_controls
        self._origin = np.zeros(n_clusters)
        self._steps = np.zeros(n_clusters, np.int64)
        self._bundled = configuration.pricing == "bundled"
        self._billed = np.zeros((n_clusters, 2))
        self._revenue = np.zeros((n_clusters, 2))
        self._counted = np.zeros((n_clusters, instance.n_classes), np.int64)
        self._arrived = np.zeros_like(self._counted)
        self._reward_scale = 1.0 / (n_gpus * configuration.interval * self.plan.value)
        self.observation_space = observation_space(instance)
        self._scratch = self.empty_report()
        self.action_space = spaces.Box(0.0, 1.0, (len(self._controlled),), np.float32)

    @property
    def plan_action(self) -> np.ndarray:
        """The fluid plan as a constant action of this environment; float32."""
        shares = np.concatenate([self.plan.action, rank_shares(self.plan.admission_ranks)])
        action: np.ndarray = shares[self._controlled].astype(np.float32)
        return action

    def start(
        self, k: int, seed: np.random.SeedSequence, start: str | SavedState | None = None
    ) -> None:
        """Begin an episode on cluster k, empty, at the plan, or from a saved state.

        A saved state continues with random streams of its own when ``seed`` differs.
        """
        start = self.configuration.start if start is None else start
        self._steps[k] = 0
        if isinstance(start, SavedState):
            self.batch.restore(k, start.engine)
            self.batch.states.keys[k] = stream_keys(seed)
        else:
            occupancy = None
            if start == "plan":
                occupancy = np.where(np.isfinite(self.plan.occupancy), self.plan.occupancy, 0.0)
            self.batch.start(k, seed, self._plan_controls, occupancy)
        self._origin[k] = self.batch.states.clock["time"][k, 0]
        self._read(self._scratch, k, k + 1)
        self._billed[k] = self._revenue[k]
        self._counted[k] = self._arrived[k]

    def reset_metrics(self, k: int) -> None:
        """End the warm-up of cluster k: measure from now on."""
        reset_metrics(self.batch.state(k))
        self._billed[k] = 0.0
        self._counted[k] = 0

    def save(self, k: int) -> SavedState:
        """The state of cluster k."""
        return SavedState(self.batch.snapshot(k))

    def empty_report(self) -> IntervalReport:
        """A report in which nothing has happened; the observations are not written yet."""
        n = self.batch.n_clusters
        shape = (n, *(self.observation_space.shape or ()))
        return IntervalReport(
            np.empty(shape, np.float32),
            np.zeros(n),
            np.zeros((n, 2)),
            np.zeros_like(self._counted),
        )

    def step(
        self, actions: Any, report: IntervalReport, rows: tuple[int, int] | None = None
    ) -> None:
        """Hold actions of shape (N, A) for one interval on a range of rows (default all).

        Args:
            actions: numbers in [0, 1].
            report: receives what these rows show and earn.
            rows: first and one past the last cluster.

        Raises:
            ConfigurationError: for an action that is not allowed; nothing has moved then.
        """
        first, last = rows if rows is not None else (0, self.batch.n_clusters)
        checked = as_actions(actions, (self.batch.n_clusters, len(self._controlled)))
        n_classes, n_gpus = self._counted.shape[1], self.configuration.n_gpus
        if not apply_actions(checked, self._controlled, n_classes, n_gpus, self.batch.controls):
            raise bad_action(checked)
        self._steps[first:last] += 1
        until = self._origin + self._steps * self.configuration.interval
        self.batch.advance(until, first, last, set_controls=True)
        self._read(report, first, last)
        self._billed[first:last] = self._revenue[first:last]
        self._counted[first:last] = self._arrived[first:last]

    def _read(self, report: IntervalReport, first: int, last: int) -> None:
        """Write what clusters first..last-1 show, and what has happened in the interval."""
        read_clusters(
            self.batch.states,
            self._bundled,
            self._reward_scale,
            self._billed,
            self._counted,
            report.observations,
            self._revenue,
            self._arrived,
            report.terms,
            report.rewards,
            report.arrivals,
            first,
            last,
        )

    def observe(self, report: IntervalReport, rows: tuple[int, int] | None = None) -> None:
        """Write what a range of rows (default all) shows now into a report's observations."""
        first, last = rows if rows is not None else (0, self.batch.n_clusters)
        seen = dataclasses.replace(self._scratch, observations=report.observations)
        self._read(seen, first, last)

    def observations(self) -> np.ndarray:
        """What the agents see now; float32, shape (N, 6I + 4), a fresh array."""
        report = self.empty_report()
        self.observe(report)
        return report.observations

    def truncated(self) -> np.ndarray:
        """Which episodes have reached the horizon; shape (N,), bool."""
        return self._steps >= self.configuration.steps

    def info(self, k: int, report: IntervalReport | None = None) -> dict[str, Any]:
        """What an agent is told beside the observation of cluster k, after an interval or none."""
        if report is None:
            report = self.empty_report()
        prompt, output = report.terms[k].tolist()
        return {
            "time": float(self.batch.states.clock["time"][k, 0]),
            "revenue": {"prompt": prompt, "output": output},
            "arrivals": report.arrivals[k].copy(),
        }

    def times(self) -> np.ndarray:
        """Seconds since each cluster's start; shape (N,)."""
        return self.batch.states.clock["time"][:, 0].copy()
