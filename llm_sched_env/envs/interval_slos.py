"""Achieved service levels of an interval, and their penalties.

An indicator is read at the time averages of the interval's occupancies, as evaluation reads it at
those of a whole run. Its mean over the intervals of a run is at least its value for the run where
the indicator is convex; fairness is, and the time per token if prefills slow iterations down.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.planning.service_levels import PLANNED, Indicator, checked_indicator
from llm_sched_env.simulation.runtime.compiled import compiled, entry_point
from llm_sched_env.simulation.state.compiled_views import cluster_row
from llm_sched_env.simulation.state.layout import EngineState

_X, _Y_MIXED, _Y_SOLO, _Q_PREFILL = range(len(PLANNED))


class LevelTables(NamedTuple):
    """The indicators of L service levels, their T terms one after another."""

    weights: np.ndarray  # (T, 4, I)
    constants: np.ndarray  # (T,)
    first_terms: np.ndarray  # (L + 1,) terms first_terms[l] up to first_terms[l + 1]
    divisors: np.ndarray  # (L, 4, I)
    divisor_constants: np.ndarray  # (L,)
    prices: np.ndarray  # (L,) currency per GPU, second and unit
    growing: np.ndarray  # (I,) bool: q_prefill stands for its growth, 1/s


class LevelReport(NamedTuple):
    """What the L service levels of N clusters came to in an interval."""

    measured: np.ndarray  # (N, L) indicators; before the first interval those of the state
    penalties: np.ndarray  # (N, L) currency


class IntervalLevels:
    """The service levels of N clusters, interval by interval.

    Args:
        cluster: with at least one service level.
        n_clusters: N.
    """

    def __init__(self, cluster: Cluster, n_clusters: int) -> None:
        slos, instance = cluster.slos, cluster.plan.instance
        self.names = [level.name for level in slos]
        self.priced = [level.name for level in slos if level.price is not None]
        self._n_gpus = cluster.n_gpus
        self._tables = level_tables(
            [checked_indicator(level, instance) for level in slos],
            np.array([level.price or 0.0 for level in slos]),
            instance.patience_rates == 0,
        )
        self._areas = np.zeros((n_clusters, len(PLANNED), instance.n_classes))
        self._times = np.zeros(n_clusters)
        self._means = np.zeros((len(PLANNED), instance.n_classes))

    def empty_report(self) -> LevelReport:
        """A report that is not written yet."""
        shape = (len(self._times), len(self.names))
        return LevelReport(np.zeros(shape), np.zeros(shape))

    def read(
        self,
        clusters: np.ndarray,
        reward_scale: float,
        report: LevelReport,
        rewards: np.ndarray,
        first: int,
        last: int,
    ) -> None:
        """Write the interval up to now into a report, and take the penalties off the rewards.

        The next interval of clusters first..last-1 starts now.
        """
        read_levels(
            clusters,
            self._tables,
            self._n_gpus,
            reward_scale,
            self._areas,
            self._times,
            self._means,
            report.measured,
            report.penalties,
            rewards,
            first,
            last,
        )


def level_tables(
    indicators: list[Indicator], prices: np.ndarray, growing: np.ndarray
) -> LevelTables:
    """Indicators as compiled code reads them.

    Args:
        indicators: L of them.
        prices: currency per GPU, second and unit, shape (L,).
        growing: classes whose q_prefill stands for its growth, bool, shape (I,).
    """
    shape = indicators[0].weights.shape[1:]
    divisors = [np.zeros(shape) if i.divisor is None else i.divisor for i in indicators]
    return LevelTables(
        weights=np.concatenate([i.weights for i in indicators]),
        constants=np.concatenate([i.constants for i in indicators]),
        first_terms=np.cumsum([0, *(len(i.constants) for i in indicators)]),
        divisors=np.array(divisors),
        divisor_constants=np.array([i.divisor_constant for i in indicators]),
        prices=prices,
        growing=growing,
    )


@compiled
def _area(state: EngineState, tables: LevelTables, row: int, i: int) -> Any:
    """The time integral of a row of ``PLANNED``; of a growing queue its length."""
    own, totals = state.classes[i], state.totals[i]
    time = state.clock[0].time
    if row == _X:
        return own.x * time + totals.x_area
    if row == _Y_MIXED:
        return own.y_mixed * time + totals.y_mixed_area
    if row == _Y_SOLO:
        return own.y_solo * time + totals.y_solo_area
    if tables.growing[i]:
        return float(own.q_prefill)
    return own.q_prefill * time + totals.q_prefill_area


@compiled
def _count(state: EngineState, tables: LevelTables, row: int, i: int) -> Any:
    """Requests now; a growing queue does not grow in no time."""
    own = state.classes[i]
    if row == _X:
        return own.x
    if row == _Y_MIXED:
        return own.y_mixed
    if row == _Y_SOLO:
        return own.y_solo
    return 0 if tables.growing[i] else own.q_prefill


@compiled
def _affine(weights: np.ndarray, constant: float, means: np.ndarray) -> float:
    total = constant
    for row in range(means.shape[0]):
        for i in range(means.shape[1]):
            total += weights[row, i] * means[row, i]
    return total


@entry_point
def read_levels(
    clusters: np.ndarray,
    tables: LevelTables,
    n_gpus: int,
    reward_scale: float,
    areas: np.ndarray,
    times: np.ndarray,
    means: np.ndarray,
    measured: np.ndarray,
    penalties: np.ndarray,
    rewards: np.ndarray,
    first: int,
    last: int,
) -> None:
    """Read the intervals of clusters first..last-1 up to now; the next ones start.

    Args:
        clusters: stacked, by clusters_of.
        tables: the service levels.
        n_gpus: n.
        reward_scale: reward per currency.
        areas: time integrals at the start of the interval, then now; shape (N, 4, I).
        times: when it started, then now; s, shape (N,).
        means: room for one cluster's time averages, shape (4, I).
        measured: receives the indicators, shape (N, L).
        penalties: receives their prices, currency, shape (N, L).
        rewards: lose these, scaled, shape (N,).
        first: the first cluster.
        last: one past the last cluster.
    """
    for k in range(first, last):
        state = cluster_row(clusters, k)
        now = state.clock[0].time
        seconds = now - times[k]
        times[k] = now
        for row in range(means.shape[0]):
            for i in range(means.shape[1]):
                area = _area(state, tables, row, i)
                if seconds > 0.0:
                    means[row, i] = (area - areas[k, row, i]) / (n_gpus * seconds)
                else:
                    means[row, i] = _count(state, tables, row, i) / n_gpus
                areas[k, row, i] = area
        for level in range(len(tables.prices)):
            greatest = -np.inf
            for term in range(tables.first_terms[level], tables.first_terms[level + 1]):
                value = _affine(tables.weights[term], tables.constants[term], means)
                greatest = max(greatest, value)
            divisor = _affine(tables.divisors[level], tables.divisor_constants[level], means)
            measured[k, level] = greatest / divisor
            penalty = tables.prices[level] * measured[k, level] * n_gpus * seconds
            penalties[k, level] = penalty
            rewards[k] -= penalty * reward_scale
