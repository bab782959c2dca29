"""A linear bandit with biased offline data, and what a policy regrets on it.

Six directions are well covered offline and two poorly; the bias lies in one of either kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llm_sched_env.bandits import Assumptions, Bandit, OfflineData

DIMENSION, WELL_COVERED = 8, 6
N_ACTIONS, NOISE = 20, 0.5
POOR_SHARE = 0.1
"""Standard deviation of offline actions in a poorly covered direction over that in a good one."""
POOR, WELL = "poorly covered", "well covered"
_BIASED = {POOR: DIMENSION - 1, WELL: 0}
_ACTIONS, _NOISE, _OFFLINE, _PARAMETER = range(4)


@dataclass(frozen=True)
class BiasedBandit:
    """An instance: theta of length 1, in each round new Gaussian actions of length about 1.

    Attributes:
        bias: length of theta_off - theta.
        direction: ``poorly covered`` or ``well covered``, where the bias lies.
        offline_pairs: N.
        seed: of everything random; biases and policies are compared on the same parameter,
            actions and noise.
    """

    bias: float
    direction: str
    offline_pairs: int
    seed: int

    def _random(self, stream: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(stream,)))

    @cached_property
    def theta(self) -> np.ndarray:
        """The parameter, shape (d,)."""
        direction = self._random(_PARAMETER).standard_normal(DIMENSION)
        unit: np.ndarray = direction / np.linalg.norm(direction)
        return unit

    @property
    def biased_direction(self) -> np.ndarray:
        """The unit vector along which the parameters differ, shape (d,)."""
        unit: np.ndarray = np.eye(DIMENSION)[_BIASED[self.direction]]
        return unit

    @property
    def difference(self) -> np.ndarray:
        """theta_off - theta, shape (d,)."""
        return self.bias * self.biased_direction

    @cached_property
    def offline(self) -> OfflineData:
        """Offline pairs: Gaussian actions of length about 1."""
        random = self._random(_OFFLINE)
        spread = np.where(np.arange(DIMENSION) < WELL_COVERED, 1.0, POOR_SHARE)
        actions = random.standard_normal((self.offline_pairs, DIMENSION))
        actions *= spread / np.linalg.norm(spread)
        noise = NOISE * random.standard_normal(self.offline_pairs)
        return OfflineData(actions, actions @ (self.theta + self.difference) + noise)

    @cached_property
    def assumptions(self) -> Assumptions:
        """True ones: the noise, and the longer of the two parameters."""
        norms = np.linalg.norm(self.theta), np.linalg.norm(self.theta + self.difference)
        return Assumptions(noise=NOISE, parameter_norm=float(max(norms)))

    def regret(
        self, policy: Bandit, rounds: int, look: Callable[[int, np.ndarray], None] | None = None
    ) -> np.ndarray:
        """Mean reward lost to the best action of each round, summed up to it, shape (T,).

        Args:
            policy: plays, from its start.
            rounds: T.
            look: called in each round with its number, from 1, and its actions, before the play.
        """
        shape = (rounds, N_ACTIONS, DIMENSION)
        actions = self._random(_ACTIONS).standard_normal(shape) / np.sqrt(DIMENSION)
        noise = NOISE * self._random(_NOISE).standard_normal(rounds)
        means = actions @ self.theta
        chosen = np.empty(rounds)
        for t in range(rounds):
            if look is not None:
                look(t + 1, actions[t])
            k = policy.select(actions[t])
            chosen[t] = means[t, k]
            policy.update(actions[t, k], chosen[t] + noise[t])
        return np.cumsum(means.max(axis=1) - chosen)
