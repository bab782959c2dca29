"""Certificates that are learned from offline and online data together.

Offline data say nothing about theta where the difference of the parameters is not restricted, so
the valid certificate never makes the pooled branch the narrower one (docs/bandits.md has the
proof). A gain needs structure: a cap on the difference, or a prior.
"""

from __future__ import annotations

import math

import numpy as np

from llm_sched_env.bandits.certificate import Certificate
from llm_sched_env.bandits.confidence import Assumptions
from llm_sched_env.bandits.offline_data import OfflineData
from llm_sched_env.bandits.ridge import Ridge
from llm_sched_env.errors import ConfigurationError, is_finite_number


class LearnedCertificate:
    """A valid certificate whenever the online and the offline confidence set hold.

    With the estimated difference delta = theta_off - theta_t and
    Q = beta_off^2 (lambda I + G)^-1 + beta_t^2 V_t^-1: M = Q^-1, rho = |delta|_M + sqrt(2).

    Args:
        offline: pairs of the other parameter.
        assumptions: as of the policy.
        cap: a bound on the Euclidean norm of the difference, if one is known; the certificate is
            then an ellipsoid around the intersection of both sets.

    Example:
        >>> data = OfflineData(np.eye(2), np.ones(2))
        >>> online = Ridge(np.eye(2))
        >>> learned = LearnedCertificate(data, Assumptions())
        >>> learned.certificate(online, 1.0).rho > 2**0.5
        True
    """

    def __init__(
        self, offline: OfflineData, assumptions: Assumptions, cap: float | None = None
    ) -> None:
        if cap is not None and not is_finite_number(cap, positive=True):
            raise ConfigurationError("cap", cap, "a finite number > 0, or None")
        ridge = offline.ridge(assumptions)
        self._centre = ridge.centre
        self._spread = offline.radius(assumptions) ** 2 * ridge.inverse
        self._cap = cap

    def certificate(self, online: Ridge, online_radius: float) -> Certificate:
        """The certificate for the next round."""
        spread = self._spread + online_radius**2 * online.inverse
        difference = self._centre - online.centre
        rho = math.sqrt(float(difference @ np.linalg.solve(spread, difference))) + math.sqrt(2.0)
        if self._cap is None:
            return Certificate.of_inverse(spread, rho)
        # d' A d <= 1 and d' B d <= 1 give d' (A + B) d <= 2.
        both = np.linalg.inv(spread) / rho**2 + np.eye(len(spread)) / self._cap**2
        return Certificate.of_matrix(both, math.sqrt(2.0))


class EmpiricalBayes:
    """A certificate from the estimated spread of the difference: NO GUARANTEE.

    In the eigenbasis of G the variance of the i-th difference is estimated by
    tau_i^2 = max(0, delta_i^2 - the variance of its error); M^-1 = 4 diag(tau^2), rho = 1.
    Where the error explains all of the difference it counts as zero, so early rounds pool fully.

    Args:
        offline: pairs of the other parameter.
        assumptions: as of the policy.

    Example:
        >>> data = OfflineData(np.eye(2), np.zeros(2))
        >>> EmpiricalBayes(data, Assumptions()).certificate(Ridge(np.eye(2)), 1.0).inverse
        array([[0., 0.],
               [0., 0.]])
    """

    def __init__(self, offline: OfflineData, assumptions: Assumptions) -> None:
        ridge = offline.ridge(assumptions)
        self._centre = ridge.centre
        self._basis = np.linalg.eigh(offline.gram)[1]
        self._variance = assumptions.noise**2
        self._offline_inverse = ridge.inverse

    def certificate(self, online: Ridge, online_radius: float) -> Certificate:
        """The certificate for the next round; the radius is not needed."""
        del online_radius
        difference = self._basis.T @ (self._centre - online.centre)
        spread = self._offline_inverse + online.inverse
        error = self._variance * np.einsum("ij,ik,kj->j", self._basis, spread, self._basis)
        return Certificate(self._basis, 4.0 * np.maximum(difference**2 - error, 0.0), rho=1.0)
