"""Achieved service levels, from run metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm_sched_env.evaluation.results import Estimate, SloAttainment
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import ServiceLevel
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.planning.service_levels import checked_indicator
from llm_sched_env.simulation.events.metrics import Metrics

# A mean this close to its limit keeps it: rounding.
_ROUNDING = 1e-9


def measured_indicators(cluster: Cluster, runs: Sequence[Metrics]) -> np.ndarray:
    """Each indicator at each run's time averages; shape (L, R)."""
    slos, instance = cluster.slos, cluster.plan.instance
    occupancies = [_measured_occupancy(instance, metrics) for metrics in runs]
    values = np.zeros((len(slos), len(runs)))
    for k, level in enumerate(slos):
        indicator = checked_indicator(level, instance)
        values[k] = [indicator.value(occupancy) for occupancy in occupancies]
    return values


def penalty_rates(slos: Sequence[ServiceLevel], values: np.ndarray) -> np.ndarray:
    """Price times indicator for values of shape (L, R); currency per GPU and second."""
    prices = np.array([[level.price or 0.0] for level in slos]).reshape(-1, 1)
    penalties: np.ndarray = prices * values
    return penalties


def slo_attainment(cluster: Cluster, values: np.ndarray) -> dict[str, SloAttainment]:
    """What each objective came to, by name; values as :func:`measured_indicators` returns them."""
    found, slos = {}, cluster.slos
    for level, own, penalties in zip(slos, values, penalty_rates(slos, values), strict=True):
        measured, met = Estimate.of(own), None
        if level.limit is not None:
            met = measured.mean <= level.limit + _ROUNDING * abs(level.limit)
        found[level.name] = SloAttainment(
            measured=measured,
            planned=cluster.plan.slos[level.name].value,
            limit=level.limit,
            met=met,
            price=level.price,
            penalty=Estimate.of(penalties),
        )
    return found


def decode_tpot(instance: Instance, metrics: Metrics) -> float:
    """TPOT without the wait for a slot: seconds in decode slots per output token; NaN without any.

    At two speeds the tokens follow from where the decodes were; where iterations have other times
    or requests wait for them, they are those of the requests that were completed.
    """
    y_mixed, y_solo = (float(metrics.occupancy[name].sum()) for name in ("y_mixed", "y_solo"))
    kinds = [group.hardware for group in instance.groups]
    if all(kind.iteration_law == "two-speed" and not kind.whole_iterations for kind in kinds):
        mixed, solo = (metrics.by_group[name].sum(axis=0) for name in ("y_mixed", "y_solo"))
        groups = zip(mixed, solo, kinds, strict=True)
        tokens = sum(float(m / kind.tau_mixed + s / kind.tau_solo) for m, s, kind in groups)
    else:
        tokens = float(metrics.output_tokens.sum()) / metrics.gpu_seconds
    return (y_mixed + y_solo) / tokens if tokens > 0 else float("nan")


def _measured_occupancy(instance: Instance, metrics: Metrics) -> np.ndarray:
    """Time averages per GPU in the rows of ``PLANNED``, shape (4, I).

    As in plans, q_prefill of a class without abandonment is the growth of its queue, 1/s.
    """
    x, y_mixed, y_solo, q_prefill = (
        metrics.occupancy[name] for name in ("x", "y_mixed", "y_solo", "q_prefill")
    )
    counts = metrics.counts
    joined = counts["arrived"] - counts["rejected"] - counts["admitted"]
    growth = joined / metrics.gpu_seconds
    return np.array([x, y_mixed, y_solo, np.where(instance.patience_rates > 0, q_prefill, growth)])
