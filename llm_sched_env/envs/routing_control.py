"""Control of N clusters whose arrivals an agent routes, shared by environments and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.envs.cluster_control import SavedState
from llm_sched_env.envs.decision_control import DecisionControl, TimedReport
from llm_sched_env.envs.episode_requests import EpisodeRequests
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_kernels import read_arrivals
from llm_sched_env.envs.routing_space import (
    CANDIDATE_NUMBERS,
    routing_action_count,
    routing_observation_space,
)
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.simulation.events.decisions import RUN_ON, STAND_STILL
from llm_sched_env.simulation.routed_batch import RoutedBatch
from llm_sched_env.simulation.state.layout import RequestStream


@dataclass(frozen=True)
class ArrivalReport(TimedReport):
    """What N clusters show when a request has come.

    Attributes:
        gpus: of each action, -1: there is none; int64, shape (N, A).
        known: what is known of them, rows CANDIDATE_NUMBERS, shape (N, 7, A).
        classes: of the request, -1: there is none, at the end of an episode; int64, shape (N,).
        prompts: its prompt tokens, shape (N,).
    """

    gpus: np.ndarray
    known: np.ndarray
    classes: np.ndarray
    prompts: np.ndarray


@dataclass(frozen=True)
class SavedRouting(SavedState):
    """A cluster between two steps, and the requests that were drawn for it."""

    requests: EpisodeRequests | None = None


class RoutingControl(DecisionControl[RoutingConfiguration, RoutedBatch, ArrivalReport]):
    """N clusters whose requests an agent sends to GPUs as they arrive.

    Args:
        configuration: what is controlled and how.
        n_clusters: N.
        stream: recorded requests of all clusters; default: drawn from the instance, for each
            episode where they share prefixes.
        threads: rows are split over this many threads; the result does not depend on it.
        latencies: whether latency histograms are kept.
        billing: as in :class:`SimulationBatch`.
        log_events: room for this many entries of each cluster's event log.
        batch_type: builds the clusters.
    """

    def __init__(
        self,
        configuration: RoutingConfiguration,
        n_clusters: int = 1,
        stream: RequestStream | None = None,
        threads: int = 1,
        *,
        latencies: bool = False,
        billing: str | None = None,
        log_events: int = 0,
        batch_type: Callable[..., RoutedBatch] = RoutedBatch,
    ) -> None:
        cluster = configuration.cluster
        drawn_each = configuration.conversations is not None and stream is None
        batch = batch_type(
            cluster.instance,
            configuration.rule,
            cluster.n_gpus,
            n_clusters,
            stream=stream,
            own_streams=drawn_each,
            log_events=log_events,
            latencies=latencies,
            threads=threads,
            billing=billing,
        )
        self._conversations = configuration.conversations if drawn_each else None
        self._requests: list[EpisodeRequests | None] = [None] * n_clusters
        super().__init__(
            configuration,
            batch,
            routing_observation_space(cluster.instance, configuration.candidates),
            routing_action_count(cluster.instance, configuration.candidates),
            cluster.bound(cluster.instance),
        )
        self._gpus = np.full((n_clusters, self.n_actions), -1)

    def start(
        self,
        k: int,
        seed: np.random.SeedSequence,
        start: str | SavedState | None = None,
        end: float | None = None,
    ) -> None:
        """Begin an episode on cluster k and go to its first arrival, or its end."""
        if self._conversations is not None:
            own = self._requests_of_episode(seed, start)
            self._requests[k] = own
            self.batch.give(k, own.stream)
        super().start(k, seed, start, end)
        actions = np.full(self.batch.n_clusters, STAND_STILL)
        actions[k] = RUN_ON
        self._finished = self.batch.route(actions, self._until)
        self._read(self._scratch, k, k + 1)

    def _requests_of_episode(
        self, seed: np.random.SeedSequence, start: str | SavedState | None
    ) -> EpisodeRequests:
        """Those of a saved state go on, and as many more as the episode is long."""
        assert self._conversations is not None
        n_gpus, horizon = self.cluster.n_gpus, self.configuration.horizon
        if not isinstance(start, SavedState):
            return EpisodeRequests.drawn(self._conversations, n_gpus, horizon, seed)
        if not isinstance(start, SavedRouting) or start.requests is None:
            raise ConfigurationError("state", "one without requests", "one of this environment")
        until = float(start.engine.clock["time"][0]) + horizon
        return start.requests.extended(self._conversations, n_gpus, until, seed)

    def save(self, k: int) -> SavedState:
        """The state of cluster k."""
        return SavedRouting(self.batch.snapshot(k), self._requests[k])

    def _decide(self, actions: np.ndarray) -> np.ndarray:
        chosen = np.take_along_axis(self._gpus, np.maximum(actions, 0)[:, None], axis=1)[:, 0]
        return self.batch.route(np.where(actions >= 0, chosen, actions), self._until)

    def empty_report(self) -> ArrivalReport:
        """A report in which nothing has been earned; the observations are not written yet."""
        n, actions = self.batch.n_clusters, self.n_actions
        return ArrivalReport(
            *self._empty_arrays(),
            times=np.zeros(n),
            elapsed=np.zeros(n),
            events=np.zeros(n, np.int64),
            masks=np.zeros((n, actions), np.int8),
            gpus=np.full((n, actions), -1),
            known=np.zeros((n, len(CANDIDATE_NUMBERS), actions)),
            classes=np.full(n, -1),
            prompts=np.zeros(n),
        )

    def _read(self, report: ArrivalReport, first: int, last: int) -> None:
        """Write what clusters first..last-1 show, and have earned since the last decision."""
        read_arrivals(
            self.batch.clusters,
            self._scheme,
            self._reward_scale,
            self._billed,
            self._decided_at,
            self.configuration.load == "requests",
            report.observations,
            self._revenue,
            report.terms,
            report.rewards,
            report.times,
            report.elapsed,
            report.events,
            report.masks,
            report.gpus,
            report.known,
            report.classes,
            report.prompts,
            first,
            last,
        )
        self._masks[first:last] = report.masks[first:last]
        self._gpus[first:last] = report.gpus[first:last]

    def info(self, k: int, report: ArrivalReport) -> dict[str, Any]:
        """The ``info`` of cluster k, in addition to its observation."""
        return super().info(k, report) | {
            "request_class": int(report.classes[k]),
            "prompt_tokens": float(report.prompts[k]),
            "gpus": report.gpus[k],
            **dict(zip(CANDIDATE_NUMBERS, report.known[k], strict=True)),
        }
