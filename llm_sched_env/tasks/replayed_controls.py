"""Control of N clusters, each of which is sent a stretch of a recorded trace of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from llm_sched_env.envs.cluster_control import SavedState
from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.simulation.routed_batch import RoutedBatch
from llm_sched_env.simulation.simulation import SimulationBatch
from llm_sched_env.simulation.state.layout import RequestStream

# Of the seeds that follow from that of an episode, the one of its stretch.
_STREAM = 12


class Part(Protocol):
    """A recorded trace that goes on with its beginning; see :class:`.replays.TracePart`."""

    seconds: float

    def stretch(self, start: float, seconds: float) -> RequestStream:
        """What arrives in so many seconds from a moment on."""


@dataclass(frozen=True)
class SavedReplay(SavedState):
    """A cluster between two steps, and the moment of the trace at which its run began."""

    begun: float = 0.0


class _Stretches:
    """Which stretch each cluster is sent.

    Args:
        part: of the trace.
        seconds: of an episode.
        n_clusters: N.
    """

    def __init__(self, part: Part, seconds: float, n_clusters: int) -> None:
        self._part, self._seconds = part, seconds
        self._begun = np.zeros(n_clusters)

    def send(
        self, batch: SimulationBatch, k: int, seed: np.random.SeedSequence, start: Any
    ) -> None:
        """Give cluster k a stretch from a random moment on, or the rest of a saved one."""
        assert isinstance(batch, RoutedBatch)
        passed = 0.0
        if isinstance(start, SavedState):
            if not isinstance(start, SavedReplay):
                raise ConfigurationError("state", "one of generated requests", "one of a replay")
            self._begun[k] = start.begun
            passed = float(start.engine.clock["time"][0])
        else:
            own = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, _STREAM))
            self._begun[k] = np.random.default_rng(own).uniform(0.0, self._part.seconds)
        batch.give(k, self._part.stretch(float(self._begun[k]), passed + self._seconds))

    def saved(self, batch: SimulationBatch, k: int) -> SavedReplay:
        """The state of cluster k."""
        return SavedReplay(batch.snapshot(k), float(self._begun[k]))


def _own_streams(*settings: Any, **more: Any) -> RoutedBatch:
    """Clusters with recorded requests of their own, under any rule."""
    return RoutedBatch(*settings, **{**more, "own_streams": True})


class ReplayedIntervals(IntervalControl):
    """N clusters whose controls change once per interval, sent stretches of a trace.

    Args:
        configuration: what is controlled and how.
        part: of the trace.
        n_clusters: N.
        threads: of the engine.
    """

    def __init__(
        self, configuration: IntervalConfiguration, part: Part, n_clusters: int, threads: int
    ) -> None:
        # The last interval may reach past the horizon.
        seconds = configuration.steps * configuration.interval
        self._stretches = _Stretches(part, seconds, n_clusters)
        super().__init__(configuration, n_clusters, threads=threads, batch_type=_own_streams)

    def start(
        self, k: int, seed: np.random.SeedSequence, start: str | SavedState | None = None
    ) -> None:
        """Begin an episode on cluster k."""
        self._stretches.send(self.batch, k, seed, start)
        super().start(k, seed, start)

    def save(self, k: int) -> SavedState:
        """The state of cluster k."""
        return self._stretches.saved(self.batch, k)


class ReplayedRouting(RoutingControl):
    """N clusters whose requests, stretches of a trace, an agent sends to GPUs.

    Args:
        configuration: what is controlled and how.
        part: of the trace.
        n_clusters: N.
        threads: of the engine.
    """

    def __init__(
        self, configuration: RoutingConfiguration, part: Part, n_clusters: int, threads: int
    ) -> None:
        self._stretches = _Stretches(part, configuration.horizon, n_clusters)
        super().__init__(configuration, n_clusters, threads=threads, batch_type=_own_streams)

    def start(
        self,
        k: int,
        seed: np.random.SeedSequence,
        start: str | SavedState | None = None,
        end: float | None = None,
    ) -> None:
        """Begin an episode on cluster k and go to its first arrival, or its end."""
        self._stretches.send(self.batch, k, seed, start)
        super().start(k, seed, start, end)

    def save(self, k: int) -> SavedState:
        """The state of cluster k."""
        return self._stretches.saved(self.batch, k)
