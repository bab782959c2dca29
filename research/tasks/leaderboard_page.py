"""The leaderboard by task as a page."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llm_sched_env.tasks import TASKS
from research.framework.paper_page import table_lines
from research.framework.study import Row
from research.tasks.standings import (
    TaskStandings,
    closed_by,
    difference,
    interquartile_mean,
    percent,
)

_CAPTION = (
    "*What to see: on the left how near to its bound each kind of policy comes, on the right how "
    "much of what the best rule leaves the best trained policy closes.*"
)

_OVER_TASKS = (
    "Interquartile mean of the headroom closed over the tasks that no rule solves, and over seeds."
)


def leaderboard_page(standings: TaskStandings, versions: Mapping[str, str], command: str) -> str:
    """The page; the same rows give the same text.

    Args:
        standings: the results.
        versions: of what computed them.
        command: that computes them again.
    """
    numbers = ", ".join(f"{name} {number}" for name, number in versions.items())
    about = (
        "*Every policy on the held-out runs of each [task](../tasks.md): shares of the bound in %, "
        "± half a 95% interval, and the headroom closed: 0 is the best rule, 1 the bound. "
        f"Written by `make tasks`; enter with `{command} --enter my_package.my_module:MyPolicy`, "
        "or the path of a checkpoint.*"
    )
    lines = [
        "# Leaderboard by task",
        "",
        about,
        "",
        "![shares of the bound and headroom closed](tasks.png)",
        "",
        _CAPTION,
        "",
        "## Over tasks",
        "",
        _OVER_TASKS,
        "",
        *table_lines(_over_tasks(standings)),
        "",
    ]
    for task in standings.tasks:
        lines += _section(standings, task)
    lines += [f"With {numbers}. Rows: [CSV](../../research/results/tasks.csv).", ""]
    return "\n".join(lines)


def _over_tasks(standings: TaskStandings) -> list[Row]:
    """One line a trained algorithm."""
    closed: dict[str, list[float]] = {}
    where: dict[str, list[str]] = {}
    for task in standings.tasks:
        rule = standings.best_rule(task)
        if rule.solves:
            continue
        for one in standings.algorithms(task):
            closed.setdefault(one.algorithm, [])
            closed[one.algorithm] += [runs.closed(rule).mean for runs in one.runs]
            where.setdefault(one.algorithm, []).append(task)
    found = [
        {
            "policy": f"`{name}`",
            "tasks": len(where[name]),
            "trainings": len(values),
            "headroom closed": f"{interquartile_mean(values):+.3f}",
        }
        for name, values in closed.items()
    ]
    return sorted(found, key=lambda row: -float(row["headroom closed"]))


def _section(standings: TaskStandings, task: str) -> list[str]:
    rule = standings.best_rule(task)
    verdict = f"`{rule.policy}` leaves {100 * standings.headroom(task):.1f}% of the bound."
    if rule.solves:
        verdict += " Solved: for checking an algorithm."
    lines = [f"## {task}", "", f"{_capital(TASKS[task].title)}. {verdict}", ""]
    trained = [
        {
            "trained": f"`{one.algorithm}`",
            "seeds": str(len(one.runs)),
            "share": percent(one.runs[0].share)
            if len(one.runs) == 1
            else f"{100 * interquartile_mean([r.share.mean for r in one.runs]):.1f}",
            "less the best rule": difference(one.runs[0].gain(rule)),
            "headroom closed": _closed(standings, task, one.algorithm),
            "steps": "-" if one.steps is None else f"{one.steps:,.0f}",
            "seconds": "-" if one.seconds is None else f"{one.seconds:,.0f}",
        }
        for one in standings.algorithms(task)
    ]
    rules = [
        {
            "policy": f"`{runs.policy}`",
            "share": percent(runs.share),
            "headroom closed": f"{runs.closed(rule).mean:+.2f}",
        }
        for runs in standings.of(task, "reference", "serving", "rule")
    ]
    return [*lines, *table_lines(trained), "", *table_lines(rules), ""]


def _closed(standings: TaskStandings, task: str, algorithm: str) -> str:
    rule = standings.best_rule(task)
    if rule.solves:
        return "-"
    (one,) = [seeds for seeds in standings.algorithms(task) if seeds.algorithm == algorithm]
    found = closed_by(one, rule)
    low, high = found.ci95
    half = "" if np.isnan(low) else f"±{(high - low) / 2:.3f}"
    return f"{found.mean:+.3f}{half}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
