"""What an agent sees: occupancies per GPU, bounded, so that a policy moves between cluster sizes.

True lengths and patience never enter: only counts, free slots and admission credit.
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from llm_sched_env.instance import Instance
from llm_sched_env.simulation.compiled import compiled, entry_point
from llm_sched_env.simulation.gates import CREDIT_CAP
from llm_sched_env.simulation.layout import N_AVAILABLE_SETS, EngineState

CLASS_FEATURES = ("q_prefill", "x", "q_decode", "y_mixed", "y_solo", "credit")
CLUSTER_FEATURES = ("free slots", "GPUs open to solo decode", "to mixed decode", "to prefill")


def observation_space(instance: Instance) -> spaces.Box:
    """A flat box in [0, 1] of 6 features per class and 4 of the cluster."""
    size = len(CLASS_FEATURES) * instance.n_classes + len(CLUSTER_FEATURES)
    return spaces.Box(0.0, 1.0, (size,), np.float32)


def feature_names(instance: Instance) -> list[str]:
    """The name of each entry of the observation, in order."""
    per_class = [f"{f} of {c.name}" for f in CLASS_FEATURES for c in instance.classes]
    return [*per_class, *CLUSTER_FEATURES]


@compiled
def _credit_now(states: EngineState, k: int, i: int) -> float:
    """Admission credit of class i at cluster k's own time, as a share of full credit."""
    control = states.control[k, i]
    if control.unlimited:
        return 1.0
    earned = control.credit_rate * (states.clock[k, 0].time - control.credit_time)
    return min(CREDIT_CAP, control.credit + earned) / CREDIT_CAP


@entry_point
def observe(states: EngineState, observations: np.ndarray, first: int, last: int) -> None:
    """Write the observations of clusters first..last-1; float32, shape (N, 6I + 4).

    Queues q per GPU are shown as q / (1 + q); prefills per GPU; decodes beside a prefill per
    B - 1 slots, others per B slots; credit per full credit; free slots and available GPUs as
    shares of the cluster's.
    """
    n = states.gpus.shape[1]
    n_classes = states.classes.shape[1]
    for k in range(first, last):
        slots = states.settings[k, 0].batch_slots
        row = observations[k]
        in_service = 0
        for i in range(n_classes):
            own = states.classes[k, i]
            in_service += own.x + own.y_mixed + own.y_solo
            row[i] = own.q_prefill / (n + own.q_prefill)
            row[n_classes + i] = own.x / n
            row[2 * n_classes + i] = own.q_decode / (n + own.q_decode)
            row[3 * n_classes + i] = own.y_mixed / (n * (slots - 1))
            row[4 * n_classes + i] = own.y_solo / (n * slots)
            row[5 * n_classes + i] = _credit_now(states, k, i)
        row[6 * n_classes] = 1.0 - in_service / (n * slots)
        for which in range(N_AVAILABLE_SETS):
            row[6 * n_classes + 1 + which] = states.available_sizes[k, which] / n
