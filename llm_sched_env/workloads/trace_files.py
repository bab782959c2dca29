"""What does one trace file hold? Arrivals in the file's own unit, tokens and class labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_sched_env.errors import ConfigurationError, TraceError
from llm_sched_env.workloads import columns
from llm_sched_env.workloads.formats import CALENDAR, CANONICAL, UNITS, TraceFormat, recognized
from llm_sched_env.workloads.reading import bad_line, csv_columns, json_columns, open_text

_CHUNK_CHARACTERS = 1 << 16  # small enough for the processor's cache
_NO_DATE = "a timestamp like 2023-11-16 18:15:46.6805900"

Chunk = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class FileRows:
    """The rows of one file in the order of their lines.

    Attributes:
        path: of the file.
        format: what its header says.
        clock: what its timestamps count from: files of one replay must agree.
        ticks: arrivals, int64 nanoseconds of calendar time or floats in the file's unit; (K,).
        ticks_per_second: unit of ``ticks``.
        prompt_tokens: shape (K,).
        output_tokens: shape (K,).
        labels: class names in order of appearance, or () if the file is one class.
        label: index into ``labels``; shape (K,).
    """

    path: Path
    format: TraceFormat
    clock: str
    ticks: np.ndarray
    ticks_per_second: int
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    labels: tuple[str, ...]
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.ticks)


class _Parser:
    """Turns lines of a file into arrays; remembers what all its lines must agree on."""

    def __init__(self, kind: TraceFormat, names: Sequence[str], label_column: str | None) -> None:
        self.kind = kind
        self.wanted = [kind.time, kind.prompt, kind.output]
        self.wanted += [label_column] if label_column else []
        self.width = len(names)
        self.positions = [names.index(name) for name in self.wanted]
        self.tokens: Callable[[Sequence[str]], np.ndarray] = (
            columns.token_numbers if kind is CANONICAL else columns.counts
        )
        self.zoned: bool | None = None
        self.labels: dict[str, int] = {}

    def parse(self, lines: Sequence[str]) -> Chunk:
        """Arrays of some lines; ValueError if one of them is wrong."""
        if self.kind.json_lines:
            times, prompts, outputs, *labels = json_columns(lines, self.wanted)
        else:
            times, prompts, outputs, *labels = csv_columns(lines, self.width, self.positions)
        prompt_tokens, output_tokens = self.tokens(prompts), self.tokens(outputs)
        ticks = self._dates(times) if self.kind.unit == CALENDAR else columns.numbers(times)
        codes = columns.labels(labels[0], self.labels) if labels else np.empty(0, np.int32)
        return ticks, prompt_tokens, output_tokens, codes

    def takes(self, line: str) -> bool:
        """Whether a single line is right beside those before it."""
        try:
            self.parse([line])
        except ValueError:
            return False
        return True

    def _dates(self, texts: Sequence[str]) -> np.ndarray:
        ticks, zoned = columns.dates(texts)
        if self.zoned is None:
            self.zoned = zoned
        if zoned != self.zoned:
            raise ValueError("some name a zone and others do not")
        return ticks

    def allowed(self) -> str:
        """What a line must say."""
        if self.kind.unit != CALENDAR:
            time = f"{self.kind.time} >= 0"
        elif self.zoned is None:
            time = _NO_DATE
        else:
            time = f"{_NO_DATE}, {'with' if self.zoned else 'without'} a zone as in the lines above"
        counts = "token counts" if self.kind is not CANONICAL else "numbers of tokens"
        label = f" and a class name ({self.wanted[3]})" if len(self.wanted) > 3 else ""
        return f"{time} and two {counts} >= 0{label}"


def read_file(path: Path, time_unit: str | None, classes_by: str | None) -> FileRows:
    """Read one file whole.

    Args:
        path: of the file.
        time_unit: of numeric timestamps instead of the format's own: ``s``, ``ms`` or ``us``.
        classes_by: column that names the classes; None for one class per file.

    Raises:
        TraceError: naming file and line.
        ConfigurationError: for an option that the file's format does not have.
    """
    with open_text(path) as text:
        first = text.readline()
        if not first:
            raise TraceError(f"trace {path}: got an empty file, allowed is at least one row")
        kind, names = recognized(path, first)
        ticks_per_second = _ticks_per_second(path, kind, time_unit)
        parser = _Parser(kind, names, _label_column(path, kind, names, classes_by))
        chunks = []
        # The first line of JSON is a request already, that of CSV is the header.
        line, lines = (1, [first]) if kind.json_lines else (2, text.readlines(_CHUNK_CHARACTERS))
        while lines:
            chunk = _parsed(path, parser, list(map(str.strip, lines)), line)
            chunks += [chunk] if chunk else []
            line += len(lines)
            lines = text.readlines(_CHUNK_CHARACTERS)
    if not chunks:
        raise TraceError(f"trace {path}: got no request after the header, allowed is at least one")
    ticks, prompts, outputs, codes = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    zone = {True: "calendar time in UTC", False: "calendar time without a zone"}
    return FileRows(
        path,
        kind,
        f"the seconds of {kind.name}" if parser.zoned is None else zone[parser.zoned],
        ticks,
        ticks_per_second,
        prompts,
        outputs,
        tuple(parser.labels),
        codes,
    )


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
            if text and not parser.takes(text):
                raise bad_line(path, line, text, parser.allowed()) from None
        raise


def _ticks_per_second(path: Path, kind: TraceFormat, time_unit: str | None) -> int:
    if time_unit is None:
        return 10**9 if kind.unit == CALENDAR else UNITS[kind.unit]
    if time_unit not in UNITS:
        raise ConfigurationError("time_unit", time_unit, " or ".join(UNITS))
    if kind.unit == CALENDAR or kind is CANONICAL:
        raise ConfigurationError(
            "time_unit",
            time_unit,
            f"none for {path}",
            f"the column {kind.time} of {kind.name} says what its times are",
        )
    return UNITS[time_unit]


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
