"""Read one trace file: arrivals in the file's own unit, tokens and class labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from llm_sched_env.errors import ConfigurationError, TraceError
from llm_sched_env.model.block_lists import BlockLists
from llm_sched_env.workloads import columns
from llm_sched_env.workloads.formats import (
    CALENDAR,
    CANONICAL,
    END_MARK,
    HASH_IDS,
    PATIENCE,
    SESSION,
    UNIT_NAMES,
    UNITS,
    TraceFormat,
)
from llm_sched_env.workloads.reading import (
    bad_line,
    csv_columns,
    json_columns,
    json_lists,
    json_objects,
    open_text,
    value_fault,
)
from llm_sched_env.workloads.recognition import recognized, recorded_end, unit_refusal

_CHUNK_CHARACTERS = 1 << 16  # small enough for the processor's cache

Chunk = dict[str, np.ndarray]
"""Values by what they are: ``ticks``, ``prompts``, ``outputs``, and what the file gives more."""


@dataclass(frozen=True, eq=False)
class FileRows:
    """The rows of one file in the order of their lines.

    Attributes:
        path: of the file.
        format: what its header says.
        time_unit: the unit understood, in words.
        not_read: the columns that are not read.
        clock: what its timestamps count from: files of one replay must agree.
        ticks: arrivals, int64 nanoseconds of calendar time or floats in the file's unit; (K,).
        ticks_per_second: unit of ``ticks``.
        prompt_tokens: shape (K,).
        output_tokens: shape (K,).
        labels: class names in order of appearance, or () if the file is one class.
        label: index into ``labels``; shape (K,).
        patience_seconds: shape (K,); None if the file does not give it.
        end: seconds until which arrivals were recorded, in the canonical schema; None: unknown.
        session: number of the conversation of each request, shape (K,); None if it is not given.
        blocks: of each request; None if they are not given.
    """

    path: Path
    format: TraceFormat
    time_unit: str
    not_read: tuple[str, ...]
    clock: str
    ticks: np.ndarray
    ticks_per_second: int
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    labels: tuple[str, ...]
    label: np.ndarray
    patience_seconds: np.ndarray | None = None
    end: float | None = None
    session: np.ndarray | None = None
    blocks: BlockLists | None = None

    def __len__(self) -> int:
        return len(self.ticks)


class _Parser:
    """Turns lines of a file into arrays; remembers what all its lines must agree on.

    Args:
        kind: format of the file.
        names: its columns.
        label_column: the one that names the classes, if any.
        unit_is_given: so that no line has to tell it.
    """

    def __init__(
        self,
        kind: TraceFormat,
        names: Sequence[str],
        label_column: str | None,
        unit_is_given: bool,
    ) -> None:
        self.kind = kind
        self.width = len(names)
        self.unit_is_given = unit_is_given
        self.zoned: bool | None = None
        self.any_fraction = False
        self.labels: dict[str, int] = {}
        tokens = columns.token_numbers if kind is CANONICAL else columns.counts
        times = self._dates if kind.unit == CALENDAR else self._numbers
        # What is read: its name here, the column, and how.
        read: list[tuple[str, str, Callable[[Sequence[str]], np.ndarray]]] = [
            ("ticks", kind.time, times),
            ("prompts", kind.prompt, tokens),
            ("outputs", kind.output, tokens),
        ]
        if label_column:
            read.append(("codes", label_column, partial(columns.labels, known=self.labels)))
        if PATIENCE in kind.optional and PATIENCE in names:
            read.append(("patience", PATIENCE, columns.numbers))
        if SESSION in kind.optional and SESSION in names:
            read.append(("sessions", SESSION, columns.session_names))
        if kind.blocks is not None and kind.blocks in names:
            read.append(("blocks", kind.blocks, columns.block_texts))
        self.parts, self.wanted, self.readers = map(list, zip(*read, strict=True))
        self.positions = [names.index(name) for name in self.wanted]

    def parse(self, lines: Sequence[str]) -> Chunk:
        """Arrays of some lines; ValueError if one of them is wrong."""
        texts = self._texts(lines)
        arrays = (read(column) for read, column in zip(self.readers, texts, strict=True))
        return dict(zip(self.parts, arrays, strict=True))

    def fault(self, line: str) -> str:
        """What is wrong with a single line beside those before it; "" if nothing is."""
        try:
            texts = self._texts([line])
        except ValueError as error:
            return str(error)
        faults = map(value_fault, self.wanted, self.readers, texts)
        return next(filter(None, faults), "")

    def _texts(self, lines: Sequence[str]) -> list[list[str]]:
        """The texts of the columns that are read."""
        if not self.kind.json_lines:
            return csv_columns(lines, self.width, self.positions)
        objects = json_objects(lines)
        if not self.unit_is_given:
            self._require_marks(objects)
        plain = [name for name in self.wanted if name != HASH_IDS]
        values = json_columns(objects, plain)
        # The list of blocks is the last of the columns that are read.
        return [*values, json_lists(objects, HASH_IDS)] if "blocks" in self.parts else values

    def _require_marks(self, objects: Sequence[dict[str, Any]]) -> None:
        """A file put together from two formats may be in two units."""
        for entry in objects:
            if not self.kind.has_marks(entry):
                marks = " or ".join(map(repr, self.kind.marks))
                foreign = [name for name in self.kind.foreign if name in entry]
                fault = f"has {foreign[0]!r}" if foreign else f"no {marks}"
                raise ValueError(
                    f"{fault}, unlike line 1 ({self.kind.name}), so that its unit is unclear; "
                    "make it a file of its own or give --time-unit"
                )

    def _numbers(self, texts: Sequence[str]) -> np.ndarray:
        ticks = columns.numbers(texts)
        self.any_fraction |= not "".join(texts).isdecimal()
        return ticks

    def _dates(self, texts: Sequence[str]) -> np.ndarray:
        ticks, zoned = columns.dates(texts)
        if self.zoned is None:
            self.zoned = zoned
        if zoned != self.zoned:
            raise ValueError(f"one {'with' if self.zoned else 'without'} a zone, as those above")
        return ticks


def read_file(path: Path, time_unit: str | None, classes_by: str | None) -> FileRows:
    """Read one file whole.

    Args:
        path: of the file.
        time_unit: of numeric timestamps instead of the format's own, a key of ``UNITS``.
        classes_by: column that names the classes; None for one class per file.

    Raises:
        TraceError: naming file and line, or for timestamps whose unit is not told.
        ConfigurationError: for an option that the file's format does not have.
    """
    with open_text(path) as text:
        first, kind, names, end = _header(path, text)
        unit = _unit(path, kind, time_unit)
        label_column = _label_column(path, kind, names, classes_by)
        parser = _Parser(kind, names, label_column, time_unit is not None)
        chunks = []
        # The first line of JSON is a request already, that of CSV is the header.
        line, lines = (1, [first]) if kind.json_lines else (2, text.readlines(_CHUNK_CHARACTERS))
        line += end is not None
        while lines:
            chunk = _parsed(path, parser, list(map(str.strip, lines)), line)
            chunks += [chunk] if chunk else []
            line += len(lines)
            lines = text.readlines(_CHUNK_CHARACTERS)
    if not chunks:
        raise TraceError(f"trace {path}: got no request after the header, expected at least one")
    # Whole where fractions tell the format, or fractions where whole numbers do.
    if time_unit is None and parser.any_fraction is kind.whole_times:
        raise unit_refusal(path, kind)
    found = {part: np.concatenate([chunk[part] for chunk in chunks]) for part in parser.parts}
    zone = {True: "calendar time in UTC", False: "calendar time without a zone"}
    return FileRows(
        path,
        kind,
        UNIT_NAMES[unit],
        tuple(name for name in names if name not in parser.wanted),
        f"the seconds of {kind.name}" if parser.zoned is None else zone[parser.zoned],
        found["ticks"],
        10**9 if unit == CALENDAR else UNITS[unit],
        found["prompts"],
        found["outputs"],
        tuple(parser.labels),
        found.get("codes", np.empty(0, np.int32)),
        found.get("patience"),
        end,
        columns.session_numbers(found["sessions"]) if "sessions" in found else None,
        columns.block_lists(found["blocks"]) if "blocks" in found else None,
    )


def _header(path: Path, text: TextIO) -> tuple[str, TraceFormat, list[str], float | None]:
    """The first line of the table, what it says, and the end of the recording if one is told."""
    first = text.readline()
    if not first:
        raise TraceError(f"trace {path}: got an empty file, expected at least one row")
    end = recorded_end(path, first)
    if end is not None:
        first = text.readline()
    kind, names = recognized(path, first)
    if end is not None and kind is not CANONICAL:
        raise TraceError(f"trace {path} line 1: got {END_MARK!r}, which only saved traces have")
    return first, kind, names, end


def _parsed(path: Path, parser: _Parser, lines: list[str], first: int) -> Chunk | None:
    """Arrays of a chunk of lines, blank ones left out; one by one only to find what is wrong."""
    filled = list(filter(None, lines))
    if not filled:
        return None
    zoned = parser.zoned
    try:
        return parser.parse(filled)
    except ValueError:
        parser.zoned = zoned
        for line, text in enumerate(lines, first):
            fault = parser.fault(text) if text else ""
            if fault:
                raise bad_line(path, line, text, fault) from None
        raise


def _unit(path: Path, kind: TraceFormat, time_unit: str | None) -> str:
    """What the timestamps count in."""
    if time_unit is None:
        if kind.unit is None:
            raise unit_refusal(path, kind)
        return kind.unit
    if time_unit not in UNITS:
        raise ConfigurationError("time_unit", time_unit, " or ".join(UNITS))
    if kind.unit == CALENDAR or kind.unit_in_name:
        raise ConfigurationError(
            "time_unit",
            time_unit,
            f"none for {path}",
            f"the column {kind.time} of {kind.name} says what its times are",
        )
    return time_unit


def _label_column(
    path: Path, kind: TraceFormat, names: Sequence[str], classes_by: str | None
) -> str | None:
    if classes_by is None:
        return kind.class_column
    available = [name for name in kind.labels if name in names]
    if classes_by not in available:
        raise ConfigurationError(
            "classes_by",
            classes_by,
            " or ".join(map(repr, available)) or f"none for {path} ({kind.name})",
            "leave it out for one class per file",
        )
    return classes_by
