"""Policies that play the action with the greatest upper bound: LinUCB, and LinUCB on pooled data.

LinUCB is OFUL for finitely many actions (Abbasi-Yadkori, Pal and Szepesvari 2011).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from llm_sched_env.bandits.confidence import Assumptions
from llm_sched_env.bandits.offline_data import OfflineData
from llm_sched_env.bandits.ridge import Ridge, checked_actions, checked_observation
from llm_sched_env.errors import checked_integer


class Bandit(Protocol):
    """A policy of a linear contextual bandit."""

    def select(self, actions: np.ndarray) -> int:
        """The row of ``actions``, shape (K, d), that is played."""

    def update(self, x: np.ndarray, y: float) -> None:
        """Learn the reward y of the action x, shape (d,)."""


class LinUCB:
    """Plays the greatest ``x' theta_t + beta_t |x|_{V_t^-1}``; ties go to the lowest index.

    Args:
        dimension: entries d of an action.
        assumptions: of the confidence set; the default suits rewards and parameters around 1.

    Attributes:
        online: V_t, its inverse and b_t.

    Raises:
        ConfigurationError: for a dimension below 1; by ``select`` and ``update`` for other shapes.

    Example:
        >>> policy = LinUCB(2, Assumptions(noise=0.1))
        >>> policy.update(np.array([1.0, 0.0]), 1.0)
        >>> policy.update(np.array([0.0, 1.0]), 0.0)
        >>> policy.select(np.eye(2))
        0
    """

    def __init__(self, dimension: int, assumptions: Assumptions | None = None) -> None:
        self.dimension = checked_integer("dimension", dimension)
        self.assumptions = Assumptions() if assumptions is None else assumptions
        self.online = Ridge(self.assumptions.regularization * np.eye(self.dimension))

    @property
    def radius(self) -> float:
        """beta_t."""
        return self.assumptions.radius(self.online.log_det_growth)

    def widths(self, actions: np.ndarray) -> np.ndarray:
        """beta_t |x|_{V_t^-1} of each row x, shape (K,)."""
        return self.radius * self.online.norms(actions)

    def upper_bounds(self, actions: np.ndarray) -> np.ndarray:
        """Upper confidence bounds of the mean rewards, shape (K,)."""
        bounds: np.ndarray = actions @ self.online.centre + self.widths(actions)
        return bounds

    def select(self, actions: np.ndarray) -> int:
        """The row of ``actions``, shape (K, d), with the greatest upper bound."""
        return int(np.argmax(self.upper_bounds(checked_actions(actions, self.dimension))))

    def update(self, x: np.ndarray, y: float) -> None:
        """Learn the reward y of the action x, shape (d,)."""
        self.online.add(*checked_observation(x, y, self.dimension))


class PooledUCB(LinUCB):
    """LinUCB that takes offline pairs for its own: no bias is assumed (rho = 0).

    Args:
        offline: pairs that are learned before the first round.
        assumptions: as of :class:`LinUCB`.

    Example:
        >>> data = OfflineData(np.repeat(np.eye(2), 50, axis=0), np.repeat([0.0, 1.0], 50))
        >>> PooledUCB(data).select(np.eye(2))
        1
    """

    def __init__(self, offline: OfflineData, assumptions: Assumptions | None = None) -> None:
        super().__init__(offline.dimension, assumptions)
        self.online = offline.ridge(self.assumptions)
        self.online.log_det_growth = offline.log_det_growth(self.assumptions)
