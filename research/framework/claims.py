"""Claims of the paper, with outcomes that follow from our numbers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_sched_env.evaluation.results import Estimate

AGREES, DIFFERS, UNDECIDED = "agrees", "differs", "undecided"


@dataclass(frozen=True)
class Criterion:
    """The numbers that agree with a claim, from ``low`` to ``high``."""

    low: float = -math.inf
    high: float = math.inf

    def outcome(self, estimate: Estimate) -> str:
        """``agrees`` if the whole 95% interval lies within, ``differs`` if none of it does.

        Otherwise, and for an interval that is not known, ``undecided``.
        """
        low, high = estimate.ci95
        if self.low <= low and high <= self.high:
            return AGREES
        if high < self.low or low > self.high:
            return DIFFERS
        return UNDECIDED

    def text(self, shown: str) -> str:
        """In words, numbers in a format such as ``.3f``."""
        if math.isinf(self.high):
            return f"at least {self.low:{shown}}"
        if math.isinf(self.low):
            return f"at most {self.high:{shown}}"
        return f"{self.low:{shown}} to {self.high:{shown}}"


@dataclass(frozen=True)
class Claim:
    """A statement of the paper and our number.

    Args:
        statement: what the paper says, or what follows from it, in a sentence.
        place: where it says so; "this project" for what is ours.
        quantity: what our number is, with its unit.
        estimate: the number with its 95% interval; :func:`exact` numbers are their own.
        criterion: which numbers agree.
        why: by outcome, why it came out so; an outcome without an entry has no reason.
        shown: format of the numbers on the page.
    """

    statement: str
    place: str
    quantity: str
    estimate: Estimate
    criterion: Criterion
    why: Mapping[str, str] = field(default_factory=dict)
    shown: str = ".4f"

    @property
    def outcome(self) -> str:
        """``agrees``, ``differs`` or ``undecided``."""
        return self.criterion.outcome(self.estimate)

    @property
    def reason(self) -> str:
        """Why the outcome is as it is; may be empty."""
        default = "the interval crosses the limit" if self.outcome == UNDECIDED else ""
        return self.why.get(self.outcome, default)

    def number(self) -> str:
        """Our number with its interval, as on the page."""
        low, high = self.estimate.ci95
        mean = f"{self.estimate.mean:{self.shown}}"
        if low == high == self.estimate.mean:
            return mean
        if math.isnan(low):
            return f"{mean} [one run]"
        return f"{mean} [{low:{self.shown}}, {high:{self.shown}}]"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        limits = (self.criterion.low, self.criterion.high)
        return {
            "statement": self.statement,
            "place": self.place,
            "quantity": self.quantity,
            **self.estimate.to_dict(),
            "mean": self.estimate.mean if math.isfinite(self.estimate.mean) else None,
            "criterion": [v if math.isfinite(v) else None for v in limits],
            "outcome": self.outcome,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Findings:
    """What a study found.

    Args:
        claims: statements of the paper with our numbers.
        table: rows with the same keys, their header; values are texts or numbers.
        remarks: sentences with numbers, on what no claim covers.
    """

    claims: Sequence[Claim]
    table: Sequence[Mapping[str, Any]] = ()
    remarks: Sequence[str] = ()


def exact(value: float) -> Estimate:
    """A number without randomness, such as the value of a linear program."""
    return Estimate(float(value), (float(value), float(value)))
