"""The reward: revenue of an interval as a share of what the fluid bound allows."""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.compiled import entry_point
from llm_sched_env.simulation.layout import EngineState


@entry_point
def cumulative_revenue(
    states: EngineState, bundled: bool, revenue: np.ndarray, first: int, last: int
) -> None:
    """Write what clusters first..last-1 have earned, by the terms prompt and output.

    Bundled charging (22) bills both when the decode completes, separate charging (23) the
    prompt when the prefill completes.

    Args:
        states: stacked clusters.
        bundled: which charging.
        revenue: receives currency since the last reset of metrics, shape (N, 2).
        first: the first cluster.
        last: one past the last cluster.
    """
    for k in range(first, last):
        prompt, output = 0.0, 0.0
        for i in range(states.totals.shape[1]):
            totals = states.totals[k, i]
            output += totals.decode_revenue
            if bundled:
                prompt += totals.bundled_revenue - totals.decode_revenue
            else:
                prompt += totals.prefill_revenue
        revenue[k, 0] = prompt
        revenue[k, 1] = output
