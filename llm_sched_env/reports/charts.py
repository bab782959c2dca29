"""The kinds of charts in reports: over sizes, distributions, over time, shares by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_sched_env.reports.axes import (
    count_axis,
    least_and_most,
    seconds_axis,
    seconds_text,
    share_axis,
    size_axis,
    tail_axis,
)
from llm_sched_env.reports.drawing import FAINT, INK, Drawing, colour, line, marker, of_series
from llm_sched_env.reports.page import Chart

# A bound that is further beyond what was tried would leave no room for that.
_FURTHEST = 4.0
# The fastest requests may be arbitrarily fast: axes of seconds begin with the next ones.
_MOST_SEEN = 0.96


@dataclass(frozen=True)
class Curve:
    """A line of a chart, with the ends of its interval where it has one.

    Attributes:
        series: its number, which gives its colour and is that of the legend.
        name: for the text alternative.
        x: shape (K,).
        y: shape (K,); NaN where there is none.
        low: of the interval, shape (K,); None without one.
        high: likewise.
    """

    series: int
    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Level:
    """A line across a chart, such as a bound, a deadline or a plan's level.

    Attributes:
        at: where.
        name: shown beside it; empty: none.
        series: to which it belongs; None: to all.
        upright: whether it goes up, at a value of the horizontal axis.
    """

    at: float
    name: str = ""
    series: int | None = None
    upright: bool = False


def curves_over_sizes(
    title: str,
    curves: Sequence[Curve],
    caption: str,
    *,
    x_label: str = "GPUs",
    levels: Sequence[Level] = (),
    shares: bool = True,
    seconds: bool = False,
) -> Chart:
    """Lines over cluster sizes, or rates, on a log axis with ticks where something was tried.

    Args:
        title: what goes up.
        curves: a line each.
        caption: what to see.
        x_label: what goes right.
        levels: bounds and limits.
        shares: whether what goes up are shares, shown in percent.
        seconds: whether it is seconds, on a log axis.
    """
    with Drawing() as drawing:
        axes = drawing.axes
        for curve in curves:
            _draw_curve(axes, curve, points=True)
        _draw_levels(axes, levels)
        tried = sorted({float(x) for curve in curves for x in curve.x})
        uprights = [level.at for level in levels if level.upright]
        size_axis(axes, sorted({*tried, *(at for at in uprights if at <= _FURTHEST * tried[-1])}))
        axes.set_xlabel(x_label)
        if seconds:
            seconds_axis(axes.yaxis)
        elif shares:
            share_axis(axes.yaxis)
        else:
            axes.set_ylim(bottom=0)
        text = _in_words(f"{title} over {x_label}", curves, percent=shares and not seconds)
        return Chart(title, drawing.svg(text), caption, text)


def distribution(
    title: str, curves: Sequence[Curve], caption: str, *, deadlines: Sequence[Level] = ()
) -> Chart:
    """Shares of requests that took longer than x seconds, log axes, with deadlines.

    Args:
        title: what is slower.
        curves: x in seconds, y the share of requests that took longer.
        caption: what to see.
        deadlines: upright lines.
    """
    with Drawing() as drawing:
        axes = drawing.axes
        for curve in curves:
            _draw_curve(axes, curve)
        axes.set_xscale("log")
        tail_axis(axes.yaxis)
        limits = [level.at for level in deadlines]
        seen = [np.asarray(c.x, float)[np.asarray(c.y) <= _MOST_SEEN] for c in curves]
        least, most = least_and_most([*seen, np.array(limits)])
        axes.set_xlim(least / 1.15, most * 1.15)
        seconds_axis(axes.xaxis)
        _draw_levels(axes, deadlines)
        words = [f"{title}, share of requests that took longer, against seconds."]
        words += [f"{c.name}: {_percentiles_in_words(c)}." for c in curves]
        words += [f"Deadline of {d.name or 'all'}: {d.at:g} s." for d in deadlines]
        text = " ".join(words)
        return Chart(title, drawing.svg(text), caption, text)


def over_time(
    title: str, curves: Sequence[Curve], caption: str, *, levels: Sequence[Level] = ()
) -> Chart:
    """Lines over the seconds of a run; levels, such as a plan's, are dashed."""
    with Drawing() as drawing:
        axes = drawing.axes
        for curve in curves:
            _draw_curve(axes, curve)
        _draw_levels(axes, levels)
        axes.set_xlabel("seconds")
        axes.margins(x=0)
        axes.set_ylim(bottom=0)
        count_axis(axes.yaxis)
        means = ", ".join(f"{c.name} {_mean(c.y):.3g} on average" for c in curves)
        planned = "".join(f"; {level.name or 'plan'} {level.at:.3g}" for level in levels)
        text = f"{title} over the seconds of a run: {means}{planned}."
        return Chart(title, drawing.svg(text), caption, text)


