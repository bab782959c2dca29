"""Event-driven control of N clusters, shared by the environments and by evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.envs.cluster_control import ClusterControl, ClusterReport, SavedState
from llm_sched_env.envs.deadline_outcomes import outcome_info
from llm_sched_env.envs.decision_space import action_count, checked_decisions
from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.observation import event_observation_space
from llm_sched_env.envs.observation_kernels import read_decisions
from llm_sched_env.simulation.decision_batch import DecisionBatch
from llm_sched_env.simulation.events.decisions import RUN_ON, STAND_STILL
from llm_sched_env.simulation.state.layout import OCCUPANCIES, RequestStream


@dataclass(frozen=True)
class DecisionReport(ClusterReport):
    """What N clusters show at a decision.

    Attributes:
        times: seconds since each cluster's start, shape (N,).
        elapsed: seconds since the last decision, shape (N,).
        events: arrivals, completions and abandonments since the start; int64, shape (N,).
        masks: 1 where an action is possible; int8, shape (N, 1 + 3P).
        counts: requests at each station; int64, shape (N, 5, P).
        head_ranks: for the request that each action other than "wait" would take, how many
            classes have an older one, I where there is none; int64, shape (N, 3, I).
        head_arrivals: when the head of each prefill queue arrived, seconds since the start, inf
            where nobody waits; shape (N, I).
    """

    times: np.ndarray
    elapsed: np.ndarray
    events: np.ndarray
    masks: np.ndarray
    counts: np.ndarray
    head_ranks: np.ndarray
    head_arrivals: np.ndarray

    def forget_step(self, k: int) -> None:
        """Cluster k has begun a new episode."""
        super().forget_step(k)
        self.elapsed[k] = 0.0


class EventControl(ClusterControl[EventConfiguration, DecisionBatch, DecisionReport]):
    """N clusters whose requests an agent admits and routes one by one.

    Args:
        configuration: what is controlled and how.
        n_clusters: N.
        stream: recorded requests; default: drawn from the instance.
        threads: rows are split over this many threads; the result does not depend on it.
        latencies: whether latency histograms are kept.
        billing: as in :class:`SimulationBatch`.
        log_events: room for this many entries of each cluster's event log.
        batch_type: builds the clusters; those of a machine for one that is served.
    """

    def __init__(
        self,
        configuration: EventConfiguration,
        n_clusters: int = 1,
        stream: RequestStream | None = None,
        threads: int = 1,
        *,
        latencies: bool = False,
        billing: str | None = None,
        log_events: int = 0,
        batch_type: Callable[..., DecisionBatch] = DecisionBatch,
    ) -> None:
        instance, n_gpus = configuration.cluster.instance, configuration.cluster.n_gpus
        batch = batch_type(
            instance,
            configuration.rule,
            n_gpus,
            n_clusters,
            configuration.wake_interval,
            stream=stream,
            log_events=log_events,
            latencies=latencies,
            threads=threads,
            billing=billing,
        )
        self.n_actions = action_count(instance)
        super().__init__(configuration, batch, event_observation_space(instance))
        self._until = np.zeros(n_clusters)
        self._decided_at = np.zeros(n_clusters)
        self._finished = np.zeros(n_clusters, np.bool_)
        self._everywhere = np.ones(n_clusters, np.bool_)
        self._masks = np.ones((n_clusters, self.n_actions), np.int8)
        self._reward_scale = 1.0 / (n_gpus * self.plan.value)

    def start(
        self, k: int, seed: np.random.SeedSequence, start: str | SavedState | None = None
    ) -> None:
        """Begin an episode on cluster k; its first decision is at once."""
        super().start(k, seed, start)
        self._decided_at[k] = self._origin[k]
        self._until[k] = self._origin[k] + self.configuration.horizon
        self._finished[k] = False

    def empty_report(self) -> DecisionReport:
        """A report in which nothing has been earned; the observations are not written yet."""
        n, n_classes = self.batch.n_clusters, self.cluster.instance.n_classes
        return DecisionReport(
            *self._empty_arrays(),
            times=np.zeros(n),
            elapsed=np.zeros(n),
            events=np.zeros(n, np.int64),
            masks=np.zeros((n, self.n_actions), np.int8),
            counts=np.zeros((n, len(OCCUPANCIES), self.batch.states.classes.shape[1]), np.int64),
            head_ranks=np.zeros((n, 3, n_classes), np.int64),
            head_arrivals=np.full((n, n_classes), np.inf),
        )

    def action_masks(self) -> np.ndarray:
        """Which actions are possible now; bool, shape (N, 1 + 3P), a fresh array."""
        masks: np.ndarray = self._masks != 0
        return masks

    def step(self, actions: Any, report: DecisionReport, active: np.ndarray | None = None) -> None:
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

    def resume(self, report: DecisionReport) -> None:
        """Go on to the next decision of clusters whose episodes had ended and end later now."""
        self._run(np.full(self.batch.n_clusters, RUN_ON), report)

    def _run(self, actions: np.ndarray, report: DecisionReport) -> None:
        n = self.batch.n_clusters
        self._finished = self.batch.decide(actions, self._until)
        self._read(report, 0, n)
        self._billed[:] = self._revenue
        if self._outcomes is not None:
            self._outcomes.take(report.outcomes, 0, n)
        # Time without a decision at its end counts on.
        self._decided_at = np.where(self._finished, self._decided_at, report.times)

    def _read(self, report: DecisionReport, first: int, last: int) -> None:
        """Write what clusters first..last-1 show, and have earned since the last decision."""
        read_decisions(
            self.batch.clusters,
            self._scheme,
            self._reward_scale,
            self._billed,
            self._decided_at,
            report.observations,
            self._revenue,
            report.terms,
            report.rewards,
            report.times,
            report.elapsed,
            report.events,
            report.masks,
            report.counts,
            report.head_ranks,
            report.head_arrivals,
            first,
            last,
        )
        self._masks[first:last] = report.masks[first:last]

    def observe(self, report: DecisionReport, rows: tuple[int, int] | None = None) -> None:
        """Write what a range of rows (default all) shows now, but not what it has earned."""
        first, last = rows if rows is not None else (0, self.batch.n_clusters)
        earned = self._scratch
        seen = dataclasses.replace(
            report, rewards=earned.rewards, terms=earned.terms, elapsed=earned.elapsed
        )
        self._read(seen, first, last)

    def truncated(self) -> np.ndarray:
        """Which episodes have reached the horizon; shape (N,), bool, a fresh array."""
        return self._finished.copy()

    def info(self, k: int, report: DecisionReport) -> dict[str, Any]:
        """The ``info`` of cluster k, in addition to its observation."""
        prompt, output = report.terms[k].tolist()
        info: dict[str, Any] = {
            "time": float(report.times[k]),
            "elapsed_seconds": float(report.elapsed[k]),
            "revenue": {"prompt": prompt, "output": output},
            "action_mask": report.masks[k],
            "counts": report.counts[k],
            "head_ranks": report.head_ranks[k],
            "head_arrivals": report.head_arrivals[k],
            "events": int(report.events[k]),
        }
        if report.outcomes is not None:
            info["deadlines"] = outcome_info(report.outcomes[k])
        return info
