"""Draw measured iterations of a log beside the fitted law (extra ``report``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.calibration.figure import require_figure_path
from llm_sched_env.calibration.log_calibration import LogCalibration
from llm_sched_env.files.atomic import save_figure


def write_log_figure(calibration: LogCalibration, path: Path) -> None:
    """Iteration times and relative errors against the number of decodes, a column per mode."""
    from matplotlib.figure import Figure

    require_figure_path(path)
    log, fitted = calibration.log, calibration.fit.seconds(calibration.log)
    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", height_ratios=(3, 2))
    for column, (mode, rows) in enumerate((("solo", ~log.mixed), ("mixed", log.mixed))):
        above, below = axes[:, column]
        decodes, measured, law = log.decodes[rows], log.seconds[rows], fitted[rows]
        _dots(above, decodes, 1e3 * measured, "measured", "0.5")
        _dots(above, decodes, 1e3 * law, f"{calibration.hardware.iteration_law} law", "C0")
        _dots(below, decodes, 100 * (law / measured - 1), "", "C0")
        below.axhline(0.0, color="0.6", linewidth=0.8)
        above.set(title=f"{mode}: {rows.sum()} iterations", ylim=(0, None))
        below.set(xlabel="decodes in the iteration")
    axes[0, 0].set_ylabel("iteration time, ms")
    axes[0, 0].legend(loc="lower right")
    axes[1, 0].set_ylabel("law / measured - 1, %")
    save_figure(figure, path, dpi=150)


def _dots(axis: Any, x: np.ndarray, y: np.ndarray, label: str, color: str) -> None:
    axis.plot(x, y, ".", color=color, markersize=3, alpha=0.4, label=label, rasterized=True)
