"""Event-driven control of N clusters, shared by the environments and by evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.envs.decision_control import DecisionControl, TimedReport
from llm_sched_env.envs.decision_space import action_count
from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.observation import event_observation_space
from llm_sched_env.envs.observation_kernels import read_decisions
from llm_sched_env.simulation.decision_batch import DecisionBatch
from llm_sched_env.simulation.state.layout import OCCUPANCIES, RequestStream


@dataclass(frozen=True)
class DecisionReport(TimedReport):
    """What N clusters show at a decision.

    Attributes:
        counts: requests at each station; int64, shape (N, 5, P).
        head_ranks: for the request that each action other than "wait" would take, how many
            classes have an older one, I where there is none; int64, shape (N, 3, I).
        head_arrivals: when the head of each prefill queue arrived, seconds since the start, inf
            where nobody waits; shape (N, I).
    """

    counts: np.ndarray
    head_ranks: np.ndarray
    head_arrivals: np.ndarray


class EventControl(DecisionControl[EventConfiguration, DecisionBatch, DecisionReport]):
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
        super().__init__(
            configuration,
            batch,
            event_observation_space(instance),
            action_count(instance),
            configuration.cluster.plan.value,
        )

    def _decide(self, actions: np.ndarray) -> np.ndarray:
        return self.batch.decide(actions, self._until)

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

    def info(self, k: int, report: DecisionReport) -> dict[str, Any]:
        """The ``info`` of cluster k, in addition to its observation."""
        return super().info(k, report) | {
            "counts": report.counts[k],
            "head_ranks": report.head_ranks[k],
            "head_arrivals": report.head_arrivals[k],
        }
