"""Mean scores by cluster size and over all cases, and the ranking they give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from research.framework.estimates import mean_over_cells
from research.framework.study import Row

Place = tuple[str, int]
"""An instance's name and a cluster size."""


class Standings:
    """The leaderboard's rows by place and policy.

    Args:
        rows: of :class:`Leaderboard`.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {(row["instance"], row["n_gpus"], row["policy"]): row for row in rows}
        self.policies = list(dict.fromkeys(row["policy"] for row in rows))
        self.places: list[Place] = list(
            dict.fromkeys((row["instance"], row["n_gpus"]) for row in rows)
        )
        self.sizes = sorted({n_gpus for _, n_gpus in self.places})
        self.instances = list(dict.fromkeys(name for name, _ in self.places))

    def row(self, place: Place, policy: str) -> Row | None:
        """The row of a policy, or None where it does not compete."""
        return self._rows.get((*place, policy))

    def scores(self, place: Place, policy: str) -> np.ndarray | None:
        """Shares of R* by replication, shape (K,)."""
        row = self.row(place, policy)
        return None if row is None else np.array([float(x) for x in row["scores"].split()])

    def at(self, *, n_gpus: int | None = None, instance: str | None = None) -> list[Place]:
        """The places of a size and of an instance; None for all."""
        return [p for p in self.places if instance in {None, p[0]} and n_gpus in {None, p[1]}]

    def mean(self, policy: str, places: Sequence[Place]) -> Estimate | None:
        """The mean score over places; None for a policy that is not in all of them."""
        found = [self.scores(place, policy) for place in places]
        samples = [one for one in found if one is not None]
        return mean_over_cells(samples) if len(samples) == len(found) else None

    def ranked(self) -> list[str]:
        """Policies by their mean over all places; then those that are not everywhere."""
        means = {policy: self.mean(policy, self.places) for policy in self.policies}
        return sorted(
            self.policies,
            key=lambda policy: -np.inf if (mean := means[policy]) is None else mean.mean,
            reverse=True,
        )


def ranking(standings: Standings) -> list[Row]:
    """One line a policy: mean scores in % of R* by size and over all, latencies, abandonment."""
    return [
        {"": k, "policy": policy}
        | {f"n = {n}": _score(standings, policy, standings.at(n_gpus=n)) for n in standings.sizes}
        | {"all": _score(standings, policy, standings.places)}
        | _service(standings, policy)
        for k, policy in enumerate(standings.ranked(), 1)
    ]


def instance_table(standings: Standings, instance: str) -> list[Row]:
    """One line a policy: scores in % of R* by size, and what its requests met at each."""
    places = standings.at(instance=instance)
    lines = []
    for policy in standings.ranked():
        rows = [standings.row(place, policy) for place in places]
        if all(row is None for row in rows):
            continue
        by_size = {
            f"n = {n_gpus}": _score(standings, policy, [(instance, n_gpus)]) for _, n_gpus in places
        }
        met = {
            title: " / ".join("-" if row is None else _shown(row[key], form) for row in rows)
            for title, (key, form) in _MET.items()
        }
        lines.append({"policy": policy} | by_size | met)
    return lines


_MET = {
    "TTFT p99, s": ("ttft_p99", ".3g"),
    "TPOT p99, ms": ("tpot_p99", "ms"),
    "abandoned": ("abandoned_share", ".0%"),
}


def percent(estimate: Estimate) -> str:
    """An estimate in percent with the half-width of its interval."""
    low, high = estimate.ci95
    return f"{100 * estimate.mean:.2f}±{50 * (high - low):.2f}"


def _score(standings: Standings, policy: str, places: Sequence[Place]) -> str:
    mean = standings.mean(policy, places)
    return "-" if mean is None else percent(mean)


def _service(standings: Standings, policy: str) -> Row:
    """Medians over the policy's places of what is 99th percentile there; mean abandonment."""
    found = [row for place in standings.places if (row := standings.row(place, policy))]

    def known(key: str) -> list[float]:
        return [row[key] for row in found if row[key] is not None] or [np.nan]

    return {
        "TTFT p99, s": _shown(float(np.median(known("ttft_p99"))), ".3g"),
        "TPOT p99, ms": _shown(float(np.median(known("tpot_p99"))), "ms"),
        "abandoned": _shown(float(np.mean(known("abandoned_share"))), ".1%"),
    }


def _shown(value: float | None, form: str) -> str:
    if value is None or np.isnan(value):
        return "-"
    if form == "ms":
        value, form = 1000 * value, ".3g" if value < 1 else ".0f"
    return f"{value:{form}}"
