"""Observation spaces: six or eight features per class and four of the cluster.

The numbers themselves are computed in observation_kernels.py.
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from llm_sched_env.model.instance import Instance

CLASS_FEATURES = ("q_prefill", "x", "q_decode", "y_mixed", "y_solo", "credit")
CLUSTER_FEATURES = ("free slots", "GPUs open to solo decode", "to mixed decode", "to prefill")


def observation_space(instance: Instance) -> spaces.Box:
    """A flat box in [0, 1].

    Queues q per GPU are shown as q / (1 + q); prefills per GPU; decodes on mixed GPUs per
    B - 1 slots, on solo GPUs per B slots; credit per full credit; free slots and available GPUs as
    shares of the cluster's.
    """
    size = len(CLASS_FEATURES) * instance.n_classes + len(CLUSTER_FEATURES)
    return spaces.Box(0.0, 1.0, (size,), np.float32)


def feature_slices(instance: Instance) -> dict[str, slice]:
    """Where each feature stands in the observation: I entries per class feature, one otherwise.

    >>> from llm_sched_env.presets import base
    >>> feature_slices(base())["free slots"]
    slice(12, 13, None)
    """
    n = instance.n_classes
    per_class = {name: slice(k * n, (k + 1) * n) for k, name in enumerate(CLASS_FEATURES)}
    first = len(CLASS_FEATURES) * n
    return per_class | {
        name: slice(first + k, first + k + 1) for k, name in enumerate(CLUSTER_FEATURES)
    }


def feature_names(instance: Instance) -> list[str]:
    """The name of each entry of the observation, in order."""
    per_class = [f"{f} of {c.name}" for f in CLASS_FEATURES for c in instance.classes]
    return [*per_class, *CLUSTER_FEATURES]


HEAD_FEATURES = (
    "age of the next prefill",
    "age of the next decode for solo",
    "age of the next decode for mixed",
)


def event_observation_space(instance: Instance) -> spaces.Box:
    """A flat box in [0, 1]: as with fixed-step control, but waits of heads of line, not credit.

    A head that has waited a seconds is shown as a / (10 + a), 0 if no request waits.
    """
    return spaces.Box(0.0, 1.0, (len(event_feature_names(instance)),), np.float32)


def event_feature_names(instance: Instance) -> list[str]:
    """The name of each entry of the observation with event-driven control, in order."""
    features = [*CLASS_FEATURES[:-1], *HEAD_FEATURES]
    return [*(f"{f} of {c.name}" for f in features for c in instance.classes), *CLUSTER_FEATURES]
