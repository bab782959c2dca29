"""Offline pairs of actions and rewards, as far as the policies need them."""

from __future__ import annotations

import numpy as np

from llm_sched_env.bandits.confidence import Assumptions
from llm_sched_env.bandits.ridge import Ridge
from llm_sched_env.errors import ConfigurationError


class OfflineData:
    """Pairs (x, y) of another parameter theta_off, reduced to their sums.

    Args:
        actions: one row a pair, shape (N, d); N may be 0.
        rewards: shape (N,).

    Attributes:
        gram: G, the sum of x x', shape (d, d).
        target: the sum of x y, shape (d,).
        count: N.

    Raises:
        ConfigurationError: for other shapes, or numbers that are not finite.

    Example:
        >>> data = OfflineData(np.eye(2), np.array([1.0, 2.0]))
        >>> data.ridge(Assumptions()).centre
        array([0.5, 1. ])
    """

    def __init__(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        rows, values = np.asarray(actions, float), np.asarray(rewards, float)
        if rows.ndim != 2 or values.shape != rows.shape[:1]:
            raise ConfigurationError(
                "offline data: shapes", (rows.shape, values.shape), "(N, d) and (N,)"
            )
        if not (np.isfinite(rows).all() and np.isfinite(values).all()):
            raise ConfigurationError("offline data", "NaN or infinity", "finite numbers")
        self.gram = rows.T @ rows
        self.target = rows.T @ values
        self.count = len(rows)

    @classmethod
    def none(cls, dimension: int) -> OfflineData:
        """No pair at all, of actions of a dimension."""
        return cls(np.zeros((0, dimension)), np.zeros(0))

    @property
    def dimension(self) -> int:
        """Entries d of an action."""
        return len(self.target)

    def ridge(self, assumptions: Assumptions) -> Ridge:
        """The regression on these pairs alone."""
        lam = assumptions.regularization
        return Ridge(lam * np.eye(self.dimension) + self.gram, self.target)

    def radius(self, assumptions: Assumptions) -> float:
        """beta_off: radius of the confidence set of theta_off around :meth:`ridge`'s centre."""
        return assumptions.radius(self.log_det_growth(assumptions))

    def log_det_growth(self, assumptions: Assumptions) -> float:
        """Growth of log det from lambda I to lambda I + G."""
        eigenvalues = np.linalg.eigvalsh(self.gram)
        return float(np.log1p(np.maximum(eigenvalues, 0.0) / assumptions.regularization).sum())
