"""Draw the tasks: shares of the bound by kind of policy, and what trained policies close."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.tasks.reference_policies import RANDOM
from research.tasks.entrants import SERVING, TRAINED
from research.tasks.standings import PAPER, TaskStandings, closed_by

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEFT = -1.0
"""Who closes less of the headroom than this is drawn at the edge."""


def draw_tasks(standings: TaskStandings, figure: Figure) -> None:
    """Left, shares of the bound; right, the headroom closed by what was trained.

    Args:
        standings: the results.
        figure: an empty one of constrained layout.
    """
    figure.set_size_inches(10.5, 0.45 * len(standings.tasks) + 1.6)
    shares, closed = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = np.arange(len(standings.tasks))[::-1]
    _draw_shares(standings, shares, places)
    _draw_closed(standings, closed, places)
    shares.set(yticks=places, yticklabels=standings.tasks, xlabel="share of the bound, %")
    closed.set(xlabel="headroom closed: 0 best rule, 1 bound", xlim=(_LEFT - 0.05, 1.05))
    for axis in (shares, closed):
        axis.grid(axis="y", color="0.92")
        axis.set_axisbelow(True)
    figure.legend(*shares.get_legend_handles_labels(), loc="outside lower center", ncols=5)


def _draw_shares(standings: TaskStandings, axis: Axes, places: np.ndarray) -> None:
    marks = (
        ("random actions", "0.7", "x", lambda t: standings.one(t, RANDOM)),
        (PAPER, "C0", "s", lambda t: standings.one(t, PAPER)),
        ("best of serving systems", "C1", "^", lambda t: standings.best(t, SERVING)),
        ("best rule", "C2", "o", standings.best_rule),
        ("best trained", "C3", "*", lambda t: standings.best(t, TRAINED)),
    )
    for label, colour, marker, find in marks:
        found = [(find(task), place) for task, place in zip(standings.tasks, places, strict=True)]
        known = [(100 * runs.share.mean, place) for runs, place in found if runs is not None]
        if known:
            axis.plot(*zip(*known, strict=True), marker, color=colour, label=label, markersize=6)
    axis.axvline(100.0, color="0.4", linewidth=0.8)


def _draw_closed(standings: TaskStandings, axis: Axes, places: np.ndarray) -> None:
    axis.axvline(0.0, color="0.4", linewidth=0.8)
    for task, place in zip(standings.tasks, places, strict=True):
        rule = standings.best_rule(task)
        if rule.solves:
            axis.text(0.5, place, "solved by a rule", color="0.6", ha="center", va="center")
            continue
        for one in standings.algorithms(task)[:1]:
            found = closed_by(one, rule)
            mean = max(found.mean, _LEFT)
            low, high = np.clip(found.ci95, _LEFT, None)
            axis.plot([low, high], [place, place], color="C3", linewidth=1.2)
            axis.plot(mean, place, "*", color="C3", markersize=8)
