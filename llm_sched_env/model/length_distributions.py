"""Distributions of prompt and output lengths with a given mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, checked_numbers, is_finite_number

LENGTH_KINDS = ("exponential", "deterministic", "log-normal", "gamma", "empirical")
_WITH_CV = ("log-normal", "gamma")
LEAST_CV, GREATEST_CV = 1e-3, 1e3
_MEAN_TOLERANCE = 1e-6


@dataclass(frozen=True)
class LengthDistribution:
    """The shape of a length distribution around the mean that its class states.

    Args:
        kind: ``exponential`` (the Markov model), ``deterministic``, ``log-normal``, ``gamma`` or
            ``empirical``.
        cv: coefficient of variation (standard deviation / mean) of ``log-normal`` and ``gamma``,
            from 0.001 to 1000; None otherwise.
        values: observed lengths in tokens of ``empirical``, each equally likely; None otherwise.

    Example:
        >>> LengthDistribution("gamma", cv=0.5)
        LengthDistribution(kind='gamma', cv=0.5, values=None)
    """

    kind: str = "exponential"
    cv: float | None = None
    values: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in LENGTH_KINDS:
            raise ConfigurationError("length kind", self.kind, f"one of {', '.join(LENGTH_KINDS)}")
        if self.kind in _WITH_CV:
            object.__setattr__(self, "cv", _checked_cv(self.kind, self.cv))
        elif self.cv is not None:
            raise ConfigurationError("length cv", self.cv, f"none for {self.kind}", "remove it")
        if self.kind == "empirical":
            object.__setattr__(self, "values", _checked_values(self.values))
        elif self.values is not None:
            raise ConfigurationError(
                "length values", self.values, f"none for {self.kind}", "remove them"
            )

    def require_mean(self, field: str, mean: float) -> None:
        """Raise ConfigurationError unless observed lengths have the mean of their class."""
        if self.values is None:
            return
        own = float(np.mean(self.values))
        if abs(own - mean) > _MEAN_TOLERANCE * mean:
            raise ConfigurationError(field, mean, f"the mean of the observed lengths, {own!r}")


def _checked_cv(kind: str, cv: Any) -> float:
    """A coefficient of variation as a plain float."""
    cv = _plain(cv)
    if not is_finite_number(cv) or not LEAST_CV <= cv <= GREATEST_CV:
        raise ConfigurationError(
            f"length cv of {kind}", cv, f"a number from {LEAST_CV:g} to {GREATEST_CV:g}"
        )
    return float(cv)


def _plain(number: Any) -> Any:
    return number.item() if isinstance(number, np.generic) else number


def _checked_values(values: object) -> tuple[float, ...]:
    """Observed lengths as plain numbers."""
    lengths = checked_numbers("length values", values)
    if not any(lengths):
        raise ConfigurationError("length values", lengths, "at least one length > 0")
    return lengths


EXPONENTIAL = LengthDistribution()
"""The Markov model."""


@dataclass(frozen=True, eq=False)
class ObservedLengths:
    """Prompt and output lengths observed together; each pair is equally likely.

    Args:
        prompt_tokens: of each request, shape (K,); read-only.
        output_tokens: of the same requests, shape (K,); read-only.
        reused_tokens: prompt tokens of the same requests that need no prefill since a cache has
            them, shape (K,), read-only; None: none.

    Example:
        >>> len(ObservedLengths(prompt_tokens=[10, 300], output_tokens=[50, 70]))
        2
    """

    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    reused_tokens: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens"):
            object.__setattr__(self, name, _checked_tokens(name, getattr(self, name)))
        counts = len(self.prompt_tokens), len(self.output_tokens)
        if counts[0] != counts[1]:
            raise ConfigurationError(
                "observed lengths", f"{counts[0]} prompts, {counts[1]} outputs", "as many of each"
            )
        if self.reused_tokens is None:
            return
        reused = _checked_tokens("reused_tokens", self.reused_tokens)
        object.__setattr__(self, "reused_tokens", reused)
        if reused.shape != self.prompt_tokens.shape or (reused > self.prompt_tokens).any():
            raise ConfigurationError(
                "observed lengths reused_tokens", reused, "at most the prompt of each request"
            )

    @property
    def reused(self) -> np.ndarray | float:
        """Prompt tokens without a prefill, shape (K,); 0 if there are none."""
        return 0.0 if self.reused_tokens is None else self.reused_tokens

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObservedLengths) and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    @property
    def _bytes(self) -> tuple[bytes, ...]:
        reused = () if self.reused_tokens is None else (self.reused_tokens.tobytes(),)
        return self.prompt_tokens.tobytes(), self.output_tokens.tobytes(), *reused

    def require_means(self, where: str, prompt_tokens: float, output_tokens: float) -> None:
        """Raise ConfigurationError unless the lengths have the means of their class."""
        for name, mean in (("prompt_tokens", prompt_tokens), ("output_tokens", output_tokens)):
            own = float(getattr(self, name).mean())
            if abs(own - mean) > _MEAN_TOLERANCE * mean:
                raise ConfigurationError(
                    where + name, mean, f"the mean of the observed lengths, {own!r}"
                )

    def within(self, tokens: float) -> np.ndarray:
        """Which requests have at most so many prompt and output tokens; bool, shape (K,)."""
        fits: np.ndarray = self.prompt_tokens + self.output_tokens <= tokens
        return fits

    def picked(self, rows: np.ndarray) -> ObservedLengths:
        """Some of the requests: a mask or indices."""
        reused = None if self.reused_tokens is None else self.reused_tokens[rows]
        return ObservedLengths(self.prompt_tokens[rows], self.output_tokens[rows], reused)

    def to_dict(self) -> dict[str, list[float]]:
        """Plain data in the form of an instance file."""
        table = {
            "prompt_tokens": self.prompt_tokens.tolist(),
            "output_tokens": self.output_tokens.tolist(),
        }
        if self.reused_tokens is not None:
            table["reused_tokens"] = self.reused_tokens.tolist()
        return table


def _checked_tokens(name: str, tokens: Any) -> np.ndarray:
    """Token counts as a read-only array."""
    try:
        array = np.array(tokens, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty((0, 0))
    if array.ndim != 1 or len(array) == 0 or not (np.isfinite(array) & (array >= 0)).all():
        raise ConfigurationError(
            f"observed lengths {name}", tokens, "a non-empty list of finite numbers >= 0"
        )
    array.setflags(write=False)
    return array
