"""Read iteration logs: a row an iteration of one GPU, with what was in it and how long it took."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from llm_sched_env.errors import CalibrationError
from llm_sched_env.workloads import columns
from llm_sched_env.workloads.reading import bad_line, csv_columns, open_text, value_fault

LOG_HEADER = ("seconds", "prefill_tokens", "prefill_context", "decodes", "kv_tokens")
START = "start_seconds"
"""Column of a log in order of time; a grid of measurements has none."""
_COUNTS = LOG_HEADER[1:]
_ARRAYS = (*LOG_HEADER, "held_out")
_WHAT = "iteration log"


@dataclass(frozen=True, eq=False)
class IterationLog:
    """Iterations of one GPU, all arrays of shape (K,).

    Attributes:
        seconds: from the iteration's start to the next one's where work went on, else until its
            results were there (see :func:`request_seconds`); > 0.
        prefill_tokens: prompt tokens c in the iteration; 0: no prefill.
        prefill_context: prompt tokens h of the same request that were cached before.
        decodes: requests b that made a token.
        kv_tokens: tokens K that these attended to, in all.
        held_out: rows of the held-out check: the last third of a log in order of time, every
            third row of a grid.
        files: names of the files.
        host_gap: median seconds between iterations that are included; 0: no starts were told.
    """

    seconds: np.ndarray
    prefill_tokens: np.ndarray
    prefill_context: np.ndarray
    decodes: np.ndarray
    kv_tokens: np.ndarray
    held_out: np.ndarray
    files: tuple[str, ...] = ()
    host_gap: float = 0.0

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def mixed(self) -> np.ndarray:
        """Which iterations have a prefill; bool."""
        is_mixed: np.ndarray = self.prefill_tokens > 0
        return is_mixed

    def picked(self, rows: np.ndarray) -> IterationLog:
        """Some of the iterations."""
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return dataclasses.replace(self, **arrays)


def is_iteration_log(path: Path) -> bool:
    """Whether the header of a file has columns that only logs have."""
    with open_text(path, "iteration times", CalibrationError) as text:
        return not set(_COUNTS).isdisjoint(_names(text.readline()))


def read_iteration_logs(paths: Sequence[str | Path]) -> IterationLog:
    """Read files of one GPU, model and engine as one sample; CSV, plain or gzip.

    Args:
        paths: their headers have the columns of ``LOG_HEADER`` in any order, more allowed, of which
            ``start_seconds`` is read.

    Raises:
        CalibrationError: naming file and line.
    """
    logs = [_read(Path(path)) for path in paths]
    if not logs:
        raise CalibrationError(f"{_WHAT}: give at least one file")
    gaps = [log.host_gap for log in logs if log.host_gap]
    return dataclasses.replace(
        logs[0],
        **{name: np.concatenate([getattr(log, name) for log in logs]) for name in _ARRAYS},
        files=tuple(file for log in logs for file in log.files),
        host_gap=float(np.mean(gaps)) if gaps else 0.0,
    )


def request_seconds(
    starts: np.ndarray, seconds: np.ndarray, goes_on: np.ndarray
) -> tuple[np.ndarray, float]:
    """How long a request waits for each iteration, and the median gap to the next.

    A request sees the time from start to start: the engine's host works between two iterations.
    Where nothing goes on the next start waits for an arrival, so the median gap stands in.

    Args:
        starts: of the iterations, increasing; shape (K,).
        seconds: measured inside of them; shape (K,).
        goes_on: whether the next row goes on with work of this one; shape (K - 1,).
    """
    gaps = np.diff(starts) - seconds[:-1]
    known = gaps[goes_on]
    typical = max(0.0, float(np.median(known))) if len(known) else 0.0
    return seconds + np.append(np.where(goes_on, gaps, typical), typical), typical


def _read(path: Path) -> IterationLog:
    with open_text(path, _WHAT, CalibrationError) as text:
        header = text.readline()
        lines = [line.strip() for line in text]
    names = _names(header)
    for name in LOG_HEADER:
        if names.count(name) != 1:
            times = "more than once" if name in names else "missing"
            fault = f"the column {name!r} is {times}; expected {','.join(LOG_HEADER)}"
            _fail(path, 1, header.strip(), fault)
    filled = [line for line in lines if line]
    if not filled:
        raise CalibrationError(f"{_WHAT} {path}: no rows after the header; expected iterations")
    wanted = [*LOG_HEADER, *([START] if START in names else [])]
    positions = [names.index(name) for name in wanted]
    try:
        values = _parse(filled, len(names), wanted, positions)
    except ValueError:
        for number, line in enumerate(lines, 2):
            fault = _fault(line, len(names), wanted, positions) if line else ""
            if fault:
                _fail(path, number, line, fault)
        raise
    return _log(path, lines, values)


def _log(path: Path, lines: list[str], values: dict[str, np.ndarray]) -> IterationLog:
    chunk, cached, decodes, kv_tokens = (values[name] for name in _COUNTS)
    rows = np.arange(len(chunk))
    held_out, seconds, gap = rows % 3 == 2, values["seconds"], 0.0
    starts = values.get(START)
    if starts is not None:
        back = np.flatnonzero(np.diff(starts) <= 0)
        if len(back):
            number = [k for k, line in enumerate(lines, 2) if line][back[0] + 1]
            fault = f"{START} does not increase; expected rows in order of time"
            _fail(path, number, lines[number - 2], fault)
        held_out = rows >= len(rows) - len(rows) // 3
        # The next iteration decodes or continues a prompt only if there was work before.
        goes_on = (decodes[1:] > 0) | (cached[1:] > 0)
        seconds, gap = request_seconds(starts, seconds, goes_on)
    return IterationLog(
        seconds, chunk, cached, decodes, kv_tokens, held_out, files=(path.name,), host_gap=gap
    )


def _parse(
    lines: Sequence[str], width: int, wanted: Sequence[str], positions: Sequence[int]
) -> dict[str, np.ndarray]:
    """The columns of some lines; ValueError says what is wrong if one of them is."""
    texts = csv_columns(lines, width, positions)
    values = {
        name: columns.numbers(column) if name in ("seconds", START) else columns.counts(column)
        for name, column in zip(wanted, texts, strict=True)
    }
    decodes, kv_tokens, chunk, cached = (
        values[name] for name in ("decodes", "kv_tokens", "prefill_tokens", "prefill_context")
    )
    if not (values["seconds"] > 0).all():
        raise ValueError("seconds must be > 0")
    if not (decodes + chunk > 0).all():
        raise ValueError("an iteration has prefill_tokens > 0, decodes > 0 or both")
    if (cached[chunk == 0] > 0).any():
        raise ValueError("prefill_context must be 0 without prefill_tokens")
    if (kv_tokens < decodes).any() or (kv_tokens[decodes == 0] > 0).any():
        raise ValueError(
            "kv_tokens counts what the decodes attend to: at least one token each, 0 without any"
        )
    return values


def _fault(line: str, width: int, wanted: Sequence[str], positions: Sequence[int]) -> str:
    """What is wrong with a single line; "" if nothing is."""
    try:
        texts = csv_columns([line], width, positions)
    except ValueError as error:
        return str(error)
    for name, column in zip(wanted, texts, strict=True):
        read = columns.numbers if name in ("seconds", START) else columns.counts
        fault = value_fault(name, read, column)
        if fault:
            return fault
    try:
        _parse([line], width, wanted, positions)
    except ValueError as error:
        return str(error)
    return ""


def _names(header: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([header]), [])]


def _fail(path: Path, line: int, text: str, fault: str) -> NoReturn:
    raise bad_line(path, line, text, fault, _WHAT, CalibrationError)
