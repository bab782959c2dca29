"""What a confidence set assumes, and its radius."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm_sched_env.errors import ConfigurationError, is_finite_number


@dataclass(frozen=True)
class Assumptions:
    """What all confidence sets of a policy assume.

    Attributes:
        noise: sigma; rewards are their mean plus sigma-sub-Gaussian noise.
        parameter_norm: bound on the Euclidean norm of theta and of the offline parameter.
        regularization: lambda of the ridge regression, > 0.
        failure: the probability with which one confidence set may fail, in (0, 1). A policy uses
            at most three (online, offline, pooled), so all hold with probability 1 - 3 failure.

    Raises:
        ConfigurationError: for a number out of its range.

    Example:
        >>> round(Assumptions(noise=0.5).radius(0.0), 2)
        2.43
    """

    noise: float = 1.0
    parameter_norm: float = 1.0
    regularization: float = 1.0
    failure: float = 0.05 / 3

    def __post_init__(self) -> None:
        for name in ("noise", "parameter_norm"):
            if not is_finite_number(getattr(self, name)):
                raise ConfigurationError(name, getattr(self, name), "a finite number >= 0")
        if not is_finite_number(self.regularization, positive=True):
            raise ConfigurationError("regularization", self.regularization, "a finite number > 0")
        if not (is_finite_number(self.failure) and 0 < self.failure < 1):
            raise ConfigurationError("failure", self.failure, "a number in (0, 1)")

    def radius(self, log_det_growth: float) -> float:
        """Radius of the self-normalised set (Abbasi-Yadkori et al. 2011, Theorem 2).

        Args:
            log_det_growth: log det V - log det V_0, where V_0 >= lambda I is the matrix before
                the data whose noise is bounded.
        """
        noise = math.sqrt(max(log_det_growth, 0.0) + 2.0 * math.log(1.0 / self.failure))
        return self.noise * noise + self.shrinkage

    @property
    def shrinkage(self) -> float:
        """What the ridge penalty moves the centre by, in its own norm, at most."""
        return math.sqrt(self.regularization) * self.parameter_norm
