"""The figure of an adaptation: what each method has lost, by day."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llm_sched_env.adaptation.cases import DAY
from llm_sched_env.adaptation.experiment import AdaptationResult
from llm_sched_env.files.atomic import save_figure


def write_figure(result: AdaptationResult, path: Path) -> None:
    """Write a panel a simulator; needs matplotlib (extra ``report``)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(result.cases), 3.8), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(result.cases), sharey=True))
    for axis, case in zip(axes, result.cases, strict=True):
        for method, lost in case.lost.items():
            days = np.arange(1, len(lost) + 1) / len(DAY)
            axis.plot(days, 100 * lost, label=method)
        name = case.simulator if case.kind == "right" else f"{case.simulator}: {case.kind}"
        axis.set(xlabel="day", title=name, xscale="log")
        axis.axhline(0.0, color="0.7", linewidth=0.8)
    axes[0].set_ylabel("lost so far, % of the best fixed point")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save_figure(figure, path, dpi=90, metadata={"Software": None})
