"""What an agent sees and earns, read from the engine's state in compiled code.

Observations (observation.py) show occupancies per GPU, bounded, so that a policy moves between
cluster sizes. True lengths and patience never enter: only counts, free slots and admission
credit. The reward is the revenue of an interval as a share of what the fluid bound allows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.simulation.compiled import compiled, entry_point
from llm_sched_env.simulation.gates import CREDIT_CAP
from llm_sched_env.simulation.layout import N_AVAILABLE_SETS, EngineState


@compiled
def _credit_now(states: EngineState, k: int, i: int) -> Any:
    """Admission credit of class i at cluster k's own time, as a share of full credit."""
    control = states.control[k, i]
    if control.unlimited:
        return 1.0
    earned = control.credit_rate * (states.clock[k, 0].time - control.credit_time)
    return min(CREDIT_CAP, control.credit + earned) / CREDIT_CAP


@compiled
def _observe_cluster(states: EngineState, k: int, observation: np.ndarray) -> None:
    n = states.gpus.shape[1]
    n_classes = states.classes.shape[1]
    slots = states.settings[k, 0].batch_slots
    in_service = 0
    for i in range(n_classes):
        own = states.classes[k, i]
        in_service += own.x + own.y_mixed + own.y_solo
        observation[i] = own.q_prefill / (n + own.q_prefill)
        observation[n_classes + i] = own.x / n
        observation[2 * n_classes + i] = own.q_decode / (n + own.q_decode)
        observation[3 * n_classes + i] = own.y_mixed / (n * (slots - 1))
        observation[4 * n_classes + i] = own.y_solo / (n * slots)
        observation[5 * n_classes + i] = _credit_now(states, k, i)
    observation[6 * n_classes] = 1.0 - in_service / (n * slots)
    for which in range(N_AVAILABLE_SETS):
        observation[6 * n_classes + 1 + which] = states.available_sizes[k, which] / n


@compiled
def _revenue_of_cluster(states: EngineState, k: int, bundled: bool) -> tuple[float, float]:
    """Currency since the last reset of metrics, by its terms prompt and output.

    Bundled charging (22) bills both when the decode completes, separate charging (23) the
    prompt when the prefill completes.
    """
    prompt, output = 0.0, 0.0
    for i in range(states.totals.shape[1]):
        totals = states.totals[k, i]
        output += totals.decode_revenue
        if bundled:
            prompt += totals.bundled_revenue - totals.decode_revenue
        else:
            prompt += totals.prefill_revenue
    return prompt, output


@entry_point
def read_clusters(
    states: EngineState,
    bundled: bool,
    reward_scale: float,
    billed: np.ndarray,
    counted: np.ndarray,
    observations: np.ndarray,
    revenue: np.ndarray,
    arrived: np.ndarray,
    terms: np.ndarray,
    rewards: np.ndarray,
    arrivals: np.ndarray,
    first: int,
    last: int,
) -> None:
    """Read clusters first..last-1; the same call again gives the same numbers.

    Args:
        states: stacked clusters.
        bundled: which charging.
        reward_scale: reward per currency, 1 / (n * interval * R*).
        billed: revenue by prompt and output up to the last interval, currency, shape (N, 2).
        counted: arrivals up to the last interval, int64, shape (N, I).
        observations: receives what agents see; float32, shape (N, 6I + 4).
        revenue: receives the revenue by prompt and output up to now, shape (N, 2).
        arrived: receives the arrivals up to now, shape (N, I).
        terms: receives the revenue of the interval, shape (N, 2).
        rewards: receives its sum times the scale, shape (N,).
        arrivals: receives the arrivals of the interval, shape (N, I).
        first: the first cluster.
        last: one past the last cluster.
    """
    for k in range(first, last):
        _observe_cluster(states, k, observations[k])
        prompt, output = _revenue_of_cluster(states, k, bundled)
        revenue[k, 0] = prompt
        revenue[k, 1] = output
        terms[k, 0] = prompt - billed[k, 0]
        terms[k, 1] = output - billed[k, 1]
        rewards[k] = (terms[k, 0] + terms[k, 1]) * reward_scale
        for i in range(states.totals.shape[1]):
            arrived[k, i] = states.totals[k, i].arrived
            arrivals[k, i] = arrived[k, i] - counted[k, i]
