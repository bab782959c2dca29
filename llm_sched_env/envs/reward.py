"""The reward: revenue of an interval as a share of what the fluid bound allows."""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.layout import EngineState


def cumulative_revenue(states: EngineState, pricing: str) -> np.ndarray:
    """Revenue earned since the start, currency, by its terms prompt and output; shape (N, 2).

    Bundled charging (22) bills both when the decode completes, separate charging (23) the
    prompt when the prefill completes.
    """
    totals = states.totals
    output = totals["decode_revenue"].sum(axis=1)
    if pricing == "bundled":
        prompt = totals["bundled_revenue"].sum(axis=1) - output
    else:
        prompt = totals["prefill_revenue"].sum(axis=1)
    return np.stack([prompt, output], axis=1)


def score_reward(terms: np.ndarray, gpu_seconds: float, bound: float) -> np.ndarray:
    """Revenue (N, 2) over n * interval * R*: its mean over time is the score; shape (N,)."""
    score: np.ndarray = terms.sum(axis=1) / (gpu_seconds * bound)
    return score
