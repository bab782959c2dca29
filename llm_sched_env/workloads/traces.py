"""Recorded request streams: the Azure LLM inference traces 2023 (MODEL section 11).

A file is CSV with the header ``TIMESTAMP,ContextTokens,GeneratedTokens``; each file is one class.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_sched_env.errors import ConfigurationError, TraceError, is_finite_number
from llm_sched_env.instance import Hardware, Instance, Prices, RequestClass

# Years that fit into 64-bit nanoseconds; no zone: all files of a replay share one clock.
_STAMP = re.compile(r"(19|20|21)\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,9})?")
_COUNT = re.compile(r"\d{1,9}")

AZURE_2023_HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests of one or more files in order of arrival.

    Attributes:
        class_names: one per file.
        arrival_time: seconds since the first request; shape (K,), non-decreasing.
        request_class: file of each request; shape (K,).
        prompt_tokens: shape (K,).
        output_tokens: shape (K,).
    """

    class_names: tuple[str, ...]
    arrival_time: np.ndarray
    request_class: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.arrival_time)

    @property
    def duration(self) -> float:
        """Seconds from the first to the last arrival."""
        return float(self.arrival_time[-1])

    def at_speed(self, speed: float) -> Trace:
        """The same requests arriving ``speed`` times as fast."""
        if not is_finite_number(speed, positive=True):
            raise ConfigurationError("speed", speed, "a finite number > 0")
        return Trace(
            self.class_names,
            self.arrival_time / speed,
            self.request_class,
            self.prompt_tokens,
            self.output_tokens,
        )


def load_traces(paths: str | Path | Sequence[str | Path]) -> Trace:
    """Read files of one or more classes and merge them by their timestamps.

    Raises:
        TraceError: naming file and line, for a file that is missing, empty or malformed.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    if not paths:
        raise TraceError("trace: got no file, allowed is at least one; give its path")
    files = [_read_azure_2023(Path(path)) for path in paths]
    names = _class_names([Path(path) for path in paths])
    ticks = np.concatenate([times for times, _, _ in files])
    order = np.argsort(ticks, kind="stable")
    classes = np.repeat(np.arange(len(files), dtype=np.int32), [len(f[0]) for f in files])
    seconds = (ticks - ticks.min()).astype(np.int64) / 1e9
    return Trace(
        names,
        seconds[order],
        classes[order],
        np.concatenate([prompt for _, prompt, _ in files])[order],
        np.concatenate([output for _, _, output in files])[order],
    )


def instance_from_trace(
    trace: Trace,
    n_gpus: int,
    patience_rates: float | Sequence[float],
    hardware: Hardware,
    prices: Prices,
) -> Instance:
    """The instance whose means and rates per GPU are those of a trace replayed on n GPUs.

    Args:
        trace: what is replayed.
        n_gpus: cluster size n.
        patience_rates: theta, 1/s, one for all classes or one per class.
        hardware: iteration times and slots.
        prices: revenue per token.
    """
    if trace.duration <= 0:
        raise TraceError(
            "trace: got arrivals that are all at one instant, allowed is a trace with a duration"
        )
    theta = np.broadcast_to(np.asarray(patience_rates, float), len(trace.class_names))
    classes = []
    for i, name in enumerate(trace.class_names):
        own = trace.request_class == i
        classes.append(
            RequestClass(
                name,
                float(trace.prompt_tokens[own].mean()),
                float(trace.output_tokens[own].mean()),
                float(own.sum()) / (trace.duration * n_gpus),
                float(theta[i]),
            )
        )
    return Instance("trace", tuple(classes), hardware, prices)


def _class_names(paths: list[Path]) -> tuple[str, ...]:
    """Short names from the files': what follows the last underscore if that tells them apart."""
    stems = [path.stem for path in paths]
    short = [stem.rpartition("_")[2] or stem for stem in stems]
    names = short if len(set(short)) == len(short) else stems
    if len(set(names)) < len(names):
        raise TraceError(
            f"trace: got the file names {stems}, allowed is a name of its own for "
            "each file, since it names the class"
        )
    return tuple(names)


def _read_azure_2023(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Timestamps (datetime64[ns]), prompt and output tokens of one file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            header = next(rows, None)
            if header is None:
                raise TraceError(f"trace {path}: got an empty file, allowed is at least one row")
            if tuple(header) != AZURE_2023_HEADER:
                raise TraceError(
                    f"trace {path}: got the header {','.join(header)!r}, allowed is "
                    f"{','.join(AZURE_2023_HEADER)!r}"
                )
            parsed = [_parsed_row(path, line, row) for line, row in enumerate(rows, 2) if row]
    except OSError as error:
        raise TraceError(
            f"trace {path}: got no readable file ({error.strerror}), allowed is the path of a "
            "CSV file; check it"
        ) from None
    except (UnicodeDecodeError, csv.Error):
        raise TraceError(f"trace {path}: got bytes that are no text, allowed is CSV") from None
    if not parsed:
        raise TraceError(f"trace {path}: got no request after the header, allowed is at least one")
    times, prompts, outputs = zip(*parsed, strict=True)
    return np.array(times), np.array(prompts, float), np.array(outputs, float)


def _parsed_row(path: Path, line: int, row: list[str]) -> tuple[np.datetime64, int, int]:
    fields = [field.strip() for field in row]
    if (
        len(fields) != 3
        or not _STAMP.fullmatch(fields[0])
        or not all(_COUNT.fullmatch(field) for field in fields[1:])
    ):
        raise _bad_row(path, line, row)
    try:
        time = np.datetime64(fields[0], "ns")
    except ValueError:
        raise _bad_row(path, line, row) from None
    return time, int(fields[1]), int(fields[2])


def _bad_row(path: Path, line: int, row: list[str]) -> TraceError:
    shown = ",".join(row)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return TraceError(
        f"trace {path} line {line}: got {shown!r}, allowed is a timestamp like "
        "2023-11-16 18:15:46.6805900 and two token counts >= 0"
    )
