"""What an agent that routes arrivals sees and chooses: names, sizes and the observation space."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from llm_sched_env.model.instance import Instance

CANDIDATE_NUMBERS = (
    "matched_tokens",
    "prefill_seconds",
    "queue_seconds",
    "waiting",
    "running",
    "kv_use",
    "idle_seconds",
)
"""What ``info`` has of each candidate."""
CANDIDATE_FEATURES = (
    "share of the prompt that matches",
    "own prefill",
    "prefills ahead",
    "waiting requests",
    "requests in service",
    "KV use",
    "age of what has to go",
)
GROUP_FEATURES = ("waiting requests", "requests in service", "KV use")


def routing_action_count(instance: Instance, candidates: int) -> int:
    """2 k for each group of GPUs that may prefill."""
    return 2 * candidates * len(_prefilling(instance))


def routing_action_names(instance: Instance, candidates: int) -> list[str]:
    """The name of each action, in order."""
    several = len(instance.groups) > 1
    return [
        f"number {place + 1} by {kind}" + (f" in {name}" if several else "")
        for name in _prefilling(instance)
        for kind in ("match", "load")
        for place in range(candidates)
    ]


def _prefilling(instance: Instance) -> list[str]:
    return [group.name for group in instance.groups if group.role != "decode"]


def routing_feature_names(instance: Instance, candidates: int) -> list[str]:
    """The name of each entry of the observation, in order."""
    actions = routing_action_names(instance, candidates)
    places = [f" in {g.name}" if len(instance.groups) > 1 else "" for g in instance.groups]
    return [
        *(f"request of {c.name}" for c in instance.classes),
        *(f"{feature}, {action}" for feature in CANDIDATE_FEATURES for action in actions),
        *(f"{feature}{place}" for feature in GROUP_FEATURES for place in places),
    ]


def routing_observation_space(instance: Instance, candidates: int) -> spaces.Box:
    """A flat box in [0, 1]."""
    size = len(routing_feature_names(instance, candidates))
    return spaces.Box(0.0, 1.0, (size,), np.float32)
