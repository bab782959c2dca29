"""Named costs of an episode, with budgets: what constrained agents read in ``info``.

Each cost adds up over an episode to a number of the whole run, the one that evaluation reports: a
service level at the run's time averages, or the share of requests that missed their deadlines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.envs.interval_slos import level_tables, read_levels
from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.planning import Abandonment, FluidPlan, ServiceLevel, plan
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.planning.service_level_names import SERVICE_LEVELS, named_service_level
from llm_sched_env.planning.service_levels import PLANNED, checked_indicator
from llm_sched_env.simulation.simulation import SimulationBatch

DEADLINE_MISSES = "deadline-misses"
COST_NAMES = (*SERVICE_LEVELS, DEADLINE_MISSES)
"""Names of costs; ``package.module:Name`` of a service level is another."""

_MISSED = ("completed", "abandoned_prefill", "abandoned_decode", "rejected")


@dataclass(frozen=True)
class Costs:
    """Validated names of costs and their budgets.

    Attributes:
        names: of all costs, C of them.
        levels: the service level of each; None for deadline misses.
        budgets: greatest allowed sum over an episode, by name, of those that have one.
    """

    names: tuple[str, ...]
    levels: tuple[type[ServiceLevel] | None, ...]
    budgets: dict[str, float]

    @classmethod
    def checked(
        cls,
        costs: Sequence[str],
        budgets: Mapping[str, float] | None,
        cluster: Cluster,
    ) -> Costs | None:
        """The costs that are meant; None without any.

        Args:
            costs: names of :data:`COST_NAMES`, or import paths of service levels.
            budgets: by name; a cost with a budget need not be named in ``costs``.
            cluster: whose costs they are.

        Raises:
            ConfigurationError: for another name, or a budget that is no finite number >= 0.
        """
        if isinstance(costs, (str, Mapping)) or not isinstance(costs, Iterable):
            raise ConfigurationError("costs", costs, 'a list of names such as ["tpot"]')
        if budgets is not None and not isinstance(budgets, Mapping):
            raise ConfigurationError("budgets", budgets, 'numbers by name, such as {"tpot": 0.024}')
        kinds = {str(name): _kind(name) for name in (*costs, *(budgets or {}))}
        if not kinds:
            return None
        given = tuple(kinds)
        names = tuple(DEADLINE_MISSES if kind is None else kind.name for kind in kinds.values())
        if len(set(names)) < len(names):
            raise ConfigurationError("costs", given, "each once")
        if any(kind is not None for kind in kinds.values()) and len(cluster.instance.groups) > 1:
            raise ConfigurationError(
                "costs", given, f"{DEADLINE_MISSES} alone, with several groups of GPUs"
            )
        told = dict(zip(given, names, strict=True))
        for name, budget in (budgets or {}).items():
            if not is_finite_number(budget):
                raise ConfigurationError(f"budget of {name}", budget, "a finite number >= 0")
        numbers = {told[name]: float(budget) for name, budget in (budgets or {}).items()}
        return cls(names, tuple(kinds.values()), numbers)

    def constrained_plan(self, cluster: Cluster) -> FluidPlan:
        """The fluid plan under the budgets: the most that a policy that keeps them can earn.

        Of deadline misses the program knows those who give up before their prefill: every policy
        misses at least these, so that the plan's revenue is a bound.

        Raises:
            PlanError: where a budget cannot be kept; it says what can.
        """
        limits: dict[str, ServiceLevel] = {}
        for name, kind in zip(self.names, self.levels, strict=True):
            if name in self.budgets:
                level = (kind or Abandonment)(limit=self.budgets[name])
                known = limits.get(level.name)
                if known is None or (known.limit or 0.0) > self.budgets[name]:
                    limits[level.name] = level
        own = [level for level in cluster.slos if level.name not in limits]
        return plan(cluster.instance, cluster.pricing, slos=[*own, *limits.values()])


class CostMeter:
    """The costs of N clusters, step by step.

    The sum since the beginning is known at any time: of a service level its value at the time
    averages since then, times the share of the episode that has passed; of deadline misses their
    number over the arrivals that an episode has in the mean. A step costs what it adds.

    Args:
        costs: what is measured.
        cluster: what the clusters are.
        batch: the clusters.
        seconds: of an episode.
    """

    def __init__(
        self, costs: Costs, cluster: Cluster, batch: SimulationBatch, seconds: float
    ) -> None:
        self.names = costs.names
        self._batch, self._n_gpus, self._seconds = batch, cluster.n_gpus, seconds
        instance, n = cluster.plan.instance, batch.n_clusters
        measured = [kind(price=0.0) for kind in costs.levels if kind is not None]
        self._level_columns = [k for k, kind in enumerate(costs.levels) if kind is not None]
        self._miss_columns = [k for k, kind in enumerate(costs.levels) if kind is None]
        self._tables = None
        if measured:
            indicators = [checked_indicator(level, instance) for level in measured]
            unpriced = np.zeros(len(indicators))
            self._tables = level_tables(indicators, unpriced, instance.patience_rates == 0)
            self._areas = np.zeros((n, len(PLANNED), instance.n_classes))
            self._means = np.zeros(self._areas.shape[1:])
        arriving = float(cluster.instance.arrival_rates.sum())
        self._arrivals = cluster.n_gpus * arriving * seconds
        self._begun = np.zeros(n)
        self._missed = np.zeros(n, np.int64)
        self._counted = np.zeros((n, len(self.names)))

    def none(self) -> np.ndarray:
        """No costs; shape (N, C)."""
        return np.zeros_like(self._counted)

    def begin(self, k: int) -> None:
        """Cluster k begins an episode."""
        if self._tables is not None:
            self._read(self._areas, self._begun, k, k + 1)
        self._begun[k] = self._batch.states.clock["time"][k, 0]
        self._missed[k] = self._misses(k, k + 1)[0]
        self._counted[k] = 0.0

    def take(self, costs: np.ndarray | None, first: int, last: int) -> None:
        """Write what clusters first..last-1 have cost since this was last asked."""
        assert costs is not None
        now = np.zeros((last - first, len(self.names)))
        if self._level_columns:
            times = self._batch.states.clock["time"][first:last, 0]
            passed = (times - self._begun[first:last]) / self._seconds
            measured = self._read(self._areas.copy(), self._begun.copy(), first, last)
            now[:, self._level_columns] = measured * passed[:, None]
        if self._miss_columns:
            missed = self._misses(first, last) - self._missed[first:last]
            now[:, self._miss_columns] = missed[:, None] / self._arrivals
        costs[first:last] = now - self._counted[first:last]
        self._counted[first:last] = now

    def _read(self, areas: np.ndarray, times: np.ndarray, first: int, last: int) -> np.ndarray:
        """Indicators since the times of the areas, which become those of now; shape (., L)."""
        n, levels = len(areas), len(self._level_columns)
        measured, penalties, rewards = np.zeros((n, levels)), np.zeros((n, levels)), np.zeros(n)
        read_levels(
            self._batch.clusters,
            self._tables,
            self._n_gpus,
            0.0,
            areas,
            times,
            self._means,
            measured,
            penalties,
            rewards,
            first,
            last,
        )
        return measured[first:last]

    def _misses(self, first: int, last: int) -> np.ndarray:
        """Requests that were decided and not good, since the counts were last reset."""
        totals = self._batch.states.totals[first:last]
        decided = sum(totals[name].sum(axis=1) for name in _MISSED)
        missed: np.ndarray = decided - totals["good"].sum(axis=1)
        return missed


def cost_info(names: Sequence[str], costs: np.ndarray) -> dict[str, Any]:
    """``cost`` and ``costs`` of one cluster; costs of shape (C,)."""
    return {"cost": float(costs.sum()), "costs": dict(zip(names, costs.tolist(), strict=True))}


def cost_infos(names: Sequence[str], costs: np.ndarray) -> dict[str, Any]:
    """The same of N clusters, shape (N, C), as Gymnasium nests infos."""
    every = np.ones(len(costs), np.bool_)
    named = {name: costs[:, column].copy() for column, name in enumerate(names)}
    nested = named | {f"_{name}": every for name in named}
    return {"cost": costs.sum(axis=1), "_cost": every, "costs": nested, "_costs": every}


def _kind(name: Any) -> type[ServiceLevel] | None:
    """The service level of a cost; None for deadline misses."""
    if isinstance(name, str) and name == DEADLINE_MISSES:
        return None
    if not isinstance(name, str) or (name not in SERVICE_LEVELS and ":" not in name):
        allowed = ", ".join((*COST_NAMES, "package.module:Name"))
        raise ConfigurationError("cost", name, allowed)
    return type(named_service_level(f"{name}@price=0"))
