"""Fixed-step control of N clusters, shared by the environments and by evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from llm_sched_env.envs.actions import apply_actions, as_actions, bad_action
from llm_sched_env.envs.cluster_control import ClusterControl, ClusterReport, SavedState
from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.costs import cost_info
from llm_sched_env.envs.deadline_outcomes import outcome_info
from llm_sched_env.envs.interval_slos import IntervalLevels, LevelReport
from llm_sched_env.envs.observation import observation_space
from llm_sched_env.envs.observation_kernels import read_clusters
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.simulation.simulation import SimulationBatch
from llm_sched_env.simulation.state.layout import RequestStream


@dataclass(frozen=True)
class IntervalReport(ClusterReport):
    """What N clusters show after an interval.

    Attributes:
        arrivals: requests of each class that arrived in the interval, int64, shape (N, I).
        levels: what the service levels came to; None without any.
    """

    arrivals: np.ndarray
    levels: LevelReport | None

    def forget_step(self, k: int) -> None:
        """Cluster k has begun a new episode."""
        super().forget_step(k)
        self.arrivals[k] = 0


class IntervalControl(ClusterControl[IntervalConfiguration, SimulationBatch, IntervalReport]):
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
        batch_type: Callable[..., SimulationBatch] = SimulationBatch,
    ) -> None:
        cluster = configuration.cluster
        instance, n_gpus, fluid_plan = cluster.instance, cluster.n_gpus, cluster.plan
        ranks = slot_ranks(fluid_plan, n_gpus) if configuration.gate == "net-value" else None
        batch = batch_type(
            instance,
            configuration.rule,
            n_gpus,
            n_clusters,
            stream,
            latencies=latencies,
            threads=threads,
            billing=billing,
            ranks=ranks,
            weights=fluid_plan.decode_weights,
        )
        self._counted = np.zeros((n_clusters, instance.n_classes), np.int64)
        self._arrived = np.zeros_like(self._counted)
        self.levels = None
        if cluster.slos:
            self.levels = IntervalLevels(cluster, n_clusters)
        super().__init__(configuration, batch, observation_space(instance))
        self._controlled = configuration.controlled
        self._group_sizes = instance.group_sizes(n_gpus)
        self._plan_action = configuration.plan_action(self.plan)
        self._steps = np.zeros(n_clusters, np.int64)
        self._last_step = configuration.steps
        self._reward_scale = 1.0 / (n_gpus * configuration.interval * self.plan.value)
        self.action_space = spaces.Box(0.0, 1.0, (len(self._controlled),), np.float32)

    @property
    def plan_action(self) -> np.ndarray:
        """The fluid plan as a constant action of this environment; float32."""
        return self._plan_action.copy()

    def start(
        self, k: int, seed: np.random.SeedSequence, start: str | SavedState | None = None
    ) -> None:
        """Begin an episode on cluster k."""
        super().start(k, seed, start)
        self._steps[k] = 0

    def _begin_step(self, k: int) -> None:
        """What cluster k earns and who arrives there counts from now on."""
        super()._begin_step(k)
        self._counted[k] = self._arrived[k]

    def empty_report(self) -> IntervalReport:
        """A report in which nothing has happened; the observations are not written yet."""
        levels = self.levels.empty_report() if self.levels is not None else None
        return IntervalReport(
            *self._empty_arrays(), arrivals=np.zeros(self._counted.shape, np.int64), levels=levels
        )

    def step(self, actions: Any, report: IntervalReport, active: np.ndarray | None = None) -> None:
        """Hold actions of shape (N, A) for one interval in the active clusters (default all).

        Args:
            actions: numbers in [0, 1].
            report: receives what the active clusters show and earn.
            active: bool, shape (N,).

        Raises:
            ConfigurationError: for an action that is not allowed; nothing has moved then.
        """
        n_clusters, n_classes = self._counted.shape
        checked = as_actions(actions, (n_clusters, len(self._controlled)))
        n_pairs, sizes = n_classes * len(self._group_sizes), self._group_sizes
        if not apply_actions(checked, self._controlled, n_pairs, sizes, self.batch.controls):
            raise bad_action(checked)
        for first, last in [(0, n_clusters)] if active is None else _runs(active):
            self._steps[first:last] += 1
            until = self._origin + self._steps * self.configuration.interval
            self.batch.advance(until, first, last, set_controls=True)
            self._read(report, first, last)
            self._billed[first:last] = self._revenue[first:last]
            self._counted[first:last] = self._arrived[first:last]
            if self._outcomes is not None:
                self._outcomes.take(report.outcomes, first, last)
            if self.cost_meter is not None:
                self.cost_meter.take(report.costs, first, last)

    def _read(self, report: IntervalReport, first: int, last: int) -> None:
        """Write what clusters first..last-1 show, and what has happened since the last interval.

        Service levels start their next interval here, at the same times as what is billed.
        """
        read_clusters(
            self.batch.clusters,
            self._scheme,
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
        if self.levels is not None and report.levels is not None:
            self.levels.read(
                self.batch.clusters, self._reward_scale, report.levels, report.rewards, first, last
            )

    def observe(self, report: IntervalReport, rows: tuple[int, int] | None = None) -> None:
        """Write what a range of rows (default all) shows now, but not what it has earned.

        Service levels are those of the state: between two intervals no time passes.
        """
        first, last = rows if rows is not None else (0, self.batch.n_clusters)
        seen = dataclasses.replace(
            self._scratch, observations=report.observations, levels=report.levels
        )
        self._read(seen, first, last)

    def truncated(self) -> np.ndarray:
        """Which episodes have reached the horizon; shape (N,), bool, a fresh array."""
        reached: np.ndarray = self._steps >= self._last_step
        return reached

    def info(self, k: int, report: IntervalReport) -> dict[str, Any]:
        """The ``info`` of cluster k, in addition to its observation."""
        prompt, output = report.terms[k].tolist()
        info: dict[str, Any] = {
            "time": float(self.batch.states.clock["time"][k, 0]),
            "revenue": {"prompt": prompt, "output": output},
            "arrivals": report.arrivals[k].copy(),
            "counts": self._counts_of(self.batch.states.classes[k : k + 1])[0],
        }
        if report.outcomes is not None:
            info["deadlines"] = outcome_info(report.outcomes[k])
        if report.levels is not None:
            for name, values in self.level_terms(report.levels).items():
                info[name] = {level: float(numbers[k]) for level, numbers in values.items()}
        if report.costs is not None:
            info |= cost_info(self.cost_names, report.costs[k])
        return info

    def level_terms(self, report: LevelReport) -> dict[str, dict[str, np.ndarray]]:
        """Measured indicators (``slos``) and their ``penalties``, currency, by service level.

        Arrays of shape (N,), views of the report; only what has a price has a penalty.
        """
        assert self.levels is not None
        names, priced = self.levels.names, self.levels.priced
        return {
            "slos": dict(zip(names, report.measured.T, strict=True)),
            "penalties": {n: report.penalties[:, names.index(n)] for n in priced},
        }


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Maximal ranges of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
