"""Table and figure of trainings that differ in their seeds.

Means over seeds are interquartile (Agarwal et al., 2021), with percentile bootstrap intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap, trim_mean

from llm_sched_env.files.atomic import save_figure
from research.agent_training.page import write_files

Result = dict[str, Any]

PAPER, BEST = "gate-and-route", "trunk-reservation"
_HEADER = (
    "instance",
    "n",
    "variant",
    "seeds",
    "steps",
    "CPU s",
    "score",
    f"beyond {PAPER}",
    f"beyond {BEST}",
    f"steps to pass {PAPER}",
    f"to {BEST} less 1%",
)
_RESAMPLES = 2_000


def write_seeds_page(results: Sequence[Result], folder: Path, *, figure: bool) -> list[Path]:
    """Write table, rows and, if asked for, the figure; returns what was written."""
    return write_files(results, folder, seeds_table(results), _write_figure if figure else None)


def interquartile(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The interquartile mean over seeds and its 95% interval.

    Args:
        values: shape (seeds, ...).

    Returns:
        Mean, low and high, each of shape (...).
    """

    def mean(sample: np.ndarray, axis: int = 0) -> np.ndarray:
        return np.asarray(trim_mean(sample, 0.25, axis=axis))

    if len(values) < 2:
        return mean(values), values[0], values[0]
    rng = np.random.default_rng(0)
    found = bootstrap(
        (values,),
        mean,
        axis=0,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=rng,
    ).confidence_interval
    return mean(values), np.asarray(found.low), np.asarray(found.high)


def seeds_table(results: Sequence[Result]) -> str:
    """A row per size and variant: percent of R*, interquartile means with 95% intervals."""
    lines = ["| " + " | ".join(_HEADER) + " |", "|---|---:|---|" + "---:|" * (len(_HEADER) - 3)]
    for (instance, n_gpus, name), group in _groups(results):
        cells = (
            instance,
            str(n_gpus),
            name,
            str(len(group)),
            f"{group[0]['steps']:,}",
            f"{np.median([r['cpu_seconds'] for r in group]):.0f}",
            _percent(group, "score"),
            _percent(group, f"minus {PAPER}"),
            _percent(group, f"minus {BEST}"),
            _steps(group, PAPER, 0.0),
            _steps(group, BEST, -0.01),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _groups(results: Sequence[Result]) -> list[tuple[tuple[str, int, str], list[Result]]]:
    def kind(result: Result) -> tuple[str, int, str]:
        return result["instance"], result["n_gpus"], result["variant"]

    return [(key, list(group)) for key, group in groupby(results, kind)]


def _percent(group: Sequence[Result], name: str) -> str:
    mean, low, high = interquartile(np.array([r["report"][name] for r in group]))
    sign = "" if name == "score" else "+"
    return f"{100 * mean:{sign}.2f} ({100 * low:{sign}.2f} to {100 * high:{sign}.2f})"


def _steps(group: Sequence[Result], reference: str, least: float) -> str:
    """The median over seeds of the first evaluation that is so far beyond a reference."""
    name = f"minus {reference}"
    found = [
        next((row["steps"] for row in r["evaluations"] if row[name] > least), np.inf) for r in group
    ]
    median = float(np.median(found))
    return f"{median:,.0f}" if np.isfinite(median) else "never"


def _write_figure(results: Sequence[Result], path: Path) -> None:
    """Scores during training, a panel per size, with those of the references."""
    from matplotlib.figure import Figure

    sizes = list(dict.fromkeys(r["n_gpus"] for r in results))
    names = list(dict.fromkeys(r["variant"] for r in results))
    figure = Figure(figsize=(max(8.0, 3.2 * len(sizes)), 3.8), layout="constrained")
    axes = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axis, n_gpus in zip(axes, sizes, strict=True):
        for (_, size, name), group in _groups(results):
            if size == n_gpus:
                _draw_curve(axis, group, name, f"C{names.index(name)}")
        first = next(r for r in results if r["n_gpus"] == n_gpus)["evaluations"][-1]
        for reference, style in ((PAPER, ":"), (BEST, "--")):
            score = first["score"] - first[f"minus {reference}"]
            axis.axhline(score, color="0.4", linestyle=style, linewidth=1.0, label=reference)
        axis.set(title=f"{n_gpus} GPUs", xlabel="environment steps")
        axis.ticklabel_format(axis="x", style="sci", scilimits=(3, 3))
    axes[0].set_ylabel("share of R*")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    save_figure(figure, path, dpi=130)


def _draw_curve(axis: Any, group: Sequence[Result], name: str, color: str) -> None:
    steps = [row["steps"] for row in group[0]["evaluations"]]
    scores = np.array([[row["score"] for row in r["evaluations"]] for r in group])
    mean, low, high = interquartile(scores)
    axis.plot(steps, mean, color=color, label=name, marker="o", markersize=3)
    axis.fill_between(steps, low, high, color=color, alpha=0.2)
