"""Costs of measured runs: what the costs of an environment's steps add up to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from llm_sched_env.envs.costs import Costs
from llm_sched_env.evaluation.deadline_attainment import DeadlineAttainment
from llm_sched_env.evaluation.slo_attainment import measured_indicators
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.simulation.events.metrics import Metrics


def run_costs(
    costs: Costs, cluster: Cluster, runs: Sequence[Metrics], seconds: float
) -> np.ndarray:
    """Each cost of each run, shape (C, R), as in an episode of these seconds.

    Args:
        costs: what is measured.
        cluster: that ran.
        runs: their measured seconds.
        seconds: how many those are.
    """
    kinds = [kind for kind in costs.levels if kind is not None]
    levels = tuple(kind(price=0.0) for kind in kinds)
    found = iter(measured_indicators(dataclasses.replace(cluster, slos=levels), runs))
    arrivals = cluster.n_gpus * float(cluster.instance.arrival_rates.sum()) * seconds
    missed = np.array([_missed(metrics, cluster.instance.n_classes) for metrics in runs])
    return np.array([missed / arrivals if kind is None else next(found) for kind in costs.levels])


def _missed(metrics: Metrics, n_classes: int) -> int:
    """Requests that were decided and not good."""
    parts = [DeadlineAttainment.measured([metrics], i) for i in range(n_classes)]
    together = DeadlineAttainment.together(parts)
    return together.decided - together.good
