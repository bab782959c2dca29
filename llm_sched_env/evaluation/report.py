"""Figures of comparisons and fluid paths, and a self-contained page (extra ``report``)."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_sched_env.files.atomic import save_figure, write_whole
from llm_sched_env.planning import FluidPath

Rows = Sequence[Mapping[str, Any]]
"""Lines of ``results.csv``."""
_PANELS = 5


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


def write_page(rows: Rows, notes: Sequence[str], path: Path) -> None:
    """A page with an interactive figure and the main columns; needs no network to open."""
    import plotly.graph_objects as go
    from plotly.colors import qualitative
    from plotly.subplots import make_subplots

    series, labels = _series(rows), _policies(rows)
    columns = min(len(series), _PANELS)
    lines = math.ceil(len(series) / columns)
    figure = make_subplots(lines, columns, shared_yaxes=True, subplot_titles=list(series))
    shown: set[str] = set()
    for panel, policies in enumerate(series.values()):
        for policy, points in policies.items():
            figure.add_trace(
                go.Scatter(
                    x=[p["n_gpus"] for p in points],
                    y=[p["score"] for p in points],
                    error_y={
                        "array": [p["score_high"] - p["score"] for p in points],
                        "type": "data",
                    },
                    name=policy,
                    legendgroup=policy,
                    showlegend=policy not in shown,
                    line={"color": qualitative.D3[labels.index(policy) % len(qualitative.D3)]},
                ),
                row=1 + panel // columns,
                col=1 + panel % columns,
            )
            shown.add(policy)
    figure.update_xaxes(type="log", title="GPUs")
    figure.update_yaxes(title="share of R*", col=1)
    figure.update_layout(template="plotly_white", height=100 + 360 * lines)
    chart = figure.to_html(full_html=False, include_plotlyjs=True, div_id="scores")
    write_whole(path, _PAGE.format(chart=chart, table=_table(rows), notes=_notes(notes)))


def _table(rows: Rows) -> str:
    columns = ["instance", "n_gpus", "policy", "score", "score_low", "score_high"]
    columns += ["ttft_p50", "ttft_p99", "tpot_p99", "abandoned_share"]
    head = "".join(f"<th>{name}</th>" for name in columns)
    body = []
    for row in rows:
        cells = (row[name] for name in columns)
        shown = (f"{c:.4f}" if isinstance(c, float) else html.escape(str(c)) for c in cells)
        body.append("<tr>" + "".join(f"<td>{text}</td>" for text in shown) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _notes(notes: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(note)}</p>" for note in notes)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Scheduler comparison</title>
<style>
body {{ font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; color: #222; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
td, th {{ padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }}
td:nth-child(1), td:nth-child(3), th:nth-child(1), th:nth-child(3) {{ text-align: left; }}
</style>
<h1>Schedulers as a share of the fluid bound R*</h1>
{notes}
{chart}
{table}
</html>
"""
