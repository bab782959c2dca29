"""Two ends that every learner should leave behind: random actions, and none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan

RANDOM, NOTHING = "random-actions", "do-nothing"


class _TaskPolicy:
    """A policy that needs to know its actions only.

    Args:
        environment: what actions mean.
    """

    def __init__(self, environment: Mapping[str, Any]) -> None:
        self.environment = dict(environment)

    def reset(
        self, instance: Instance, plan: FluidPlan, n_gpus: int, rng: np.random.Generator
    ) -> None:
        """Prepare for one run."""
        del plan
        self._rng, self._size = rng, _box_size(self.environment, instance, n_gpus)


class RandomActions(_TaskPolicy):
    """Actions of a task at random: uniform in a box, or any that is possible."""

    name = RANDOM

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> Any:
        """The next action."""
        del observation
        if self._size is None:
            return int(self._rng.choice(np.flatnonzero(info["action_mask"])))
        return self._rng.uniform(size=self._size).astype(np.float32)


class NoActions(_TaskPolicy):
    """The action 0: all controls at 0, or the first action that is possible."""

    name = NOTHING

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> Any:
        """The next action."""
        del observation
        if self._size is None:
            return int(np.flatnonzero(info["action_mask"])[0])
        return np.zeros(self._size, np.float32)


def _box_size(environment: Mapping[str, Any], instance: Instance, n_gpus: int) -> int | None:
    """Numbers of an action; None where it is one of some choices."""
    meaning = dict(environment)
    if meaning.pop("control", "interval") != "interval":
        return None
    return len(IntervalConfiguration.validated(instance, n_gpus, **meaning).controlled)
