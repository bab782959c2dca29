"""Open a trace file, plain or gzip, and split it into CSV or JSON lines."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from llm_sched_env.errors import LLMSchedError, TraceError

_GZIP_MAGIC = b"\x1f\x8b"
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LONGEST_SHOWN = 120


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
    if not _can_be_a_path(path):
        raise error(f"{what} {str(path)!r}: got no path that can be, expected that of a file")
    try:
        with _open_bytes(path) as binary:
            if binary.peek(len(_UTF16_MARKS[0])).startswith(_UTF16_MARKS):
                raise error(
                    f"{what} {path}: got text in UTF-16, expected UTF-8; convert it, for example "
                    "with `iconv -f UTF-16 -t UTF-8`"
                )
            yield io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise error(
            f"{what} {path}: got a gzip file that is cut off or damaged, expected a whole one; "
            "copy it again"
        ) from None
    except UnicodeDecodeError:
        raise error(
            f"{what} {path}{_first_line_of_no_text(path)}: got bytes that are no text, expected "
            "CSV or JSON lines in UTF-8"
        ) from None
    except OSError as failure:
        raise error(
            f"{what} {path}: got no readable file ({failure.strerror or failure}), expected the "
            "path of one; check it"
        ) from None


def _can_be_a_path(path: Path) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


@contextmanager
def _open_bytes(path: Path) -> Iterator[io.BufferedReader]:
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
    fault: str,
    what: str = "trace",
    error: type[LLMSchedError] = TraceError,
) -> LLMSchedError:
    """The error for a line that does not say what it should."""
    return error(f"{what} {path} line {line}: got {shortened(text)!r}: {fault}")


def value_fault(
    name: str, read: Callable[[Sequence[str]], np.ndarray], column: Sequence[str]
) -> str:
    """What is wrong with the only value of a column; "" if nothing is."""
    try:
        read(column)
    except ValueError as error:
        return f"{name} is {shortened(column[0])!r}, expected {error}"
    return ""


def shortened(text: str) -> str:
    """As much of a text as a message shows."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def csv_columns(lines: Sequence[str], width: int, wanted: Sequence[int]) -> list[list[str]]:
    """The wanted columns of CSV lines; ValueError says why if a line has not ``width`` fields."""
    # One split of everything is several times as fast as a row at a time: with the line ends as
    # fields of their own, each must stand right after its line's fields.
    text = ",\n,".join(lines)
    flat = text.split(",")
    if '"' in text:
        rows = [row for line in lines for row in _quoted_rows(line)]
        flat = [field for row in rows for field in (*row, "\n")][:-1]
    ends = flat[width :: width + 1]
    if len(flat) != len(lines) * (width + 1) - 1 or ends.count("\n") != len(ends):
        raise ValueError(f"the header has {width} fields and this line has not")
    return [list(map(str.strip, flat[k :: width + 1])) for k in wanted]


def _quoted_rows(line: str) -> list[list[str]]:
    """A line of its own: a quote left open ends with it."""
    try:
        return list(csv.reader([line], strict=True))
    except csv.Error:
        raise ValueError("a quote is left open or stands inside a field") from None


def json_objects(lines: Sequence[str]) -> list[dict[str, Any]]:
    """One JSON object per line, its numbers as texts; ValueError says why if one is none."""
    try:
        objects = [_parse_json(line) for line in lines]
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("expected a whole JSON object a line") from None
    if not all(isinstance(entry, dict) for entry in objects):
        raise ValueError("expected a whole JSON object a line")
    return objects


def json_columns(objects: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[list[str]]:
    """The values of some keys, numbers as the text that stands there; ValueError if one lacks."""
    try:
        columns: list[list[Any]] = [[entry[key] for entry in objects] for key in keys]
    except KeyError as missing:
        raise ValueError(f"no {missing}") from None
    for key, column in zip(keys, columns, strict=True):
        if not all(isinstance(value, str) for value in column):
            raise ValueError(f"{key} is neither a number nor a text")
    return columns


def json_lists(objects: Sequence[dict[str, Any]], key: str) -> list[str]:
    """A list of numbers of each object as a text with spaces between; "" where there is none.

    What is no list of numbers becomes a text that is none either.
    """
    texts = []
    for entry in objects:
        value = entry.get(key, [])
        plain = isinstance(value, list) and all(isinstance(item, str) for item in value)
        texts.append(" ".join(value) if plain else f"{value!r}")
    return texts


def _parse_json(line: str) -> Any:
    return json.loads(
        line, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_each_key_once
    )


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key stands twice")
    return table
