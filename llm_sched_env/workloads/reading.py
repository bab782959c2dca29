"""How is a file opened, and its lines taken apart? Plain or gzip, CSV or JSON lines."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from llm_sched_env.errors import LLMSchedError, TraceError

_GZIP_MAGIC = b"\x1f\x8b"
_LONGEST_SHOWN = 80


@contextmanager
def open_text(
    path: Path, what: str = "trace", error: type[LLMSchedError] = TraceError
) -> Iterator[TextIO]:
    """The text of a file, unzipped if its first bytes say so; every failure one line.

    Args:
        path: of the file.
        what: the file is, for messages.
        error: what a failure raises.
    """
    try:
        with _open_bytes(path) as binary:
            yield io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise error(
            f"{what} {path}: got a gzip file that is cut off or damaged, allowed is a whole one; "
            "copy it again"
        ) from None
    except UnicodeDecodeError:
        raise error(
            f"{what} {path}{_first_line_of_no_text(path)}: got bytes that are no text, allowed is "
            "CSV or JSON lines in UTF-8"
        ) from None
    except OSError as failure:
        raise error(
            f"{what} {path}: got no readable file ({failure.strerror or failure}), allowed is the "
            "path of one; check it"
        ) from None


@contextmanager
def _open_bytes(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as raw:
        if raw.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC):
            with gzip.GzipFile(fileobj=raw) as unzipped:
                yield io.BufferedReader(unzipped)
        else:
            yield raw


def _first_line_of_no_text(path: Path) -> str:
    """Where the text breaks off; it is looked for only once it is known to exist."""
    with _open_bytes(path) as binary:
        for line, content in enumerate(binary, 1):
            if content.decode(errors="ignore").encode() != content:
                return f" line {line}"
    return ""


def bad_line(
    path: Path,
    line: int,
    text: str,
    allowed: str,
    what: str = "trace",
    error: type[LLMSchedError] = TraceError,
) -> LLMSchedError:
    """The error for a line that does not say what it should."""
    shown = text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
    return error(f"{what} {path} line {line}: got {shown!r}, allowed is {allowed}")


def csv_columns(lines: Sequence[str], width: int, wanted: Sequence[int]) -> list[list[str]]:
    """The wanted columns of CSV lines; ValueError if a line has not ``width`` fields."""
    # One split of everything is several times as fast as a row at a time: with the line ends as
    # fields of their own, each must stand right after its line's fields.
    text = ",\n,".join(lines)
    flat = text.split(",")
    if '"' in text:
        rows = [row for line in lines for row in _quoted_rows(line)]
        flat = [field for row in rows for field in (*row, "\n")][:-1]
    ends = flat[width :: width + 1]
    if len(flat) != len(lines) * (width + 1) - 1 or ends.count("\n") != len(ends):
        raise ValueError("not all lines have the header's fields")
    return [list(map(str.strip, flat[k :: width + 1])) for k in wanted]


def _quoted_rows(line: str) -> list[list[str]]:
    """A line of its own: a quote left open ends with it."""
    try:
        return list(csv.reader([line], strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from None


def json_columns(lines: Sequence[str], keys: Sequence[str]) -> list[list[str]]:
    """The values of keys of one JSON object per line, numbers as the text that stands there."""
    try:
        objects = [_parse_json(line) for line in lines]
        columns: list[list[Any]] = [[entry[key] for entry in objects] for key in keys]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if not all(isinstance(value, str) for column in columns for value in column):
        raise ValueError("not all are numbers")
    return columns


def _parse_json(line: str) -> Any:
    return json.loads(
        line, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_each_key_once
    )


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key stands twice")
    return table
