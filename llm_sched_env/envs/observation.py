"""What an agent sees: occupancies per GPU, bounded, so that a policy moves between cluster sizes.

True lengths and patience never enter: only counts, free slots and admission credit.
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from llm_sched_env.instance import Instance
from llm_sched_env.simulation.gates import CREDIT_CAP
from llm_sched_env.simulation.layout import EngineState

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


def observe(states: EngineState, batch_slots: int) -> np.ndarray:
    """Observations of N stacked clusters; float32, shape (N, 6I + 4), a fresh array.

    Queues q per GPU are shown as q / (1 + q); prefills per GPU; decodes beside a prefill per
    B - 1 slots, others per B slots; credit per full credit; free slots and available GPUs as
    shares of the cluster's.
    """
    n = states.gpus.shape[1]
    classes = states.classes
    queue_prefill = classes["q_prefill"] / n
    queue_decode = classes["q_decode"] / n
    in_service = (classes["x"] + classes["y_mixed"] + classes["y_solo"]).sum(axis=1, keepdims=True)
    features = (
        queue_prefill / (1 + queue_prefill),
        classes["x"] / n,
        queue_decode / (1 + queue_decode),
        classes["y_mixed"] / (n * (batch_slots - 1)),
        classes["y_solo"] / (n * batch_slots),
        _credit_now(states) / CREDIT_CAP,
        1 - in_service / (n * batch_slots),
        states.available_sizes / n,
    )
    observation: np.ndarray = np.clip(np.concatenate(features, axis=1), 0.0, 1.0)
    return observation.astype(np.float32)


def _credit_now(states: EngineState) -> np.ndarray:
    """Admission credit at each cluster's own time; shape (N, I)."""
    control = states.control
    earned = control["credit_rate"] * (states.clock["time"] - control["credit_time"])
    credit = np.minimum(CREDIT_CAP, control["credit"] + earned)
    return np.where(control["unlimited"] == 1, CREDIT_CAP, credit)
