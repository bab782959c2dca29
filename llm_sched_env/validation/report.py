"""What a validation leaves in a folder: its figures, requests and a figure (extra ``report``)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.files.atomic import make_folder, save_figure, write_rows, write_whole
from llm_sched_env.validation.figures_of_run import LATENCIES
from llm_sched_env.validation.served_run import OUTCOMES, ServedRun
from llm_sched_env.validation.validate import Validation

_TIMES = ("prefill_start", "first_token", "end")
_SIDES = ("measured", "simulated")
_AXES = {
    "ttft": "time to first token, s",
    "tpot": "time per output token, s",
    "e2e": "end to end, s",
}


def write_validation(validation: Validation, folder: Path) -> list[str]:
    """Write ``validation.json``, ``table.md``, ``requests.csv`` and ``figure.png``; their names."""
    make_folder(folder)
    write_whole(folder / "validation.json", json.dumps(validation.to_dict(), indent=2) + "\n")
    write_whole(folder / "table.md", markdown_table(validation))
    columns = ("arrival_seconds", "class", "prompt_tokens", "output_tokens", "patience_seconds")
    told = tuple(f"{side}_{name}" for side in _SIDES for name in ("outcome", *_TIMES))
    write_rows(folder / "requests.csv", columns + told, _request_rows(validation))
    write_validation_figure(validation, folder / "figure.png")
    return ["validation.json", "table.md", "requests.csv", "figure.png"]


def figure_rows(validation: Validation) -> list[tuple[str, str, str, str]]:
    """Each figure with what was measured, simulated, and the relative error, as texts."""
    sides = (asdict(validation.measured), asdict(validation.simulated), validation.relative_error)
    rows = []
    for name, *values in zip(sides[0], *(side.values() for side in sides), strict=True):
        if name not in LATENCIES:
            rows.append((name.replace("_", " "), *_texts(values, 1.0)))
            continue
        rows += [
            (f"{name.upper()} {what}, ms", *_texts([value[what] for value in values], 1e3))
            for what in values[0]
        ]
    return rows


def markdown_table(validation: Validation) -> str:
    """The same as a Markdown table."""
    lines = ["| | measured | simulated | error |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in figure_rows(validation)]
    return "\n".join(lines) + "\n"


def write_validation_figure(validation: Validation, path: Path) -> None:
    """Distributions of the latencies, and queue and requests in service over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 6.0), layout="constrained")
    parts: Any = figure.subfigures(2, 1)
    axes = parts[0].subplots(1, len(LATENCIES), sharey=True)
    for side, run in zip(_SIDES, _runs(validation), strict=True):
        style = {"label": side, "linewidth": 1.2, "color": "0.3" if side == "measured" else "C0"}
        for axis, name in zip(axes, LATENCIES, strict=True):
            values = getattr(run, name)
            if len(values):
                axis.ecdf(values, **style)
                axis.set_xlabel(_AXES[name])
                axis.locator_params(axis="x", nbins=5)
    axes[0].set_ylabel("share of requests")
    below = parts[1].subplots(1, 2)
    for side, run in zip(_SIDES, _runs(validation), strict=True):
        style = {"label": side, "linewidth": 0.9, "color": "0.3" if side == "measured" else "C0"}
        times, waiting, serving = present(run)
        below[0].step(times, waiting, where="post", **style)
        below[1].step(times, serving, where="post", **style)
    below[0].set(xlabel="s", ylabel="requests that wait")
    below[1].set(xlabel="s", ylabel="requests in service")
    below[0].legend()
    save_figure(figure, path, dpi=150)


def present(run: ServedRun) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times of changes, and how many requests wait and are in service from then on."""
    left = np.where(np.isnan(run.prefill_start), run.end, run.prefill_start)
    started = ~np.isnan(run.prefill_start)
    changes = (
        (run.arrival_time, 1, 0),
        (left[~np.isnan(left)], -1, 0),
        (run.prefill_start[started], 0, 1),
        (run.end[started & ~np.isnan(run.end)], 0, -1),
    )
    times = np.concatenate([at for at, _, _ in changes])
    order = np.argsort(times, kind="stable")
    counts = [
        np.cumsum(np.concatenate([np.full(len(change[0]), change[k]) for change in changes])[order])
        for k in (1, 2)
    ]
    # Of changes at one time only what they come to.
    last = np.append(np.diff(times[order]) > 0, True)
    return times[order][last], counts[0][last], counts[1][last]


def _runs(validation: Validation) -> tuple[ServedRun, ServedRun]:
    return validation.measured_run, validation.simulated_run


def _request_rows(validation: Validation) -> Iterator[dict[str, Any]]:
    run = validation.measured_run
    for k in range(len(run)):
        row: dict[str, Any] = {
            "arrival_seconds": float(run.arrival_time[k]),
            "class": run.class_names[run.request_class[k]],
            "prompt_tokens": int(run.prompt_tokens[k]),
            "output_tokens": int(run.output_tokens[k]),
            "patience_seconds": float(run.patience_seconds[k]),
        }
        for side, told in zip(_SIDES, _runs(validation), strict=True):
            row[f"{side}_outcome"] = OUTCOMES[told.outcome[k]]
            for name in _TIMES:
                time = float(getattr(told, name)[k])
                row[f"{side}_{name}"] = "" if math.isnan(time) else time
        yield row


def _texts(values: list[float | None], factor: float) -> tuple[str, str, str]:
    measured, simulated, error = values
    shown = ["-" if value is None else f"{factor * value:.5g}" for value in (measured, simulated)]
    return shown[0], shown[1], "-" if error is None else f"{error:+.2%}"
