"""Rows of the tasks read: who earned which share of a bound, and what that closes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.tasks.evaluation import TaskRuns, best_of
from llm_sched_env.tasks.reference_policies import NOTHING, RANDOM
from research.framework.study import Row
from research.tasks.entrants import RULE, SERVING, TRAINED

PAPER = "gate-and-route"


class Seeds(NamedTuple):
    """An algorithm on a task: one training, or several that differ in their seed.

    Attributes:
        algorithm: its name.
        runs: of each training.
        steps: of a training; None where its file does not tell.
        seconds: of wall time of a training, likewise.
    """

    algorithm: str
    runs: list[TaskRuns]
    steps: float | None
    seconds: float | None


class TaskStandings:
    """Results by task.

    Args:
        rows: of the study, in any order of the policies.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.tasks = list(dict.fromkeys(row["task"] for row in rows))
        self.refused = [row for row in rows if row["refused"]]
        self._rows = {(row["task"], row["label"]): row for row in rows if not row["refused"]}

    def of(self, task: str, *kinds: str) -> list[TaskRuns]:
        """Everybody of these kinds (default all) on a task, the best first."""
        found = [
            _runs(row)
            for (where, _), row in self._rows.items()
            if where == task and (not kinds or row["kind"] in kinds)
        ]
        return sorted(found, key=lambda runs: -float(np.mean(runs.revenue)))

    def one(self, task: str, label: str) -> TaskRuns | None:
        """A policy on a task; None where it does not play."""
        row = self._rows.get((task, label))
        return None if row is None else _runs(row)

    def best(self, task: str, *kinds: str) -> TaskRuns | None:
        """The best of these kinds."""
        found = self.of(task, *kinds)
        return best_of(found) if found else None

    def best_rule(self, task: str) -> TaskRuns:
        """The best of all that was not trained."""
        found = self.best(task, SERVING, RULE)
        assert found is not None
        return found

    def headroom(self, task: str) -> float:
        """What the best rule leaves, as a share of the bound."""
        return 1.0 - self.best_rule(task).share.mean

    def algorithms(self, task: str) -> list[Seeds]:
        """Trained policies on a task, with their seeds together; the best first."""
        grouped: dict[str, list[Row]] = {}
        for (where, _), row in self._rows.items():
            if where == task and row["kind"] == TRAINED:
                grouped.setdefault(row["algorithm"], []).append(row)
        found = [
            Seeds(name, [_runs(row) for row in rows], _mean(rows, "steps"), _mean(rows, "seconds"))
            for name, rows in grouped.items()
        ]
        return sorted(found, key=lambda one: -interquartile_mean(_shares(one)))


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean of the middle half of some values, as rliable takes it (arXiv 2108.13264)."""
    from scipy.stats import trim_mean

    return float(trim_mean(np.asarray(values, float), 0.25))


def closed_by(seeds: Seeds, rule: TaskRuns) -> Estimate:
    """The headroom that an algorithm closes: interquartile mean over its seeds.

    With one seed the interval is over the runs, with several of a bootstrap over the seeds.
    """
    if len(seeds.runs) == 1:
        return seeds.runs[0].closed(rule)
    values = np.array([runs.closed(rule).mean for runs in seeds.runs])
    rng = np.random.default_rng(0)
    drawn = rng.choice(values, (2000, len(values)))
    means = [interquartile_mean(sample) for sample in drawn]
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return Estimate(interquartile_mean(values.tolist()), (low, high))


def headroom_table(standings: TaskStandings) -> list[Row]:
    """One line a task: from random actions to the bound."""
    return [_headroom_row(standings, task) for task in standings.tasks]


def _headroom_row(standings: TaskStandings, task: str) -> Row:
    rule, learned = standings.best_rule(task), standings.best(task, TRAINED)
    solved = rule.solves
    return {
        "task": task,
        "random": _share(standings.one(task, RANDOM)),
        "do nothing": _share(standings.one(task, NOTHING)),
        PAPER: _share(standings.one(task, PAPER)),
        "best serving": _named(standings.best(task, SERVING)),
        "best rule": _named(rule),
        "best learned": "-" if learned is None else _named(learned),
        "learned less rule": "-" if learned is None else difference(learned.gain(rule)),
        "headroom": f"{100 * standings.headroom(task):.1f}" + (" (solved)" if solved else ""),
    }


def difference(gain: Estimate) -> str:
    """A gain in points of the bound with half its interval."""
    low, high = gain.ci95
    return f"{100 * gain.mean:+.2f}±{50 * (high - low):.2f}"


def percent(share: Estimate) -> str:
    """A share in percent with half its interval."""
    low, high = share.ci95
    half = "" if np.isnan(low) else f"±{50 * (high - low):.1f}"
    return f"{100 * share.mean:.1f}{half}"


def _named(runs: TaskRuns | None) -> str:
    return "-" if runs is None else f"{percent(runs.share)} `{runs.policy}`"


def _share(runs: TaskRuns | None) -> str:
    return "-" if runs is None else percent(runs.share)


def _shares(seeds: Seeds) -> list[float]:
    return [runs.share.mean for runs in seeds.runs]


def _mean(rows: list[Row], name: str) -> float | None:
    known = [row[name] for row in rows if row[name] not in (None, "")]
    return float(np.mean([float(value) for value in known])) if known else None


def _runs(row: Row) -> TaskRuns:
    revenue, bound = (tuple(map(float, row[name].split())) for name in ("revenue", "bound"))
    return TaskRuns(row["task"], row["label"], revenue, bound)
