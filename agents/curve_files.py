"""Write the training curve: ``curve.csv``, and ``curve.png`` where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llm_sched_env.agents.checkpoint import Checkpoint, Row
from llm_sched_env.files.atomic import save_figure, write_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_curve(checkpoint: Checkpoint, folder: Path) -> list[Path]:
    """Write the files next to a checkpoint; returns what was written."""
    table = folder / "curve.csv"
    _write_table(checkpoint, table)
    if find_spec("matplotlib") is None:
        return [table]
    figure = folder / "curve.png"
    _write_figure(checkpoint, figure)
    return [table, figure]


def _write_table(checkpoint: Checkpoint, path: Path) -> None:
    """One row per number of steps: the training score, and the evaluation where one was made."""
    rows: dict[float, Row] = {}
    for row in checkpoint.curve:
        told = {"training_score" if name == "score" else name: row[name] for name in row}
        rows.setdefault(row["steps"], {}).update(told)
    for row in checkpoint.evaluations:
        rows.setdefault(row["steps"], {}).update(row)
    columns = list(dict.fromkeys(name for _, row in sorted(rows.items()) for name in row))
    write_rows(path, columns, (row for _, row in sorted(rows.items())))


def _write_figure(checkpoint: Checkpoint, path: Path) -> None:
    from matplotlib.figure import Figure

    configuration = checkpoint.configuration
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    scores, differences = figure.subplots(1, 2)
    draw_training(scores, checkpoint)
    draw_score(scores, checkpoint.evaluations, "evaluation")
    scores.set(xlabel="environment steps", ylabel="share of R*")
    for reference in configuration.references:
        draw_difference(differences, checkpoint.evaluations, reference, reference)
    differences.axhline(0.0, color="0.6", linewidth=0.8)
    differences.axvline(checkpoint.weights_steps, color="0.6", linestyle=":", label="kept")
    differences.set(xlabel="environment steps", ylabel="share of R* beyond the reference")
    scores.legend()
    differences.legend()
    figure.suptitle(f"{configuration.instance['name']}, {configuration.n_gpus} GPUs")
    save_figure(figure, path, dpi=150)


def write_curves(checkpoints: Sequence[Checkpoint], path: Path) -> None:
    """Draw scores in training against steps, a panel for each agent, with those of its references.

    Args:
        checkpoints: of trainings.
        path: of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(checkpoints), 3.6), layout="constrained")
    axes = figure.subplots(1, len(checkpoints), sharey=True, squeeze=False)[0]
    for axis, checkpoint in zip(axes, checkpoints, strict=True):
        trained, last = checkpoint.configuration, checkpoint.evaluations[-1]
        draw_training(axis, checkpoint)
        draw_score(axis, checkpoint.evaluations, "PPO, greedy")
        for k, reference in enumerate(trained.references):
            score = last["score"] - last[f"minus {reference}"]
            axis.axhline(score, color=f"C{k + 1}", linestyle="--", label=reference)
        title = f"{trained.instance['name']}, {trained.n_gpus} GPUs"
        axis.set(title=title, xlabel="environment steps")
    axes[0].set_ylabel("share of R*")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    save_figure(figure, path, dpi=150)


def draw_training(axis: Axes, checkpoint: Checkpoint) -> None:
    """Mean scores of the episodes that have ended lately, with the noise that explores."""
    steps = [row["steps"] for row in checkpoint.curve]
    scores = [row["score"] for row in checkpoint.curve]
    axis.plot(steps, scores, color="0.7", label="training episodes")


def draw_score(axis: Axes, evaluations: Sequence[Row], label: str) -> None:
    """Scores with their intervals against steps."""
    _draw(axis, evaluations, ("score", "score_low", "score_high"), label)


def draw_difference(
    axis: Axes, evaluations: Sequence[Row], reference: str, label: str, color: str | None = None
) -> None:
    """Paired differences with their intervals against steps."""
    name = f"minus {reference}"
    _draw(axis, evaluations, (name, f"{name} low", f"{name} high"), label, color)


def _draw(
    axis: Axes,
    rows: Sequence[Row],
    names: tuple[str, str, str],
    label: str,
    color: str | None = None,
) -> None:
    steps = [row["steps"] for row in rows]
    mean, low, high = ([row[name] for row in rows] for name in names)
    (line,) = axis.plot(steps, mean, marker="o", markersize=3, label=label, color=color)
    axis.fill_between(steps, low, high, alpha=0.2, color=line.get_color())
