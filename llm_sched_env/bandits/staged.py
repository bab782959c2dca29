"""The staged form, whose rate is proved: SupLinUCB (Chu et al. 2011), with offline data."""

from __future__ import annotations

import math

import numpy as np

from llm_sched_env.bandits.certificate import Certificate
from llm_sched_env.bandits.confidence import Assumptions
from llm_sched_env.bandits.ellipsoidal import require_dimension
from llm_sched_env.bandits.offline_data import OfflineData
from llm_sched_env.bandits.ridge import Ridge, checked_actions, checked_observation, row_norms
from llm_sched_env.errors import ConfigurationError, checked_integer


class StagedUCB:
    """Explores in stages of halved widths; each stage learns from rounds of its own.

    Which rounds a stage learns from depends on widths and on earlier stages alone, so its noise is
    independent of them. All stages share the offline noise: the pooled width has a part of the
    online noise, bounded for this stage, and one of the offline noise, bounded for all directions:
    ``a sigma |W^-1 x|_A + sigma beta |W^-1 x|_{lambda I + G} + lambda S |W^-1 x| +
    rho |G W^-1 x|_{M^-1}`` with A the sum of the stage's x x'. Of the online and the pooled branch
    the narrower counts.

    Args:
        dimension: entries d of an action.
        rounds: T, how often ``select`` will be called.
        n_actions: the most actions K of a round.
        offline: pairs of another parameter; None: SupLinUCB itself.
        certificate: known before the first round; needed with offline data. A learned one would
            depend on rewards of the stage.
        assumptions: as of :class:`LinUCB`; ``parameter_norm`` is also the largest width sought.

    Raises:
        ConfigurationError: for offline data without a certificate, or another dimension.

    Example:
        >>> policy = StagedUCB(2, rounds=100, n_actions=2)
        >>> index = policy.select(np.eye(2))
        >>> policy.update(np.eye(2)[index], 1.0)
    """

    def __init__(
        self,
        dimension: int,
        rounds: int,
        n_actions: int,
        offline: OfflineData | None = None,
        certificate: Certificate | None = None,
        assumptions: Assumptions | None = None,
    ) -> None:
        self.dimension = checked_integer("dimension", dimension)
        self.rounds = checked_integer("rounds", rounds)
        if (offline is None) != (certificate is None):
            raise ConfigurationError(
                "Give `offline` and `certificate` together, or neither of them."
            )
        self.offline = OfflineData.none(dimension) if offline is None else offline
        if self.offline.dimension != self.dimension:
            raise ConfigurationError("dimension", dimension, f"{self.offline.dimension}, as data")
        self.certificate = certificate
        if certificate is not None:
            require_dimension(certificate, self.offline)
        self.assumptions = Assumptions() if assumptions is None else assumptions
        self.n_stages = max(1, math.ceil(math.log2(math.sqrt(self.rounds))))
        union = 2.0 * self.rounds * checked_integer("n_actions", n_actions) * self.n_stages
        # Of one action in one round of one stage, for the two sides.
        self._scalar = math.sqrt(2.0 * math.log(union / self.assumptions.failure))
        growth = self.offline.log_det_growth(self.assumptions)
        self._offline_noise = self.assumptions.radius(growth) - self.assumptions.shrinkage
        self._offline_gram = self.offline.ridge(self.assumptions).gram
        eye = self.assumptions.regularization * np.eye(self.dimension)
        self.stages = [
            (Ridge(eye), Ridge(self._offline_gram, self.offline.target))
            for _ in range(self.n_stages)
        ]
        self._learning: int | None = None

    def estimates(self, actions: np.ndarray, stage: int) -> tuple[np.ndarray, np.ndarray]:
        """Estimated mean rewards of a stage and their widths, each of shape (K,)."""
        online, pooled = self.stages[stage]
        centre, width = actions @ online.centre, self._online_widths(actions, online)
        if self.certificate is None:
            return centre, width
        other = self._pooled_widths(actions, online, pooled, self.certificate)
        narrower = other < width
        centre = np.where(narrower, actions @ pooled.centre, centre)
        return centre, np.where(narrower, other, width)

    def _online_widths(self, actions: np.ndarray, online: Ridge) -> np.ndarray:
        """Of the rounds of a stage alone."""
        rows = actions @ online.inverse
        widths: np.ndarray = self._own_noise(rows, online) + self._shrinkage(rows)
        return widths

    def _pooled_widths(
        self, actions: np.ndarray, online: Ridge, pooled: Ridge, certificate: Certificate
    ) -> np.ndarray:
        """Of the rounds of a stage and the offline pairs."""
        rows = actions @ pooled.inverse
        widths: np.ndarray = (
            self._own_noise(rows, online)
            + self._offline_noise * row_norms(rows, self._offline_gram)
            + self._shrinkage(rows)
            + certificate.support(rows @ self.offline.gram)
        )
        return widths

    def _own_noise(self, rows: np.ndarray, online: Ridge) -> np.ndarray:
        """Bound on what the noise of the stage's own rounds adds up to."""
        own = online.gram - self.assumptions.regularization * np.eye(self.dimension)
        return self._scalar * self.assumptions.noise * row_norms(rows, own)

    def _shrinkage(self, rows: np.ndarray) -> np.ndarray:
        lengths = np.linalg.norm(rows, axis=1)
        noise: np.ndarray = (
            self.assumptions.regularization * self.assumptions.parameter_norm * lengths
        )
        return noise

    def select(self, actions: np.ndarray) -> int:
        """The row of ``actions``, shape (K, d), that is played."""
        rows = checked_actions(actions, self.dimension)
        left = np.arange(len(rows))
        unit = self.assumptions.parameter_norm
        for stage in range(self.n_stages):
            centre, width = self.estimates(rows[left], stage)
            level = unit * 2.0 ** -(stage + 1)
            if width.max() > level:
                self._learning = stage
                return int(left[np.argmax(width)])
            if width.max() <= unit / math.sqrt(self.rounds) or stage + 1 == self.n_stages:
                break
            upper = centre + width
            left = left[upper >= upper.max() - 2.0 * level]
        self._learning = None
        return int(left[np.argmax(centre + width)])

    def update(self, x: np.ndarray, y: float) -> None:
        """Learn the reward y of the action x, shape (d,), that was selected last."""
        x, y = checked_observation(x, y, self.dimension)
        if self._learning is not None:
            for ridge in self.stages[self._learning]:
                ridge.add(x, y)
