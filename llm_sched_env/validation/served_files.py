"""Read a measured run: a CSV with a row a request."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from llm_sched_env.errors import LLMSchedError, TraceError
from llm_sched_env.validation.served_run import ABANDONED, COMPLETED, INSIDE, OUTCOMES, ServedRun
from llm_sched_env.workloads import columns
from llm_sched_env.workloads.reading import bad_line, csv_columns, open_text, value_fault

SERVED_HEADER = (
    "id",
    "arrival_seconds",
    "class",
    "prompt_tokens",
    "output_tokens",
    "patience_seconds",
    "outcome",
    "prefill_start",
    "first_token",
    "end",
)
_WHAT = "measured run"
_TIMES = SERVED_HEADER[-3:]


def read_served_run(path: str | Path) -> ServedRun:
    """Read a measured run; CSV, plain or gzip.

    Args:
        path: of the file; its header has the columns of ``SERVED_HEADER`` in any order, more
            allowed. Times that did not come are empty.

    Raises:
        TraceError: naming file and line.
    """
    path = Path(path)
    with open_text(path, _WHAT) as text:
        header = text.readline()
        lines = [line.strip() for line in text]
    names = [name.strip() for name in next(csv.reader([header]), [])]
    for name in SERVED_HEADER:
        if names.count(name) != 1:
            times = "more than once" if name in names else "missing"
            fault = f"the column {name!r} is {times}; expected {','.join(SERVED_HEADER)}"
            raise _bad(path, 1, header.strip(), fault)
    filled = [(number, line) for number, line in enumerate(lines, 2) if line]
    if not filled:
        raise TraceError(f"{_WHAT} {path}: no rows after the header; expected requests")
    positions = [names.index(name) for name in SERVED_HEADER]
    numbers, rows = zip(*filled, strict=True)
    try:
        run, ids = _parse(rows, len(names), positions)
    except ValueError:
        for number, line in filled:
            fault = _fault(line, len(names), positions)
            if fault:
                raise _bad(path, number, line, fault) from None
        raise
    _require_each_once(path, numbers, rows, ids)
    return run


def _parse(
    lines: Sequence[str], width: int, positions: Sequence[int]
) -> tuple[ServedRun, list[str]]:
    """The run of some lines and their ids; ValueError says what is wrong with one of them."""
    ids, *texts = csv_columns(lines, width, positions)
    known: dict[str, int] = {}
    values = {
        name: read(column)
        for name, read, column in zip(SERVED_HEADER[1:], _readers(known), texts, strict=True)
    }
    _require_story(values)
    classes = sorted(known)
    position = np.array([classes.index(name) for name in known], np.int32)
    values["class"] = position[values["class"]]
    order = np.argsort(values["arrival_seconds"], kind="stable")
    arrays = [values[name][order] for name in SERVED_HEADER[1:]]
    return ServedRun(tuple(classes), *arrays), ids


def _readers(known: dict[str, int]) -> list[Callable[[Sequence[str]], np.ndarray]]:
    """How each column but the id is read."""
    tokens, times = [_token_counts] * 2, [_optional_numbers] * len(_TIMES)
    classes = partial(columns.labels, known=known)
    return [columns.numbers, classes, *tokens, columns.numbers, _outcomes, *times]


def _require_story(values: dict[str, np.ndarray]) -> None:
    """Every request has the times that its outcome says, one after the other, or ValueError."""
    outcome, arrival = values["outcome"], values["arrival_seconds"]
    start, token, end = (values[name] for name in _TIMES)
    missing = np.isnan(start), np.isnan(token), np.isnan(end)
    if (missing[2] & (outcome != INSIDE)).any():
        raise ValueError("end is empty, but the request completed or abandoned")
    if (~missing[2] & (outcome == INSIDE)).any():
        raise ValueError(
            "end is given, but the outcome is 'inside': still there when the run ended"
        )
    if ((missing[0] | missing[1]) & (outcome == COMPLETED)).any():
        raise ValueError("a completed request has prefill_start and first_token")
    if (missing[0] & ~missing[1]).any():
        raise ValueError("first_token is given without prefill_start")
    before = arrival
    for name in _TIMES:
        now = values[name]
        if (now < before).any():
            raise ValueError(
                f"{name} is before the time that precedes it; expected arrival_seconds"
                " <= prefill_start <= first_token <= end"
            )
        before = np.fmax(before, now)
    if ((outcome == ABANDONED) & (end - arrival < 0)).any():
        raise ValueError("end is before arrival_seconds")


def _fault(line: str, width: int, positions: Sequence[int]) -> str:
    """What is wrong with a single line; "" if nothing is."""
    try:
        _, *texts = csv_columns([line], width, positions)
    except ValueError as error:
        return str(error)
    faults = map(value_fault, SERVED_HEADER[1:], _readers({}), texts)
    fault = next(filter(None, faults), "")
    if fault:
        return fault
    try:
        _parse([line], width, positions)
    except ValueError as error:
        return str(error)
    return ""


def _require_each_once(
    path: Path, numbers: Sequence[int], lines: Sequence[str], ids: Sequence[str]
) -> None:
    seen: set[str] = set()
    for number, line, name in zip(numbers, lines, ids, strict=True):
        if name in seen:
            raise _bad(path, number, line, f"the id {name!r} stands above already")
        seen.add(name)


def _token_counts(texts: Sequence[str]) -> np.ndarray:
    found = columns.counts(texts)
    if (found < 1).any():
        raise ValueError("a whole number of tokens >= 1")
    return found


def _optional_numbers(texts: Sequence[str]) -> np.ndarray:
    """Seconds, NaN where nothing is written."""
    found = np.full(len(texts), np.nan)
    given = [k for k, text in enumerate(texts) if text]
    if given:
        found[given] = columns.numbers([texts[k] for k in given])
    return found


def _outcomes(texts: Sequence[str]) -> np.ndarray:
    if not set(texts) <= set(OUTCOMES):
        raise ValueError(" or ".join(OUTCOMES))
    return np.array([OUTCOMES.index(text) for text in texts], np.int32)


def _bad(path: Path, line: int, text: str, fault: str) -> LLMSchedError:
    return bad_line(path, line, text, fault, _WHAT)
