"""What does a file of iteration times hold? One device and model of a CSV, by its header."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from llm_sched_env.errors import CalibrationError
from llm_sched_env.workloads import columns
from llm_sched_env.workloads.reading import bad_line, csv_columns, open_text

HEADER = ("device", "model", "tokens_in_iteration", "seconds")
_WHAT = "iteration times"
_ALLOWED = "a device, a model, a token count > 0 and seconds > 0"


@dataclass(frozen=True, eq=False)
class IterationTimes:
    """Measured iterations of one device and model, in order of tokens.

    Attributes:
        device: the GPU.
        model: that it ran.
        tokens: in the iteration, b; shape (K,), non-decreasing.
        seconds: that it took; shape (K,).
        file: name of the file, "" if made here.
    """

    device: str
    model: str
    tokens: np.ndarray
    seconds: np.ndarray
    file: str = ""

    def __post_init__(self) -> None:
        tokens, seconds = (np.asarray(a, float) for a in (self.tokens, self.seconds))
        good = tokens.ndim == 1 and tokens.shape == seconds.shape and len(tokens) > 0
        if not good or not all((np.isfinite(a) & (a > 0)).all() for a in (tokens, seconds)):
            raise CalibrationError(
                f"{_WHAT}: got {tokens.size} tokens and {seconds.size} seconds, allowed are as "
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
                f"{_WHAT}: got none of {first:g} to {last:g} tokens, allowed is a range within "
                f"{self.tokens[0]:g} to {self.tokens[-1]:g}; set --from and --to"
            )
        return IterationTimes(
            self.device, self.model, self.tokens[kept], self.seconds[kept], self.file
        )

    def measured(self, tokens: float) -> float | None:
        """Mean seconds at a token count, interpolated; None outside of what was measured."""
        if not self.tokens[0] <= tokens <= self.tokens[-1]:
            return None
        known, first = np.unique(self.tokens, return_index=True)
        means = np.add.reduceat(self.seconds, first) / np.diff([*first, len(self)])
        return float(np.interp(tokens, known, means))


def read_iteration_times(
    path: str | Path, device: str | None = None, model: str | None = None
) -> IterationTimes:
    """Read the iterations of one device and model; CSV, plain or gzip.

    Args:
        path: of the file; its header has the columns of ``HEADER`` in any order, more allowed.
        device: which; None if the file has one.
        model: which; None if there is one.

    Raises:
        CalibrationError: naming file and line.
    """
    path = Path(path)
    with open_text(path, _WHAT, CalibrationError) as text:
        names = [name.strip() for name in next(csv.reader([text.readline()]), [])]
        if any(names.count(name) != 1 for name in HEADER):
            _fail(path, 1, ",".join(names), f"a header with the columns {','.join(HEADER)}")
        lines = [line.strip() for line in text]
    width, wanted = len(names), [names.index(name) for name in HEADER]
    filled = [line for line in lines if line]
    if not filled:
        raise CalibrationError(
            f"{_WHAT} {path}: got no row after the header, allowed is at least one"
        )
    try:
        devices, models, tokens, seconds = _parse(filled, width, wanted)
    except ValueError:
        for number, line in enumerate(lines, 2):
            if line and not _is_good(line, width, wanted):
                _fail(path, number, line, _ALLOWED)
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
    raise CalibrationError(f"{_WHAT} {path}: got {got}, allowed is one of: {known}")


def _fail(path: Path, line: int, text: str, allowed: str) -> NoReturn:
    raise bad_line(path, line, text, allowed, _WHAT, CalibrationError)
