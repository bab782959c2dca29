"""Quantiles of latencies, close enough together to draw their distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm_sched_env.simulation.events.metrics import LATENCIES, Metrics, bin_edges

LEVELS = np.array(
    [
        *np.arange(0.0, 0.9, 0.02).round(2),
        *np.arange(0.9, 0.99, 0.01).round(2),
        *np.arange(0.99, 0.999, 0.001).round(3),
        0.999,
    ]
)
"""Shares of the requests, in [0, 1); shape (Q,)."""


def latency_quantiles(runs: Sequence[Metrics]) -> dict[str, np.ndarray]:
    """Seconds that a share of :data:`LEVELS` of the requests does not exceed.

    Args:
        runs: of one cluster; their requests count together.

    Returns:
        By latency (``ttft``, ``tpot``, ``e2e``), shape (I + 1, Q): a row for each class, the last
        one for all. At most 1.6% off, as the histograms are; NaN where nothing was counted.
    """
    histograms = np.sum([m.latency_counts for m in runs], axis=0)
    edges = bin_edges()
    found = {}
    for name, k in LATENCIES.items():
        rows = [*histograms[k], histograms[k].sum(axis=0)]
        found[name] = np.array([_quantiles(counts, edges) for counts in rows])
    return found


def _quantiles(counts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    if not counts.any():
        return np.full(len(LEVELS), np.nan)
    used = np.flatnonzero(counts)
    first, last = int(used[0]), int(used[-1])
    own = counts[first : last + 1]
    cumulative = np.concatenate([[0], np.cumsum(own)]) / own.sum()
    found: np.ndarray = np.interp(LEVELS, cumulative, edges[first : last + 2])
    return found


def quantiles_of(values: np.ndarray) -> np.ndarray:
    """Of values one by one, at :data:`LEVELS`; shape (Q,); inf counts as the greatest.

    Example:
        >>> float(quantiles_of(np.arange(101.0))[25])
        50.0
    """
    if len(values) == 0:
        return np.full(len(LEVELS), np.nan)
    found: np.ndarray = np.quantile(values, LEVELS, method="inverted_cdf")
    return found
