"""Diagnose the first line of a file in no known format, and suggest a remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from llm_sched_env.errors import TraceError
from llm_sched_env.workloads.formats import CANONICAL, FORMATS, UNIT_NAMES, TraceFormat
from llm_sched_env.workloads.header_texts import csv_names, is_json
from llm_sched_env.workloads.reading import shortened

_LFS_POINTER = "version https://git-lfs"
_SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}
_LIKE_ARRIVALS = re.compile(r"arriv|time|stamp|date", re.IGNORECASE)


def refusal(path: Path, text: str, names: Sequence[str]) -> TraceError:
    """The error for a first line: the fault that is nearest to a known format, and its remedy."""
    # Formats with marks share their header with one that promises no unit.
    kin = [f for f in FORMATS if f.json_lines == is_json(text) and not f.marks]
    found = (
        _no_table(text, names)
        or next(filter(None, (_renamed(f, names) for f in kin)), "")
        or next(filter(None, (_without_arrivals(f, names) for f in kin)), "")
        or next(filter(None, (_without_tokens(f, names) for f in kin)), "")
        or _beyond_canonical(names)
        or f"got the header {shortened(text)!r}, expected {_all_headers()}"
    )
    return TraceError(f"trace {path}: {found}")


def _no_table(text: str, names: Sequence[str]) -> str:
    """A file that is no CSV with commas and no JSON lines."""
    if text.startswith(_LFS_POINTER):
        return "got a Git LFS pointer instead of the file; fetch it with `git lfs pull`"
    if text.startswith("["):
        return (
            "got a JSON array, expected one object a line; write each element on a line of its "
            "own, for example with `jq -c '.[]'`"
        )
    if is_json(text) and not names:
        return (
            f"got {shortened(text)!r} as the first line, expected a whole JSON object a line; "
            "write each request on a line of its own, for example with `jq -c .`"
        )
    if "sub_requests" in names:
        return (
            "got sessions with 'sub_requests', most of which have no arrival time; write each "
            "request with its own 'arrival_time_ns'"
        )
    for separator, shown in _SEPARATORS.items():
        if any(not f.json_lines and f.fits(csv_names(text, separator)) for f in FORMATS):
            return f"got fields separated by {shown}, expected commas; write it as CSV with commas"
    return ""


def _renamed(kind: TraceFormat, names: Sequence[str]) -> str:
    """All columns of a format, some of them written differently."""
    written = {_plain(name): name for name in names}
    missing = [want for want in kind.header if want not in names]
    if not missing or not all(_plain(want) in written for want in missing):
        return ""
    pairs = [f"{written[_plain(want)]} to {_described(kind, want)}" for want in missing]
    s = "s" if len(pairs) > 1 else ""
    return f"got nearly the columns of {kind.name}; rename the column{s} {', '.join(pairs)}"


def _without_arrivals(kind: TraceFormat, names: Sequence[str]) -> str:
    """Both token counts of a format, without its arrivals."""
    if kind.time in names or not {kind.prompt, kind.output} <= set(names):
        return ""
    like = next((name for name in names if _LIKE_ARRIVALS.search(name)), None)
    if like is not None:
        return (
            f"got the columns of {kind.name} without {kind.time!r}; if {like!r} holds the "
            f"arrivals, rename the column {like} to {_described(kind, kind.time)}"
        )
    return (
        f"got the columns of {kind.name} without arrival times; add a column {kind.time!r}, for "
        "example with gaps drawn at a rate of your own"
    )


def _without_tokens(kind: TraceFormat, names: Sequence[str]) -> str:
    """All columns of a format but one of its token counts or its classes."""
    missing = [want for want in kind.header if want not in names]
    if kind.time not in names or len(missing) != 1:
        return ""
    where = "line 1" if kind.json_lines else "the header"
    header = ", ".join(kind.header)
    return f"got no {missing[0]!r} in {where}, expected {header} for every request"


def _beyond_canonical(names: Sequence[str]) -> str:
    if not set(CANONICAL.header) <= set(names):
        return ""
    return (
        f"got the columns {', '.join(names)}, expected those of {CANONICAL.name} in their order, "
        f"{','.join(CANONICAL.header)}, then none but {', '.join(CANONICAL.optional)}"
    )


def _described(kind: TraceFormat, column: str) -> str:
    """A column, that of the arrivals with what it counts in."""
    if column != kind.time or kind.unit is None:
        return column
    return f"{column} ({UNIT_NAMES[kind.unit]})"


def _plain(name: str) -> str:
    """A name without case, blanks and underscores."""
    return re.sub(r"[\W_]", "", name).casefold()


def _all_headers() -> str:
    """The headers of all formats in one line, each with the formats that have it."""
    known: dict[str, list[str]] = {}
    for kind in FORMATS:
        if kind.json_lines:
            header = f"JSON lines with {', '.join(kind.header)}"
        else:
            header = repr(",".join(kind.header))
        known.setdefault(header, []).append(kind.name)
    shown = [f"{header} ({', '.join(names)})" for header, names in known.items()]
    return f"{', '.join(shown[:-1])} or {shown[-1]}"
