"""Observation spaces: six or eight features per class and four of the cluster.

The numbers themselves are computed in observation_kernels.py.
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from llm_sched_env.model.instance import Instance

CLASS_FEATURES = ("q_prefill", "x", "q_decode", "y_mixed", "y_solo", "credit")
CLUSTER_FEATURES = ("free slots", "GPUs open to solo decode", "to mixed decode", "to prefill")
HEAD_FEATURES = (
    "age of the next prefill",
    "age of the next decode for solo",
    "age of the next decode for mixed",
)
# Features of a class alone; the others are those of its requests in a group of GPUs.
_OF_CLASSES = ("q_prefill", "q_decode", *HEAD_FEATURES)


def observation_space(instance: Instance) -> spaces.Box:
    """A flat box in [0, 1].

    Queues q per GPU are shown as q / (1 + q); prefills per GPU; decodes on mixed GPUs per
    B - 1 slots, on solo GPUs per B slots; credit per full credit; free slots and available GPUs as
    shares of the cluster's. With several groups of GPUs all but the queues is by group, and per
    GPU or slot of the group.
    """
    return spaces.Box(0.0, 1.0, (len(feature_names(instance)),), np.float32)


def feature_slices(instance: Instance) -> dict[str, slice]:
    """Where each feature stands in the observation: I entries per class feature, one otherwise.

    With G groups I G for a feature by class and group, class-major, and G otherwise.

    >>> from llm_sched_env.presets import base
    >>> feature_slices(base())["free slots"]
    slice(12, 13, None)
    """
    slices, first = {}, 0
    for name in (*CLASS_FEATURES, *CLUSTER_FEATURES):
        last = first + len(_names(instance, name))
        slices[name] = slice(first, last)
        first = last
    return slices


def feature_names(instance: Instance) -> list[str]:
    """The name of each entry of the observation, in order."""
    return [n for f in (*CLASS_FEATURES, *CLUSTER_FEATURES) for n in _names(instance, f)]


def _names(instance: Instance, feature: str) -> list[str]:
    """The entries of a feature: by class, by class and group, or by group."""
    if feature in _OF_CLASSES:
        return [f"{feature} of {c.name}" for c in instance.classes]
    several = len(instance.groups) > 1
    places = [f" in {group.name}" if several else "" for group in instance.groups]
    if feature in CLUSTER_FEATURES:
        return [feature + place for place in places]
    return [f"{feature} of {c.name}{place}" for c in instance.classes for place in places]


def event_observation_space(instance: Instance) -> spaces.Box:
    """A flat box in [0, 1]: as with fixed-step control, but waits of heads of line, not credit.

    A head that has waited a seconds is shown as a / (10 + a), 0 if no request waits.
    """
    return spaces.Box(0.0, 1.0, (len(event_feature_names(instance)),), np.float32)


def event_feature_names(instance: Instance) -> list[str]:
    """The name of each entry of the observation with event-driven control, in order."""
    features = (*CLASS_FEATURES[:-1], *HEAD_FEATURES, *CLUSTER_FEATURES)
    return [n for f in features for n in _names(instance, f)]
