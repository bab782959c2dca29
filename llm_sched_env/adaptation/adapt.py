"""Policies choose the operating point of each hour; what they lose to the best fixed point."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llm_sched_env.adaptation.operating_points import OperatingPoint, features
from llm_sched_env.bandits import (
    Assumptions,
    Bandit,
    Certificate,
    DiscountedUCB,
    EllipsoidalMinUCB,
    EmpiricalBayes,
    LearnedCertificate,
    LinUCB,
    OfflineData,
    PooledUCB,
    min_ucb,
)

ONLINE, POOLED, EUCLIDEAN = "LinUCB", "pooled", "MIN-UCB, known"
KNOWN, DISCOUNTED = "Ellipsoidal, known", "discounted, known"
LEARNED, BAYES = "Ellipsoidal, learned", "Ellipsoidal, empirical Bayes"
LEARNERS = (ONLINE, POOLED, EUCLIDEAN, KNOWN, DISCOUNTED, LEARNED, BAYES)
SIMULATOR_BEST = "simulator's best point"
METHODS = (SIMULATOR_BEST, *LEARNERS)


@dataclass(frozen=True)
class DayOfRuns:
    """A cluster's hours, real and as a simulator has them.

    Attributes:
        points: that can be chosen, K of them.
        loads: of the hours, L of them.
        day: which load each hour of a day has.
        real: revenue of each run of the real cluster over a fixed unit, shape (L, K, R).
        simulated: of the simulator, likewise; other runs, also where the simulator is right.
        assumptions: of all policies; the noise covers what a linear model misses.
    """

    points: tuple[OperatingPoint, ...]
    loads: tuple[float, ...]
    day: tuple[int, ...]
    real: np.ndarray
    simulated: np.ndarray
    assumptions: Assumptions

    @cached_property
    def features(self) -> np.ndarray:
        """Of every point at every load, shape (L, K, d)."""
        return np.stack([features(self.points, load) for load in self.loads])

    @cached_property
    def means(self) -> np.ndarray:
        """Mean revenue of the real cluster, shape (L, K)."""
        found: np.ndarray = self.real.mean(axis=2)
        return found

    @cached_property
    def offline(self) -> OfflineData:
        """Every run of the simulator as a pair."""
        return OfflineData(*_pairs(self.features, self.simulated))

    @cached_property
    def misfit(self) -> float:
        """Root mean square of what the linear fit misses of the real cluster's means."""
        rows, means = _pairs(self.features, self.means[..., None])
        return float(np.sqrt(np.mean((means - rows @ _fit(self.features, self.real)) ** 2)))

    @cached_property
    def difference(self) -> np.ndarray:
        """Linear fit of the simulator's runs less that of the real ones, shape (d,)."""
        difference: np.ndarray = _fit(self.features, self.simulated) - _fit(
            self.features, self.real
        )
        return difference

    def daily(self, table: np.ndarray) -> np.ndarray:
        """Mean over a day of what each point earns by load, shape (L, K); shape (K,)."""
        hours = np.bincount(self.day, minlength=len(self.loads))
        mean: np.ndarray = hours @ table / len(self.day)
        return mean

    @property
    def best_point(self) -> int:
        """The fixed point that earns most on the real cluster."""
        return int(np.argmax(self.daily(self.means)))

    @property
    def simulated_best_point(self) -> int:
        """The fixed point that earns most in the simulator."""
        return int(np.argmax(self.daily(self.simulated.mean(axis=2))))

    @property
    def loss_of_the_simulated_best(self) -> float:
        """Share of the best fixed point's revenue that the simulator's best loses."""
        daily = self.daily(self.means)
        return float(1.0 - daily[self.simulated_best_point] / daily[self.best_point])

    @property
    def gain_of_hourly_choice(self) -> float:
        """Share by which the best point of each load earns more than the best fixed point."""
        best = self.daily(self.means.max(axis=1, keepdims=True))[0]
        return float(best / self.daily(self.means)[self.best_point] - 1.0)

    def learner(self, name: str) -> Bandit:
        """A policy at its start.

        Known certificates are computed from all runs of both clusters: no operator has them. They
        show what knowing the difference would be worth.
        """
        offline, assumed, difference = self.offline, self.assumptions, self.difference
        known = Certificate.of_inverse(np.outer(difference, difference), 1.0)
        policies: dict[str, Bandit] = {
            ONLINE: LinUCB(offline.dimension, assumed),
            POOLED: PooledUCB(offline, assumed),
            EUCLIDEAN: min_ucb(offline, float(np.linalg.norm(difference)), assumed),
            KNOWN: EllipsoidalMinUCB(offline, known, assumed),
            DISCOUNTED: DiscountedUCB(offline, known, assumed),
            LEARNED: EllipsoidalMinUCB(offline, LearnedCertificate(offline, assumed), assumed),
            BAYES: EllipsoidalMinUCB(offline, EmpiricalBayes(offline, assumed), assumed),
        }
        return policies[name]

    def regret(self, method: str, days: int, seed: int) -> np.ndarray:
        """Mean revenue lost to the best fixed point, summed up to each hour, shape (24 days,).

        It falls while a policy earns more by choosing for the hour's load. The revenue that a
        policy sees in an hour is that of one of the real runs, drawn by lot.
        """
        hours = np.tile(self.day, days)
        best = self.means[hours, self.best_point]
        if method == SIMULATOR_BEST:
            chosen = np.full(len(hours), self.simulated_best_point)
        else:
            chosen = self._play(self.learner(method), hours, np.random.default_rng(seed))
        return np.cumsum(best - self.means[hours, chosen])

    def _play(self, policy: Bandit, hours: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Chosen points, shape (T,)."""
        runs = random.integers(self.real.shape[2], size=len(hours))
        chosen = np.empty(len(hours), int)
        for t, (load, run) in enumerate(zip(hours, runs, strict=True)):
            actions = self.features[load]
            k = chosen[t] = policy.select(actions)
            policy.update(actions[k], float(self.real[load, k, run]))
        return chosen


def _pairs(rows: np.ndarray, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and revenue of every run, shapes (N, d) and (N,)."""
    return np.repeat(rows.reshape(-1, rows.shape[-1]), runs.shape[-1], axis=0), runs.ravel()


def _fit(rows: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Least squares, shape (d,)."""
    solution: np.ndarray = np.linalg.lstsq(*_pairs(rows, runs), rcond=None)[0]
    return solution
