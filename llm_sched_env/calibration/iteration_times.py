"""Read the measured iterations of one device and model from a CSV file."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from llm_sched_env.calibration.operator_profiles import PROFILE_NOTE, is_profile, read_profile
from llm_sched_env.errors import CalibrationError, ConfigurationError
from llm_sched_env.workloads import columns
from llm_sched_env.workloads.reading import bad_line, csv_columns, open_text

HEADER = ("device", "model", "tokens_in_iteration", "seconds")
_WHAT = "iteration times"
_EXPECTED = "expected a device, a model, a token count > 0 and seconds > 0"


@dataclass(frozen=True, eq=False)
class IterationTimes:
    """Measured iterations of one device and model, in order of tokens.

    Attributes:
        device: the GPU.
        model: that it ran.
        tokens: in the iteration, b; shape (K,), non-decreasing.
        seconds: that it took; shape (K,).
        file: name of the file, "" if made here.
        note: what a reader should know of how they were measured, "" if nothing.
    """

    device: str
    model: str
    tokens: np.ndarray
    seconds: np.ndarray
    file: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        tokens, seconds = (np.asarray(a, float) for a in (self.tokens, self.seconds))
        good = tokens.ndim == 1 and tokens.shape == seconds.shape and len(tokens) > 0
        if not good or not all((np.isfinite(a) & (a > 0)).all() for a in (tokens, seconds)):
            raise CalibrationError(
                f"{_WHAT}: got {tokens.size} tokens and {seconds.size} seconds, expected as "
                "many of both, at least one, all finite and > 0"
            )
        order = np.argsort(tokens, kind="stable")
        object.__setattr__(self, "tokens", tokens[order])
        object.__setattr__(self, "seconds", seconds[order])

    def __len__(self) -> int:
        return len(self.tokens)

    def between(self, first: float, last: float) -> IterationTimes:
        """Iterations of ``first`` to ``last`` tokens, both included; at least one."""
        kept = (first <= self.tokens) & (self.tokens <= last)
        if not kept.any():
            raise CalibrationError(
                f"{_WHAT}: got none of {first:g} to {last:g} tokens, expected a range within "
                f"{self.tokens[0]:g} to {self.tokens[-1]:g}; set --from and --to"
            )
        return dataclasses.replace(self, tokens=self.tokens[kept], seconds=self.seconds[kept])

    def measured(self, tokens: float) -> float | None:
        """Mean seconds at a token count, interpolated; None outside of what was measured."""
        if not self.tokens[0] <= tokens <= self.tokens[-1]:
            return None
        known, first = np.unique(self.tokens, return_index=True)
        means = np.add.reduceat(self.seconds, first) / np.diff([*first, len(self)])
        return float(np.interp(tokens, known, means))


def read_iteration_times(
    path: str | Path,
    device: str | None = None,
    model: str | None = None,
    layers: int | None = None,
) -> IterationTimes:
    """Read the iterations of one device and model; CSV, plain or gzip.

    Args:
        path: of the file; its header has the columns of ``HEADER`` in any order, more allowed, or
            those of Vidur's profile of linear operators (``mlp.csv``).
        device: which; None if the file has one. A profile names none: what to call it.
        model: which; None if there is one. A profile names none: what to call it.
        layers: of the model, for a profile, whose times are those of one layer; otherwise None.

    Raises:
        CalibrationError: naming file and line.
        ConfigurationError: for ``layers`` that the file does not need, or lacks.
    """
    path = Path(path)
    with open_text(path, _WHAT, CalibrationError) as text:
        names = [name.strip() for name in next(csv.reader([text.readline()]), [])]
        lines = [line.strip() for line in text]
    if not names:
        raise CalibrationError(f"{_WHAT} {path}: got an empty file, expected a header and rows")
    if is_profile(names):
        return IterationTimes(
            *read_profile(path, names, lines, device, model, layers), path.name, PROFILE_NOTE
        )
    if layers is not None:
        raise ConfigurationError(
            "layers", layers, f"none for {path}", "its times are those of whole iterations"
        )
    for name in HEADER:
        if names.count(name) != 1:
            times = "twice" if name in names else "not at all"
            fault = f"the column {name!r} stands there {times}; expected {','.join(HEADER)}"
            _fail(path, 1, ",".join(names), fault)
    width, wanted = len(names), [names.index(name) for name in HEADER]
    filled = [line for line in lines if line]
    if not filled:
        raise CalibrationError(
            f"{_WHAT} {path}: got no row after the header, expected at least one"
        )
    try:
        devices, models, tokens, seconds = _parse(filled, width, wanted)
    except ValueError:
        for number, line in enumerate(lines, 2):
            if line and not _is_good(line, width, wanted):
                _fail(path, number, line, _EXPECTED)
        raise
    pairs = list(zip(devices, models, strict=True))
    chosen = _one_of(path, list(dict.fromkeys(pairs)), device, model)
    own = np.array([pair == chosen for pair in pairs])
    return IterationTimes(*chosen, tokens[own], seconds[own], path.name)


def _parse(
    lines: Sequence[str], width: int, wanted: Sequence[int]
) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """The four columns of some lines; ValueError if one of them is wrong."""
    devices, models, tokens, seconds = csv_columns(lines, width, wanted)
    counts, times = columns.counts(tokens), columns.numbers(seconds)
    if not (all(devices) and all(models) and (counts > 0).all() and (times > 0).all()):
        raise ValueError("not all are names and positive numbers")
    return devices, models, counts, times


def _is_good(line: str, width: int, wanted: Sequence[int]) -> bool:
    try:
        _parse([line], width, wanted)
    except ValueError:
        return False
    return True


def _one_of(
    path: Path, pairs: Sequence[tuple[str, str]], device: str | None, model: str | None
) -> tuple[str, str]:
    """The one device and model that is left when those named are chosen."""
    left = [pair for pair in pairs if device in (None, pair[0]) and model in (None, pair[1])]
    if len(left) == 1:
        return left[0]
    got = f"{len(left)} pairs of device and model"
    if not left:
        asked = (f"device {device!r}" if device else "device", f"model {model!r}" if model else "")
        got = " with ".join(("no " + asked[0], asked[1] or "any model"))
    known = "; ".join(f"--device {d} --model {m}" for d, m in left or pairs)
    raise CalibrationError(f"{_WHAT} {path}: got {got}, expected one of: {known}")


def _fail(path: Path, line: int, text: str, fault: str) -> NoReturn:
    raise bad_line(path, line, text, fault, _WHAT, CalibrationError)
