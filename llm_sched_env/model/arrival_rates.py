"""Time-varying arrival rates: periodic rate functions per class, and MMPP bursts.

Both describe a shape: only ratios of multipliers matter, and a class's ``arrival_rate`` stays its
long-run mean. So the fluid plan, whose constraints hold for time averages, stays a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, checked_numbers


@dataclass(frozen=True)
class ArrivalProfile:
    """A piecewise-linear, periodic arrival rate of one class (inhomogeneous Poisson arrivals).

    Args:
        times: seconds of the points within a period, from 0, increasing; the last is the period.
            Two points at one time are a jump.
        multipliers: relative arrival rate at each point, >= 0.

    Example:
        >>> day = ArrivalProfile(times=(0, 300, 600), multipliers=(0.5, 1.5, 0.5))
        >>> day.period
        600.0
    """

    times: tuple[float, ...]
    multipliers: tuple[float, ...]

    def __post_init__(self) -> None:
        times = checked_numbers("arrival profile times", self.times)
        multipliers = checked_numbers("arrival profile multipliers", self.multipliers)
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "multipliers", multipliers)
        if len(times) != len(multipliers) or len(times) < 2:
            raise ConfigurationError(
                "arrival profile points",
                f"{len(times)} times, {len(multipliers)} multipliers",
                "as many multipliers as times, at least 2",
            )
        if times[0] != 0.0 or (np.diff(times) < 0).any() or times[-1] <= 0.0:
            raise ConfigurationError(
                "arrival profile times", times, "seconds that start at 0 and do not decrease"
            )
        if self._mean <= 0.0:
            raise ConfigurationError(
                "arrival profile multipliers", multipliers, "a positive rate at some time"
            )

    @property
    def period(self) -> float:
        """Seconds."""
        return self.times[-1]

    @property
    def _mean(self) -> float:
        heights = np.array(self.multipliers)
        return float((heights[1:] + heights[:-1]) / 2 @ np.diff(self.times)) / self.period

    @property
    def is_constant(self) -> bool:
        """Whether the rate is the same at all times."""
        return len(set(self.multipliers)) == 1

    @property
    def relative_rates(self) -> np.ndarray:
        """Rate at each point over the mean rate of a period."""
        return np.array(self.multipliers) / self._mean

    def mean_relative_rates(self, edges: Any) -> np.ndarray:
        """Mean of the relative rate between times, seconds, increasing, shape (T + 1,); (T,)."""
        found = np.asarray(edges, float)
        means: np.ndarray = np.diff(self._arrivals_until(found)) / np.diff(found)
        return means

    def mean_relative_rates_ahead(self, starts: np.ndarray, seconds: float) -> np.ndarray:
        """Mean of the relative rate over so many seconds after each start, shape (T,); (T,)."""
        until, since = self._arrivals_until(starts + seconds), self._arrivals_until(starts)
        means: np.ndarray = (until - since) / seconds
        return means

    def _arrivals_until(self, seconds: np.ndarray) -> np.ndarray:
        """Integral of the relative rate from 0."""
        times, rates = np.array(self.times), self.relative_rates
        spans = np.diff(times)
        until = np.concatenate([[0.0], np.cumsum(spans * (rates[1:] + rates[:-1]) / 2)])
        periods, phase = np.divmod(seconds, self.period)
        k = np.minimum(np.searchsorted(times, phase, side="right") - 1, len(spans) - 1)
        part = phase - times[k]
        slope = (rates[k + 1] - rates[k]) / spans[k]
        integral: np.ndarray = periods * until[-1] + until[k] + part * (rates[k] + slope * part / 2)
        return integral


@dataclass(frozen=True)
class ArrivalModulation:
    """Bursts: a Markov chain that multiplies the arrival rates of all classes (MMPP).

    Args:
        multipliers: relative arrival rate in each state, >= 0: one number per state, or one list
            with a number per class and state.
        switch_rates: jump rates between states, 1/s, shape (S, S), zero on the diagonal; every
            state must be reachable from every other.

    Example:
        >>> switch_rates = ((0.0, 0.01), (0.02, 0.0))
        >>> bursts = ArrivalModulation(multipliers=(0.5, 2.0), switch_rates=switch_rates)
        >>> bursts.stationary_probabilities.round(2).tolist()
        [0.67, 0.33]
    """

    multipliers: tuple[Any, ...]
    switch_rates: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        rates = tuple(
            checked_numbers("modulation switch_rates", row)
            for row in _rows("modulation switch_rates", self.switch_rates)
        )
        states = _rows("modulation multipliers", self.multipliers)
        if any(isinstance(state, (list, tuple, np.ndarray)) for state in states):
            multipliers: tuple[Any, ...] = tuple(
                checked_numbers("modulation multipliers", state) for state in states
            )
        else:
            multipliers = checked_numbers("modulation multipliers", states)
        object.__setattr__(self, "multipliers", multipliers)
        object.__setattr__(self, "switch_rates", rates)
        size = len(rates)
        if len(multipliers) != size or any(len(row) != size for row in rates) or size < 2:
            raise ConfigurationError(
                "modulation",
                f"{len(multipliers)} multipliers, switch_rates with rows of "
                f"{[len(row) for row in rates]}",
                "S >= 2 states: S multipliers and S rows of S rates",
            )
        if any(rates[s][s] != 0.0 for s in range(size)):
            raise ConfigurationError("modulation switch_rates", rates, "zeros on the diagonal")
        if not _is_irreducible(np.array(rates)):
            raise ConfigurationError(
                "modulation switch_rates", rates, "every state reachable from every other"
            )

    @property
    def n_states(self) -> int:
        """S."""
        return len(self.switch_rates)

    @property
    def stationary_probabilities(self) -> np.ndarray:
        """Long-run share of time in each state; shape (S,)."""
        generator = np.array(self.switch_rates) / np.max(self.switch_rates)
        np.fill_diagonal(generator, -generator.sum(axis=1))
        equations = np.vstack([generator.T, np.ones(self.n_states)])
        right = np.append(np.zeros(self.n_states), 1.0)
        shares: np.ndarray = np.maximum(np.linalg.lstsq(equations, right, rcond=None)[0], 0.0)
        shares /= shares.sum()
        return shares

    def relative_rates(self, n_classes: int) -> np.ndarray:
        """Rate in each state over the long-run mean; shape (S, I). Raises ConfigurationError."""
        multipliers = np.array(self.multipliers, float) if not self._ragged else None
        if multipliers is not None and multipliers.ndim == 1:
            multipliers = np.repeat(multipliers[:, None], n_classes, axis=1)
        if multipliers is None or multipliers.shape[1] != n_classes:
            raise ConfigurationError(
                "modulation multipliers",
                self.multipliers,
                f"one number per state, or {n_classes} (one per class) for each",
            )
        mean = self.stationary_probabilities @ multipliers
        if (mean <= 0).any():
            raise ConfigurationError(
                "modulation multipliers", self.multipliers, "a positive rate in some state"
            )
        relative: np.ndarray = multipliers / mean
        return relative

    @property
    def _ragged(self) -> bool:
        sizes = {len(m) if isinstance(m, tuple) else 0 for m in self.multipliers}
        return len(sizes) > 1


def _is_irreducible(rates: np.ndarray) -> bool:
    """Whether every state of a chain can be reached from every other."""
    reachable = (rates > 0) | np.eye(len(rates), dtype=bool)
    for _ in range(len(rates).bit_length()):  # paths of twice as many jumps each time
        reachable = reachable @ reachable
    return bool(reachable.all())


def _rows(field: str, values: Any) -> Sequence[Any]:
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, (list, tuple)) or not values:
        raise ConfigurationError(field, values, "a non-empty list")
    return values
