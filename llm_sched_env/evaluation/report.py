"""Figures of comparisons and fluid paths (extra ``report``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_sched_env.files.atomic import save_figure
from llm_sched_env.planning import FluidPath

Rows = Sequence[Mapping[str, Any]]
"""Lines of ``results.csv``."""


def _series(rows: Rows) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    """Rows by instance and policy, in order of cluster size."""
    series: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for row in sorted(rows, key=lambda r: r["n_gpus"]):
        series.setdefault(row["instance"], {}).setdefault(row["policy"], []).append(row)
    return {instance: series[instance] for instance in dict.fromkeys(r["instance"] for r in rows)}


def _policies(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["policy"] for row in rows))


def write_figure(rows: Rows, path: Path) -> None:
    """Share of R* against cluster size, a panel per instance, with 95% intervals."""
    from matplotlib.figure import Figure

    series, labels = _series(rows), _policies(rows)
    figure = Figure(figsize=(4.2 * len(series), 3.8), layout="constrained")
    axes = figure.subplots(1, len(series), sharey=True, squeeze=False)[0]
    for axis, (instance, policies) in zip(axes, series.items(), strict=True):
        for policy, points in policies.items():
            means = [p["score"] for p in points]
            axis.errorbar(
                [p["n_gpus"] for p in points],
                means,
                yerr=[
                    [m - p["score_low"] for m, p in zip(means, points, strict=True)],
                    [p["score_high"] - m for m, p in zip(means, points, strict=True)],
                ],
                label=policy,
                color=f"C{labels.index(policy)}",
                marker="o",
                markersize=4,
                capsize=2,
            )
        ticks = sorted({p["n_gpus"] for points in policies.values() for p in points})
        axis.axhline(1.0, color="0.6", linewidth=0.8)
        axis.set(title=instance, xlabel="GPUs", xscale="log", xticks=ticks, xticklabels=ticks)
        axis.minorticks_off()
    axes[0].set_ylabel("share of R*")
    handles: dict[str, Any] = {}
    for axis in axes:
        drawn, names = axis.get_legend_handles_labels()
        handles.update(zip(names, drawn, strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    save_figure(figure, path, dpi=150)


def write_path_figure(path: FluidPath, names: Sequence[str], file: Path) -> None:
    """A fluid path against time, a panel per kind of occupancy, a line per class."""
    from matplotlib.figure import Figure

    rows = ("q_prefill", "x", "q_decode", "y_mixed", "y_solo")
    figure = Figure(figsize=(15, 3.2), layout="constrained")
    for axis, row in zip(figure.subplots(1, len(rows)), rows, strict=True):
        axis.plot(path.times, getattr(path, row), label=list(names))
        axis.set(title=row, xlabel="s", ylim=(0, None))
    figure.axes[0].set_ylabel("per GPU")
    figure.axes[0].legend()
    save_figure(figure, file, dpi=150)
