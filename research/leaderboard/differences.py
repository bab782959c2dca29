"""Paired differences on the same requests, with outcomes corrected for multiple tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from research.framework.estimates import mean_over_cells, ratio_over_cells
from research.framework.study import Row
from research.leaderboard.standings import Place, Standings

ABOVE, NOISE, BELOW = "above", "within noise", "below"
BEST, TRUNK, CREDIT = "best rule", "trunk-reservation", "token-bucket"
REFERENCES = (BEST, TRUNK, CREDIT)
"""With whom an entrant is compared; the best rule is that of each case, by its mean there."""
FALSE_DISCOVERIES = 0.05
# Summation orders differ between compiled rules and the same rule in Python.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Difference:
    """An entrant's score less a reference's, over the replications of one case.

    Attributes:
        place: instance and size.
        policy: the entrant.
        against: one of :data:`REFERENCES`.
        reference: the policy that it is there.
        values: by replication, shape (K,).
        p_value: of a mean of 0 (paired t-test, two-sided).
    """

    place: Place
    policy: str
    against: str
    reference: str
    values: np.ndarray
    p_value: float

    @property
    def estimate(self) -> Estimate:
        """With the 95% interval."""
        return Estimate.of(self.values)

    @property
    def outcome(self) -> str:
        """Of this difference alone."""
        return outcome(self.estimate)


def outcome(estimate: Estimate) -> str:
    """``above`` or ``below`` 0 with the whole 95% interval, or ``within noise``."""
    low, high = estimate.ci95
    return ABOVE if low > 0 else BELOW if high < 0 else NOISE


class Differences:
    """All comparisons that the leaderboard makes.

    Args:
        standings: the scores.
        rules: policies of which the best is a reference.
    """

    def __init__(self, standings: Standings, rules: Sequence[str]) -> None:
        self._standings, self._rules = standings, rules

    def best_rule(self, place: Place, without: str = "") -> str | None:
        """The rule of the highest mean in a case; None where no rule competes."""
        means = {
            rule: float(scores.mean())
            for rule in self._rules
            if rule != without and (scores := self._standings.scores(place, rule)) is not None
        }
        return max(means, key=means.__getitem__) if means else None

    def at(self, place: Place, policy: str, against: str) -> Difference | None:
        """A paired difference; None where either does not compete."""
        reference = self.best_rule(place, policy) if against == BEST else against
        own = self._standings.scores(place, policy)
        other = None if reference is None else self._standings.scores(place, reference)
        if own is None or other is None or reference in {None, policy}:
            return None
        values = own - other
        values[np.abs(values) < _ROUNDING] = 0.0
        return Difference(place, policy, against, str(reference), values, _p_value(values))

    def over(self, places: Sequence[Place], policy: str, against: str) -> list[Difference]:
        """Those of many cases."""
        found = [self.at(place, policy, against) for place in places]
        return [one for one in found if one is not None]

    def mean(self, places: Sequence[Place], policy: str, against: str) -> Estimate | None:
        """The mean difference over the cases in which both compete."""
        found = self.over(places, policy, against)
        return mean_over_cells([one.values for one in found]) if found else None

    def gap_closed(self, places: Sequence[Place], policy: str) -> Estimate | None:
        """The share of the credit gate's gap to R* that is closed, over cases of both.

        None where the gap does not stand out of the noise.
        """
        found = self.over(places, policy, CREDIT)
        scores = [self._standings.scores(one.place, CREDIT) for one in found]
        gaps = [1.0 - one for one in scores if one is not None]
        if not gaps or not mean_over_cells(gaps).ci95[0] > 0:
            return None
        return ratio_over_cells([one.values for one in found], gaps)


def _p_value(values: np.ndarray) -> float:
    from scipy.stats import t

    count, mean = len(values), float(values.mean())
    if count < 2 or not values.any():
        return 1.0
    error = float(values.std(ddof=1)) / math.sqrt(count)
    return float(2.0 * t.sf(abs(mean) / error, count - 1)) if error > 0.0 else 0.0


@dataclass(frozen=True)
class Tally:
    """How a number of comparisons came out.

    Attributes:
        above, noise, below: how many, each by its own 95% interval.
        by_chance: how many would be above or below if all means were equal.
        above_controlled, below_controlled: how many remain when the expected share of false ones
            among them is at most :data:`FALSE_DISCOVERIES` (Benjamini-Yekutieli: they depend on
            each other).
    """

    above: int
    noise: int
    below: int
    by_chance: float
    above_controlled: int
    below_controlled: int

    @classmethod
    def of(cls, differences: Sequence[Difference]) -> Tally:
        """Count; the family of tests is all that are given."""
        from scipy.stats import false_discovery_control

        outcomes = [one.outcome for one in differences]
        adjusted = (
            false_discovery_control([one.p_value for one in differences], method="by")
            if differences
            else []
        )
        kept = [
            float(one.values.mean())
            for one, p in zip(differences, adjusted, strict=True)
            if p <= FALSE_DISCOVERIES
        ]
        return cls(
            outcomes.count(ABOVE),
            outcomes.count(NOISE),
            outcomes.count(BELOW),
            0.05 * len(differences),
            sum(mean > 0 for mean in kept),
            sum(mean < 0 for mean in kept),
        )


def difference_rows(differences: Differences, standings: Standings) -> list[Row]:
    """Every comparison of every policy, as lines of ``differences.csv``."""
    lines: list[Row] = []
    for place in standings.places:
        for policy in standings.policies:
            closed = differences.gap_closed([place], policy)
            for against in REFERENCES:
                found = differences.at(place, policy, against)
                if found is None:
                    continue
                estimate, gap = found.estimate, closed if against == CREDIT else None
                lines.append(
                    {
                        "instance": place[0],
                        "n_gpus": place[1],
                        "policy": policy,
                        "against": against,
                        "reference": found.reference,
                        "difference": estimate.mean,
                        "low": estimate.ci95[0],
                        "high": estimate.ci95[1],
                        "outcome": found.outcome,
                        "p_value": found.p_value,
                        "gap_closed": gap and gap.mean,
                        "gap_closed_low": gap and gap.ci95[0],
                        "gap_closed_high": gap and gap.ci95[1],
                    }
                )
    return lines
