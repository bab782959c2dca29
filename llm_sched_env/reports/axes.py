"""Axes of charts: ticks at the sizes used, seconds in their units, shares in percent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# Labels of ticks would run into each other with less between them; shares of a short axis.
_GAP, _CHARACTER = 0.03, 0.028
_LEAST_TAIL = 1e-3
# Ticks of an axis of seconds that is wider than so many decades, in each of them.
_STEPS = (
    (2.5, (1.0,)),
    (1.3, (1.0, 3.0)),
    (0.7, (1.0, 2.0, 5.0)),
    (0.35, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)),
)


def size_axis(axes: Any, sizes: Sequence[float]) -> None:
    """A log axis to the right with ticks at these sizes, as far as their labels have room."""
    axes.set_xscale("log")
    least, most = sizes[0], sizes[-1]
    # Some room on both sides, also where there is one size only.
    room = (most / least) ** 0.06 if most > least else 1.5
    axes.set_xlim(least / room, most * room)
    span = math.log(most * room * room / least)
    labelled: list[float] = []
    # The ends first: they say how far it goes.
    for size in [least, most, *sizes[1:-1]]:
        if all(abs(math.log(size / other)) > _room(size, other) * span for other in labelled):
            labelled.append(size)
    axes.set_xticks(sorted(labelled), [_label(size) for size in sorted(labelled)])
    axes.set_xticks([size for size in sizes if size not in labelled], minor=True)
    axes.xaxis.set_minor_formatter(lambda *_: "")


def _label(size: float) -> str:
    return f"{size:.4g}"


def _room(size: float, other: float) -> float:
    """The share of an axis between two ticks whose labels stand beside each other."""
    return _GAP + _CHARACTER * (len(_label(size)) + len(_label(other))) / 2.0


def share_axis(axis: Any) -> None:
    """An axis of shares in percent, which need not begin at 0."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))


def count_axis(axis: Any) -> None:
    """An axis of numbers from 0 on, thousands apart."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(
        FuncFormatter(lambda v, _: f"{v:,.0f}" if abs(v) >= 1000 else f"{v:g}")
    )


def tail_axis(axis: Any) -> None:
    """A log axis up of shares from one in a thousand to all."""
    axes = axis.axes
    axes.set_yscale("log")
    axes.set_ylim(_LEAST_TAIL, 1.15)
    shares = (1.0, 0.5, 0.1, 0.05, 0.01, _LEAST_TAIL)
    axes.set_yticks(shares, [f"{100 * share:g}%" for share in shares])
    axes.minorticks_off()


def seconds_axis(axis: Any) -> None:
    """A log axis of seconds: 10 ms, 0.5 s, 2 s."""
    from matplotlib.ticker import (
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
        NullLocator,
    )

    axes = axis.axes
    across = axis.axis_name == "x"
    (axes.set_xscale if across else axes.set_yscale)("log")
    least, most = sorted(axes.get_xlim() if across else axes.get_ylim())
    decades = math.log10(most / least)
    steps = next((subs for width, subs in _STEPS if decades > width), None)
    axis.set_major_locator(LogLocator(subs=steps, numticks=12) if steps else MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda seconds, _: seconds_text(seconds)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def seconds_text(seconds: float) -> str:
    """Seconds with a unit that suits them.

    Example:
        >>> [seconds_text(s) for s in (0.0005, 0.05, 2.0, 100.0)]
        ['0.5 ms', '50 ms', '2 s', '100 s']
    """
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.0995 else f"{seconds:.3g} s"


def least_and_most(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """The ends of all finite values > 0; (0.1, 10) without any."""
    every = np.concatenate([np.asarray(v, float).ravel() for v in values])
    known = every[np.isfinite(every) & (every > 0)]
    return (float(known.min()), float(known.max())) if len(known) else (0.1, 10.0)
