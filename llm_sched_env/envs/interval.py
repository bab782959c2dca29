"""Interval control of N clusters: the mechanics shared by every environment and by evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.observation import observation_space, observe
from llm_sched_env.envs.reward import cumulative_revenue, score_reward
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning import plan
from llm_sched_env.planning.fluid import mixed_pool_size
from llm_sched_env.simulation.layout import EngineState, RequestStream
from llm_sched_env.simulation.random_streams import stream_keys
from llm_sched_env.simulation.simulation import SimulationBatch

# Actions this far outside [0, 1] are rounding of a float32 computation, beyond it an error.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class SavedState:
    """A cluster between two intervals: pass it to ``reset(options={"state": ...})``."""

    engine: EngineState


class IntervalControl:
    """N clusters whose controls change once per interval.

    Args:
        configuration: what is controlled and how.
        n_clusters: N.
        stream: recorded requests; default Poisson arrivals.
    """

    def __init__(
        self,
        configuration: IntervalConfiguration,
        n_clusters: int = 1,
        stream: RequestStream | None = None,
    ) -> None:
        self.configuration = configuration
        self.plan = plan(configuration.instance, configuration.pricing)
        self.batch = SimulationBatch(
            configuration.instance, configuration.rule, configuration.n_gpus, n_clusters, stream
        )
        self._controlled = configuration.controlled
        self._origin = np.zeros(n_clusters)
        self._steps = np.zeros(n_clusters, np.int64)
        self.observation_space = observation_space(configuration.instance)
        self.action_space = spaces.Box(0.0, 1.0, (len(self._controlled),), np.float32)

    @property
    def plan_action(self) -> np.ndarray:
        """The fluid plan as a constant action of this environment; float32."""
        action: np.ndarray = self.plan.action[self._controlled].astype(np.float32)
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
            controls = self._controls(self.plan.action[self._controlled][None])[0]
            self.batch.start(k, seed, controls, occupancy)
        self._origin[k] = self.batch.states.clock["time"][k, 0]

    def save(self, k: int) -> SavedState:
        """The state of cluster k."""
        return SavedState(self.batch.snapshot(k))

    def checked_actions(self, actions: Any, shape: tuple[int, ...]) -> np.ndarray:
        """Actions as floats of the given shape in [0, 1]; raises ConfigurationError."""
        try:
            array = np.asarray(actions, dtype=np.float64)
        except (TypeError, ValueError):
            raise ConfigurationError("action", actions, f"numbers of shape {shape}") from None
        if array.shape != shape:
            raise ConfigurationError("action of shape", array.shape, f"shape {shape}")
        if not (np.isfinite(array) & (array >= -_ROUNDING) & (array <= 1 + _ROUNDING)).all():
            raise ConfigurationError(
                "action", array.tolist(), "finite numbers in [0, 1]", "clip or rescale them"
            )
        return np.clip(array, 0.0, 1.0)

    def _controls(self, actions: np.ndarray) -> np.ndarray:
        """Engine controls of checked actions (N, A): the uncontrolled parts stay at the plan."""
        controls = np.tile(self.plan.action, (len(actions), 1))
        controls[:, self._controlled] = actions
        controls[:, -1] = mixed_pool_size(controls[:, -1], self.configuration.n_gpus)
        return controls

    def step(
        self, actions: np.ndarray, rows: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Hold checked actions (N, A) for one interval on a range of rows (default all).

        Returns:
            Rewards, shape (N,), and revenue terms in currency, shape (N, 2); zero outside.
        """
        first, last = rows if rows is not None else (0, self.batch.n_clusters)
        pricing, interval = self.configuration.pricing, self.configuration.interval
        before = cumulative_revenue(self.batch.states, pricing)
        self._steps[first:last] += 1
        until = self._origin + self._steps * interval
        self.batch.run(until, self._controls(actions), (first, last))
        terms = cumulative_revenue(self.batch.states, pricing) - before
        gpu_seconds = self.configuration.n_gpus * interval
        return score_reward(terms, gpu_seconds, self.plan.value), terms

    def observations(self) -> np.ndarray:
        """What the agents see now; float32, shape (N, 6I + 4), a fresh array."""
        return observe(self.batch.states, self.configuration.instance.hardware.batch_slots)

    def truncated(self) -> np.ndarray:
        """Which episodes have reached the horizon; shape (N,), bool."""
        return self._steps >= self.configuration.steps

    def info(self, k: int, terms: np.ndarray) -> dict[str, Any]:
        """What an agent is told beside the observation of cluster k; terms of shape (2,)."""
        prompt, output = terms.tolist()
        return {"time": float(self.times()[k]), "revenue": {"prompt": prompt, "output": output}}

    def times(self) -> np.ndarray:
        """Seconds since each cluster's start; shape (N,)."""
        return self.batch.states.clock["time"][:, 0].copy()
