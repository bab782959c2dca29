"""Ellipsoidal-MINUCB: the smaller of an online and a pooled upper bound.

Reconstructed from the abstracts of arXiv 2604.24016; docs/bandits.md says what is proved.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from llm_sched_env.bandits.certificate import Certificate
from llm_sched_env.bandits.confidence import Assumptions
from llm_sched_env.bandits.offline_data import OfflineData
from llm_sched_env.bandits.optimistic import LinUCB, PooledUCB
from llm_sched_env.bandits.ridge import Ridge
from llm_sched_env.errors import ConfigurationError


class CertificateRule(Protocol):
    """Makes a certificate of what has been observed."""

    def certificate(self, online: Ridge, online_radius: float) -> Certificate:
        """The certificate for the next round."""


class EllipsoidalMinUCB(LinUCB):
    """Plays the greatest ``min(online upper bound, pooled upper bound)``; ties: the lowest index.

    With W = V_t + G the pooled branch has the centre ``W^-1 (b_t + b_off)`` and the width
    ``beta_p |x|_{W^-1} + rho |G W^-1 x|_{M^-1}``, infinite where ``G W^-1 x`` leaves M's range.

    Args:
        offline: pairs of the other parameter.
        certificate: known before the first round, or a rule that makes one in each round
            (:class:`LearnedCertificate`, :class:`EmpiricalBayes`).
        assumptions: as of :class:`LinUCB`.

    Attributes:
        online: V_t, its inverse and b_t.
        pooled: W, its inverse and b_t + b_off.

    Raises:
        ConfigurationError: for a certificate of another dimension.

    Example:
        >>> data = OfflineData(np.repeat(np.eye(2), 50, axis=0), np.repeat([0.0, 1.0], 50))
        >>> policy = EllipsoidalMinUCB(data, Certificate.euclidean(2, rho=0.1))
        >>> policy.select(np.eye(2))
        1
    """

    def __init__(
        self,
        offline: OfflineData,
        certificate: Certificate | CertificateRule,
        assumptions: Assumptions | None = None,
    ) -> None:
        super().__init__(offline.dimension, assumptions)
        if isinstance(certificate, Certificate):
            require_dimension(certificate, offline)
        self.offline = offline
        self._given = certificate
        self._pooling = PooledUCB(offline, self.assumptions)
        self.pooled = self._pooling.online

    @property
    def certificate(self) -> Certificate:
        """The certificate of this round."""
        if isinstance(self._given, Certificate):
            return self._given
        return self._given.certificate(self.online, self.radius)

    def pooled_widths(self, actions: np.ndarray) -> np.ndarray:
        """Width of the pooled branch for each row, shape (K,); may be infinite."""
        bias = self.certificate.support(actions @ self.pooled.inverse @ self.offline.gram)
        widths: np.ndarray = self._pooling.widths(actions) + bias
        return widths

    def pooled_upper_bounds(self, actions: np.ndarray) -> np.ndarray:
        """Upper bounds of the pooled branch, shape (K,)."""
        bounds: np.ndarray = actions @ self.pooled.centre + self.pooled_widths(actions)
        return bounds

    def upper_bounds(self, actions: np.ndarray) -> np.ndarray:
        """The smaller bound of the two branches, shape (K,)."""
        bounds: np.ndarray = np.minimum(
            super().upper_bounds(actions), self.pooled_upper_bounds(actions)
        )
        return bounds

    def update(self, x: np.ndarray, y: float) -> None:
        """Learn the reward y of the action x, shape (d,), in both branches."""
        super().update(x, y)
        self._pooling.update(x, y)


def min_ucb(
    offline: OfflineData, rho: float, assumptions: Assumptions | None = None
) -> EllipsoidalMinUCB:
    """MIN-UCB: a bound on the length of the difference of the parameters, M = I.

    Args:
        offline: pairs of the other parameter.
        rho: bound on the Euclidean norm of the difference.
        assumptions: as of :class:`LinUCB`.

    Example:
        >>> min_ucb(OfflineData.none(2), rho=0.1).select(np.array([[0.0, 1.0], [0.0, 2.0]]))
        1
    """
    return EllipsoidalMinUCB(offline, Certificate.euclidean(offline.dimension, rho), assumptions)


def require_dimension(certificate: Certificate, offline: OfflineData) -> None:
    """Refuse a certificate of another dimension than the offline data's."""
    if certificate.dimension != offline.dimension:
        raise ConfigurationError(
            "certificate: dimension", certificate.dimension, f"{offline.dimension}, as offline data"
        )
