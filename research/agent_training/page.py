"""Table and figure of a training study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_sched_env.agents.curve_files import draw_difference
from llm_sched_env.agents.training_evaluation import difference
from llm_sched_env.files.atomic import save_figure, write_rows, write_whole

TABLE, FIGURE, ROWS = "table.md", "figure.png", "rows.csv"
_FIRST = "trunk-reservation"
_SECOND = "token-bucket"
_HEADER = (
    "instance",
    "n",
    "variant",
    "steps",
    "CPU s",
    "kept at",
    "score",
    f"beyond {_FIRST}",
    f"beyond {_SECOND}",
    "last weights",
    "untrained",
)

Result = dict[str, Any]


def write_page(results: Sequence[Result], folder: Path, *, figure: bool) -> list[Path]:
    """Write table, rows and, if asked for, the figure; returns what was written."""
    return write_files(results, folder, markdown_table(results), _write_figure if figure else None)


def write_files(
    results: Sequence[Result],
    folder: Path,
    table: str,
    draw: Callable[[Sequence[Result], Path], None] | None,
) -> list[Path]:
    """Write a study's table, its rows and, if it is drawn, its figure; returns what was written."""
    written = [folder / TABLE, folder / ROWS]
    write_whole(written[0], table)
    _write_rows(results, written[1])
    if draw is not None:
        written.append(folder / FIGURE)
        draw(results, written[2])
    return written


def markdown_table(results: Sequence[Result]) -> str:
    """A row per training: percent of R*, with half-widths of 95% intervals."""
    lines = ["| " + " | ".join(_HEADER) + " |", "|---|---:|---|" + "---:|" * (len(_HEADER) - 3)]
    for result in results:
        report, curve = result["report"], result["evaluations"]
        half = report["score_high"] - report["score"]
        cells = (
            result["instance"],
            str(result["n_gpus"]),
            result["variant"],
            f"{result['steps']:,}",
            f"{result['cpu_seconds']:.0f}",
            f"{result['weights_steps']:,}",
            f"{100 * report['score']:.2f}±{100 * half:.2f}",
            _beyond(report, _FIRST),
            _beyond(report, _SECOND),
            _beyond(curve[-1], _FIRST),
            _beyond(curve[0], _FIRST),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _beyond(row: dict[str, float], reference: str) -> str:
    mean, half = difference(row, reference)
    return f"{100 * mean:+.2f}±{100 * half:.2f}"


def _write_rows(results: Sequence[Result], path: Path) -> None:
    """A row per training, with everything that its evaluation at the end says."""
    names = ("instance", "n_gpus", "variant", "seed", "steps", "weights_steps", "agent_bytes")
    rows = [
        {name: result[name] for name in names}
        | {"seconds": result["seconds"], "cpu_seconds": result["cpu_seconds"]}
        | result["report"]
        for result in results
    ]
    write_rows(path, list(rows[0]) if rows else names, rows)


def _write_figure(results: Sequence[Result], path: Path) -> None:
    """Paired differences to trunk reservation during training, a panel per instance and size."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((r["instance"], r["n_gpus"]) for r in results))
    columns = min(len(panels), 5)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(8.0, 3.2 * columns), 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    shown = list(dict.fromkeys(r["variant"] for r in results))
    for axis, (instance, n_gpus) in zip(axes, panels, strict=False):
        for result in results:
            if (result["instance"], result["n_gpus"]) == (instance, n_gpus):
                color = f"C{shown.index(result['variant']) % 10}"
                draw_difference(axis, result["evaluations"], _FIRST, result["variant"], color)
        axis.axhline(0.0, color="0.6", linewidth=0.8)
        axis.set(title=f"{instance}, {n_gpus} GPUs", xlabel="environment steps")
        # Raw starts are far below: what matters is near the rule, on both sides.
        axis.set_yscale("symlog", linthresh=0.01)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    axes[0].set_ylabel(f"share of R* beyond {_FIRST}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    save_figure(figure, path, dpi=130)