@dataclass(frozen=True)
class Dots:
    """A series of :func:`dots_by_row`: values by row, NaN where there is none, with intervals."""

    series: int
    name: str
    values: Sequence[float]
    low: Sequence[float] = field(default=())
    high: Sequence[float] = field(default=())


def dots_by_row(
    title: str,
    rows: Sequence[str],
    dots: Sequence[Dots],
    caption: str,
    *,
    levels: Sequence[Level] = (),
) -> Chart:
    """Shares of each row, such as a class or a policy, a dot a series."""
    with Drawing(height=_height(len(rows))) as drawing:
        axes = drawing.axes
        for k, own in enumerate(dots):
            # Those of a row stand a little below each other, so that none hides another.
            shift = 0.5 * (k + 0.5) / len(dots) - 0.25 if len(dots) > 1 else 0.0
            style = {"color": colour(own.series), "gid": of_series(own.series)}
            places = np.arange(len(rows)) + shift
            axes.plot(own.values, places, marker(own.series), markersize=7, **style)
            if len(own.low):
                axes.hlines(places, own.low, own.high, linewidth=2, **style)
        axes.set_yticks(range(len(rows)), [shortened(name) for name in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        share_axis(axes.xaxis)
        _draw_levels(axes, levels)
        words = [
            f"{own.name} on {row}: {value:.2%}"
            for own in dots
            for row, value in zip(rows, own.values, strict=True)
            if math.isfinite(value)
        ]
        text = f"{title}. {'; '.join(words)}."
        return Chart(title, drawing.svg(text), caption, text)


def stacked_shares(
    title: str,
    rows: Sequence[str],
    parts: Sequence[tuple[int, str, Sequence[float]]],
    caption: str,
) -> Chart:
    """A bar a row, made of shares that add up to all.

    Args:
        title: what the shares are of.
        rows: names of the bars.
        parts: a number, a name and the shares by row of each part, from the left.
        caption: what to see.
    """
    with Drawing(height=_height(len(rows))) as drawing:
        axes = drawing.axes
        left = np.zeros(len(rows))
        for k, _, shares in parts:
            values = np.nan_to_num(np.asarray(shares, float))
            places = range(len(rows))
            axes.barh(places, values, 0.55, left, color=colour(k), gid=of_series(k), linewidth=0)
            # Matplotlib marks the bars one by one.
            for bar in axes.containers[-1]:
                bar.set_gid(of_series(k))
            left = left + values
        axes.set_yticks(range(len(rows)), [shortened(name) for name in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.grid(visible=False, axis="y")
        share_axis(axes.xaxis)
        words = [
            f"{row}: " + ", ".join(f"{name} {shares[i]:.2%}" for _, name, shares in parts)
            for i, row in enumerate(rows)
        ]
        text = f"{title}. {'; '.join(words)}."
        key = [(k, name) for k, name, _ in parts]
        return Chart(title, drawing.svg(text), caption, text, key)


@dataclass(frozen=True)
class Points:
    """Points of :func:`scatter`: of a series, filled or not."""

    series: int
    name: str
    x: Sequence[float]
    y: Sequence[float]
    filled: bool = True


def scatter(
    title: str,
    points: Sequence[Points],
    caption: str,
    *,
    x_label: str,
    chosen: tuple[float, float] | None = None,
    levels: Sequence[Level] = (),
) -> Chart:
    """Points on two axes of seconds, and the chosen one in a ring."""
    with Drawing() as drawing:
        axes = drawing.axes
        for own in points:
            look = {} if own.filled else {"markerfacecolor": "none"}
            style = {"color": colour(own.series), "gid": of_series(own.series), **look}
            axes.plot(own.x, own.y, marker(own.series), linestyle="", markersize=7, **style)
        if chosen is not None:
            axes.plot(*chosen, "o", markersize=15, color=INK, markerfacecolor="none")
        _draw_levels(axes, levels)
        axes.set_xlabel(x_label)
        for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
            scale("log")
            seconds_axis(axis)
        counts = ", ".join(f"{len(own.x)} of {own.name}" for own in points if len(own.x))
        text = f"{title} against {x_label}: {counts}."
        if chosen is not None:
            text += f" Chosen: {seconds_text(chosen[1])} at {seconds_text(chosen[0])}."
        return Chart(title, drawing.svg(text), caption, text)


def shortened(name: str, most: int = 18) -> str:
    """A name of at most so many characters."""
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _height(rows: int) -> float:
    return min(2.5, 0.45 + 0.14 * rows)


def _draw_curve(axes: Any, curve: Curve, *, points: bool = False) -> None:
    k = curve.series
    style = {"color": colour(k), "gid": of_series(k)}
    marks = {"marker": marker(k)} if points else {}
    axes.plot(curve.x, curve.y, line(k), **marks, **style)
    if curve.low is not None and curve.high is not None and np.isfinite(curve.low).any():
        axes.fill_between(curve.x, curve.low, curve.high, alpha=0.15, linewidth=0, **style)


def _draw_levels(axes: Any, levels: Sequence[Level]) -> None:
    """Dashed, in the colour of their series; the name at their end."""
    for level in levels:
        if not math.isfinite(level.at):
            continue
        style: dict[str, Any] = {"color": FAINT}
        if level.series is not None:
            style = {"color": colour(level.series), "gid": of_series(level.series)}
        if level.upright:
            axes.axvline(level.at, linestyle=(0, (4, 3)), linewidth=1.3, **style)
            turn: dict[str, Any] = {"rotation": 90, "ha": "right", "va": "top"}
            place, offset, where = (level.at, 1.0), (-3, -4), axes.get_xaxis_transform()
        else:
            axes.axhline(level.at, linestyle=(0, (4, 3)), linewidth=1.3, **style)
            turn = {"ha": "left", "va": "center"}
            place, offset, where = (1.0, level.at), (4, 0), axes.get_yaxis_transform()
        if level.name:
            axes.annotate(
                shortened(level.name, 26),
                place,
                xycoords=where,
                xytext=offset,
                textcoords="offset points",
                fontsize=10,
                **turn,
                **style,
            )


def _in_words(what: str, curves: Sequence[Curve], *, percent: bool) -> str:
    def of(value: float) -> str:
        return f"{value:.2%}" if percent else f"{value:.3g}"

    parts = []
    for curve in curves:
        known = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(y)]
        if known:
            (a, first), (b, last) = known[0], known[-1]
            parts.append(f"{curve.name}: {of(first)} at {a:g}, {of(last)} at {b:g}")
    return f"{what}. {'; '.join(parts)}."


def _percentiles_in_words(curve: Curve) -> str:
    y, x = np.asarray(curve.y, float), np.asarray(curve.x, float)
    found = [
        f"{name} {float(np.interp(-share, -y, x)):.3g} s"
        for name, share in (("half", 0.5), ("1%", 0.01))
        if len(y) and np.isfinite(x).all()
    ]
    return "longer than " + ", ".join(found) if found else "unknown"


def _mean(values: Sequence[float]) -> float:
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else math.nan
