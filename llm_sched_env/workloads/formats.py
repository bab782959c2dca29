"""Which trace formats are known, and which one is a file of? The header decides, never the name."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_sched_env.errors import TraceError

CALENDAR = "date"
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000}
"""Units of numeric timestamps, in parts of a second."""

_LFS_POINTER = "version https://git-lfs"


@dataclass(frozen=True)
class TraceFormat:
    """A public format: which columns hold what, and in which unit time is.

    Args:
        name: as error messages and reports call it.
        time: column of the arrival.
        prompt: column of the prompt tokens.
        output: column of the output tokens.
        unit: of the arrival: ``date`` (calendar time), ``s``, ``ms`` or ``us``.
        class_column: column that names the class of a request, if every file has one.
        labels: columns that can name the class instead of the file.
        exact: whether other columns than these are refused.
        json_lines: one JSON object per line; otherwise CSV.
    """

    name: str
    time: str
    prompt: str
    output: str
    unit: str
    class_column: str | None = None
    labels: tuple[str, ...] = ()
    exact: bool = False
    json_lines: bool = False

    @property
    def header(self) -> tuple[str, ...]:
        """The columns without which a file is not of this format, in their usual order."""
        label = [self.class_column] if self.class_column else []
        return (self.time, *label, self.prompt, self.output)

    def fits(self, names: Sequence[str]) -> bool:
        """Whether these are the columns of a file of this format."""
        if self.exact:
            return tuple(names) == self.header
        return set(self.header) <= set(names)


CANONICAL = TraceFormat(
    "llm-sched-env",
    "arrival_seconds",
    "prompt_tokens",
    "output_tokens",
    "s",
    class_column="class",
    exact=True,
)
"""The schema that traces are saved in; time 0 is the start of the run, tokens may be fractions."""

FORMATS = (
    TraceFormat("Azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", CALENDAR, exact=True),
    TraceFormat(
        "BurstGPT",
        "Timestamp",
        "Request tokens",
        "Response tokens",
        "s",
        labels=("Model", "Log Type"),
    ),
    TraceFormat("Mooncake", "timestamp", "input_length", "output_length", "ms", json_lines=True),
    TraceFormat("Vidur", "arrived_at", "num_prefill_tokens", "num_decode_tokens", "s"),
    CANONICAL,
)


def recognized(path: Path, first_line: str) -> tuple[TraceFormat, list[str]]:
    """The format of a file and the names of its columns, from the first line.

    Raises:
        TraceError: for a header of no format, with a column twice, or without arrival times.
    """
    text = first_line.strip()
    json_lines = text.startswith("{")
    names = _json_names(text) if json_lines else _csv_names(text)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TraceError(f"trace {path} line 1: got the column {twice[0]!r} twice, allowed is once")
    kin = [f for f in FORMATS if f.json_lines == json_lines]
    for candidate in kin:
        if candidate.fits(names):
            return candidate, names
    for candidate in kin:
        if {candidate.prompt, candidate.output} <= set(names) and candidate.time not in names:
            raise TraceError(
                f"trace {path}: got a {candidate.name} header without arrival times, allowed is "
                f"one with a column {candidate.time!r}; add the column, for example with gaps "
                "drawn at a rate of your own"
            )
    raise TraceError(f"trace {path}: got {_shown(text)}, allowed is {_allowed()}")


def _csv_names(text: str) -> list[str]:
    try:
        return [name.strip() for row in csv.reader([text], strict=True) for name in row]
    except csv.Error:
        return []


def _json_names(text: str) -> list[str]:
    """The keys of the first object, as often as they stand there; [] if it is not one."""
    try:
        pairs: Any = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return []
    return [name for name, _ in pairs]


def _shown(text: str) -> str:
    if text.startswith(_LFS_POINTER):
        return "a Git LFS pointer instead of the file (fetch it with `git lfs pull`)"
    shown = repr(text)
    return f"the header {shown}" if len(shown) <= 120 else f"the header {shown[:117]}..."


def _allowed() -> str:
    """The headers of all formats in one line."""
    headers = [
        f"JSON lines with {', '.join(f.header)} ({f.name})"
        if f.json_lines
        else f"{','.join(f.header)!r} ({f.name})"
        for f in FORMATS
    ]
    return f"{', '.join(headers[:-1])} or {headers[-1]}"
