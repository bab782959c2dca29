"""Discounted pooling: offline data weigh as much in each direction as their bias allows."""

from __future__ import annotations

import numpy as np

from llm_sched_env.bandits.certificate import Certificate
from llm_sched_env.bandits.confidence import Assumptions
from llm_sched_env.bandits.ellipsoidal import require_dimension
from llm_sched_env.bandits.offline_data import OfflineData
from llm_sched_env.bandits.optimistic import LinUCB
from llm_sched_env.bandits.ridge import Ridge, row_norms


class DiscountedUCB(LinUCB):
    """Plays the greatest ``min(online upper bound, discounted upper bound)`` [this project].

    With P = ((lambda I + G)^-1 + (rho / beta_off)^2 M^-1)^-1 and H = V_t + P the discounted branch
    has the centre ``H^-1 (b_t + P theta_off)`` and the width ``beta_H |x|_{H^-1} +
    beta_off |P H^-1 x|_{(lambda I + G)^-1} + rho |P H^-1 x|_{M^-1}``. P is zero where M has no
    bound, so one bad direction costs the others nothing.

    Args:
        offline: pairs of the other parameter.
        certificate: known before the first round.
        assumptions: as of :class:`LinUCB`.

    Attributes:
        online: V_t, its inverse and b_t.
        weights: P, shape (d, d).
        discounted: H, its inverse and b_t + P theta_off.

    Raises:
        ConfigurationError: for a certificate of another dimension.

    Example:
        >>> data = OfflineData(np.repeat(np.eye(2), 50, axis=0), np.repeat([0.0, 1.0], 50))
        >>> DiscountedUCB(data, Certificate.euclidean(2, rho=0.1)).select(np.eye(2))
        1
    """

    def __init__(
        self,
        offline: OfflineData,
        certificate: Certificate,
        assumptions: Assumptions | None = None,
    ) -> None:
        super().__init__(offline.dimension, assumptions)
        require_dimension(certificate, offline)
        ridge = offline.ridge(self.assumptions)
        self.certificate = certificate
        self.offline_radius = offline.radius(self.assumptions)
        self._offline_inverse = ridge.inverse
        self.weights = self._weights()
        self.discounted = Ridge(self.online.gram + self.weights, self.weights @ ridge.centre)

    def _weights(self) -> np.ndarray:
        """P; zero on the directions without a bound."""
        known = self.certificate
        scale = (known.rho / self.offline_radius) ** 2 if self.offline_radius else np.inf
        basis = known.bounded
        inner = basis.T @ (self._offline_inverse + scale * known.inverse) @ basis
        weights: np.ndarray = basis @ np.linalg.inv(inner) @ basis.T
        return weights

    def discounted_widths(self, actions: np.ndarray) -> np.ndarray:
        """Width of the discounted branch for each row, shape (K,)."""
        weighted = actions @ self.discounted.inverse @ self.weights
        own = self.assumptions.radius(self.discounted.log_det_growth)
        widths: np.ndarray = (
            own * self.discounted.norms(actions)
            + self.offline_radius * row_norms(weighted, self._offline_inverse)
            + self.certificate.support(weighted)
        )
        return widths

    def discounted_upper_bounds(self, actions: np.ndarray) -> np.ndarray:
        """Upper bounds of the discounted branch, shape (K,)."""
        bounds: np.ndarray = actions @ self.discounted.centre + self.discounted_widths(actions)
        return bounds

    def upper_bounds(self, actions: np.ndarray) -> np.ndarray:
        """The smaller bound of the two branches, shape (K,)."""
        bounds: np.ndarray = np.minimum(
            super().upper_bounds(actions), self.discounted_upper_bounds(actions)
        )
        return bounds

    def update(self, x: np.ndarray, y: float) -> None:
        """Learn the reward y of the action x, shape (d,), in both branches."""
        super().update(x, y)
        self.discounted.add(np.asarray(x, float), float(y))
