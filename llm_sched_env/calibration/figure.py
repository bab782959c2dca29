"""Draw the fits over the measured iterations (extra ``report``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llm_sched_env.calibration.fit import Calibration
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.files.atomic import save_figure

FIGURE_SUFFIXES = (".png", ".pdf", ".svg")


def require_figure_path(path: Path) -> None:
    """Raise ConfigurationError unless a figure can be written under a path."""
    if path.suffix not in FIGURE_SUFFIXES:
        raise ConfigurationError("figure", str(path), f"a name in {', '.join(FIGURE_SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigurationError("figure", str(path), "a path in a folder that exists")


def write_calibration_figure(calibration: Calibration, path: Path) -> None:
    """Measured times with both fits, and the relative residuals of the fits below."""
    from matplotlib.figure import Figure

    require_figure_path(path)
    times, line, affine = calibration.times, calibration.line, calibration.affine
    tolerance, chunk = calibration.line_validity.tolerance, calibration.chunk.tokens
    figure = Figure(figsize=(7.0, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.plot(times.tokens, 1e3 * times.seconds, ".", color="0.5", markersize=4, label="measured")
    # The knot itself is a point of the curve.
    curve = np.union1d(times.tokens, affine.b0.value)
    fits = (
        ("line (3)", line, line.times.tokens, line.times, "C0"),
        ("affine law (1)", affine, curve, times, "C1"),
    )
    for label, law, tokens, fitted, color in fits:
        above.plot(tokens, 1e3 * law.seconds(tokens), color=color, label=label)
        relative = law.seconds(fitted.tokens) / fitted.seconds - 1
        below.plot(fitted.tokens, 100 * relative, ".-", color=color, linewidth=0.6, markersize=3)
    below.axhspan(-100 * tolerance, 100 * tolerance, color="0.9", zorder=0)
    for axis in (above, below):
        axis.axvline(chunk, color="0.6", linewidth=0.8, linestyle=":")
    above.annotate(
        f"C = {chunk}", (chunk, 1), (3, -3), ("data", "axes fraction"), "offset points", va="top"
    )
    above.set(
        title=f"{times.model} on {times.device}",
        ylabel="iteration time, ms",
        xscale="log",
        yscale="log",
    )
    above.legend(loc="lower right")
    below.set(xlabel="tokens in the iteration", ylabel="fit / measured - 1, %")
    save_figure(figure, path, dpi=150)
