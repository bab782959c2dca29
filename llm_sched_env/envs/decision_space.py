"""The actions of event-driven control, and spaces that sample possible ones only."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Instance
from llm_sched_env.simulation.runtime.compiled import entry_point


def action_count(instance: Instance) -> int:
    """1 + 3P: wait; admit, route to solo, route to mixed, each by class and group of GPUs."""
    return 1 + 3 * instance.n_classes * len(instance.groups)


def action_names(instance: Instance) -> list[str]:
    """The name of each action, in order."""
    places = [
        (c.name, f" in {g.name}" if len(instance.groups) > 1 else "")
        for c in instance.classes
        for g in instance.groups
    ]
    return [
        "wait",
        *(f"admit {name}{group}" for name, group in places),
        *(f"route {name} to solo{group}" for name, group in places),
        *(f"route {name} to mixed{group}" for name, group in places),
    ]


class DecisionSpace(spaces.Discrete):
    """``Discrete(1 + 3P)`` whose samples are actions that are possible now.

    Attributes:
        possible: the action mask that :meth:`sample` uses when it is given none; int8, shape
            (1 + 3P,). The environment keeps it up to date.
    """

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.possible = np.ones(n, np.int8)

    def sample(self, mask: Any = None, probability: Any = None) -> np.int64:
        """A random action, by default one of those that are possible now."""
        if mask is None and probability is None:
            mask = self.possible
        drawn: np.int64 = super().sample(mask, probability)
        return drawn


class DecisionSpaces(spaces.MultiDiscrete):
    """The actions of N environments; samples are possible now.

    Attributes:
        possible: action masks; int8, shape (N, 1 + 3P).
    """

    def __init__(self, n_envs: int, n: int) -> None:
        super().__init__([n] * n_envs)
        self.possible = np.ones((n_envs, n), np.int8)

    def sample(self, mask: Any = None, probability: Any = None) -> np.ndarray:
        """Random actions, by default some of those that are possible now; int64, shape (N,)."""
        if mask is not None or probability is not None:
            return np.asarray(super().sample(mask, probability))
        lots = np.where(self.possible, self.np_random.random(self.possible.shape), -1.0)
        drawn: np.ndarray = np.argmax(lots, axis=1)
        return drawn


@entry_point
def first_impossible(actions: np.ndarray, masks: np.ndarray, active: np.ndarray) -> int:
    """The first of N environments whose action is impossible, or -1.

    Args:
        actions: int64, shape (N,).
        masks: 1 where an action is possible now; int8, shape (N, 1 + 3P).
        active: where an action is taken; elsewhere it only has to be one; bool, shape (N,).
    """
    for k in range(len(actions)):
        if not (0 <= actions[k] < masks.shape[1]) or (active[k] and masks[k, actions[k]] == 0):
            return k
    return -1


def checked_decisions(actions: Any, masks: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Actions as int64 of shape (N,), those of active environments possible.

    Raises:
        ConfigurationError: for anything else.
    """
    n_envs, n = masks.shape
    try:
        array = np.asarray(actions)
    except ValueError:
        array = np.empty(0)
    if array.shape != (n_envs,) or array.dtype.kind not in "iu":
        allowed = f"an integer from 0 to {n - 1}"
        if n_envs > 1:
            raise ConfigurationError("actions", actions, f"{allowed} for each of {n_envs}")
        raise ConfigurationError("action", actions[0], allowed)
    checked = array.astype(np.int64)
    k = first_impossible(checked, masks, active)
    if k >= 0:
        raise ConfigurationError(
            "action" if n_envs == 1 else f"action of environment {k}",
            int(array[k]),
            f"one of the possible actions {', '.join(map(str, np.flatnonzero(masks[k])))}",
            'see info["action_mask"]',
        )
    return checked
