"""Draw the leaderboard: gap to R* by cluster size, one panel per kind of instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from research.leaderboard.grid import is_random
from research.leaderboard.standings import Standings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# So many of the ranking have a colour, with the special ones; a gap below the least is noise.
_COLOURED, _LEAST_GAP = 6, 3e-4


def draw_leaderboard(standings: Standings, special: Sequence[str], figure: Figure) -> None:
    """The gap to R* by size: the best and the special ones in colour, the others grey.

    Args:
        standings: the scores.
        special: policies drawn thick, such as trained ones.
        figure: an empty one of constrained layout.
    """
    drawn = [name for name in standings.instances if is_random(name)]
    panels = [(name, [name]) for name in standings.instances if not is_random(name)]
    if drawn:
        panels.append((f"{len(drawn)} random, mean", drawn))
    ranked = standings.ranked()
    coloured = [name for k, name in enumerate(ranked) if k < _COLOURED or name in special]
    figure.set_size_inches(3.3 * len(panels), 4.4)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, names) in zip(axes, panels, strict=True):
        for policy in reversed(ranked):
            sizes, gaps = _gaps(standings, names, policy)
            style = {"color": "0.8", "linewidth": 0.9, "label": "others"}
            if policy in coloured:
                width = 2.4 if policy in special else 1.3
                colour = f"C{coloured.index(policy) % 10}"
                style = {"color": colour, "linewidth": width, "label": policy, "marker": "o"}
            axis.loglog(sizes, np.maximum(gaps, _LEAST_GAP), markersize=3, **style)
        axis.set(title=title, xlabel="GPUs", xticks=standings.sizes, xticklabels=standings.sizes)
        axis.minorticks_off()
    axes[0].set_ylabel("1 - share of R*")
    lines, labels = axes[0].get_legend_handles_labels()
    by_label = dict(zip(labels, lines, strict=True))
    order = [name for name in (*coloured, "others") if name in by_label]
    handles = [by_label[name] for name in order]
    figure.legend(
        handles, order, loc="outside lower center", ncols=1 + len(panels), fontsize="small"
    )


def _gaps(standings: Standings, names: list[str], policy: str) -> tuple[list[int], list[float]]:
    """Mean gaps over instances at the sizes where the policy competes in all of them."""
    sizes, gaps = [], []
    for n_gpus in standings.sizes:
        mean = standings.mean(policy, [(name, n_gpus) for name in names])
        if mean is not None:
            sizes.append(n_gpus)
            gaps.append(1.0 - mean.mean)
    return sizes, gaps
