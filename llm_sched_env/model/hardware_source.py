"""Provenance of a hardware's numbers: where they were measured (docs/calibration.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date as calendar_date
from typing import Any

from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.model.plain_tables import check_integer, checked_table

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


@dataclass(frozen=True)
class IterationRanges:
    """Fewest and most of what the measured iterations had: where a KV-aware fit holds.

    Args:
        decodes: in an iteration.
        kv_tokens: that they attended to, in all.
        prefill_tokens: of a chunk.
        prefill_context: cached tokens before a chunk.
    """

    decodes: tuple[float, float]
    kv_tokens: tuple[float, float]
    prefill_tokens: tuple[float, float]
    prefill_context: tuple[float, float]

    def __post_init__(self) -> None:
        for name in ("decodes", "kv_tokens", "prefill_tokens", "prefill_context"):
            _set_range(self, name, f"hardware source ranges {name}")


@dataclass(frozen=True)
class HeldOutSummary:
    """Errors of the law on iterations that it was not fitted to, law / measured - 1.

    Args:
        iterations: how many.
        solo: mean absolute error of iterations without a prefill.
        mixed: mean absolute error of iterations with one.
        solo_total: error of the time of the former together, with its sign.
        mixed_total: error of the time of the latter together, with its sign.
    """

    iterations: int
    solo: float
    mixed: float
    solo_total: float
    mixed_total: float

    def __post_init__(self) -> None:
        check_integer(self, "iterations", "hardware source held_out iterations", 1)
        for name in ("solo", "mixed", "solo_total", "mixed_total"):
            if not _is_real(getattr(self, name)):
                raise ConfigurationError(
                    f"hardware source held_out {name}", getattr(self, name), "a finite number"
                )


@dataclass(frozen=True)
class HardwareSource:
    """The ``source`` table of a hardware file.

    Args:
        device: the GPU.
        model: that it ran.
        engine: that was measured.
        date: of the calibration, ``YYYY-MM-DD``.
        file: of the iteration times.
        tokens: fewest and most tokens of the iterations that alpha and beta were fitted to.
        r_squared: of that fit.
        version: of this package.
        iterations: that were measured; None in files of older versions.
        ranges: what they had; of iteration logs.
        held_out: errors on iterations that were held out; of iteration logs.
        note: what a reader should know of how they were measured.
    """

    device: str
    model: str
    engine: str
    date: str
    file: str
    tokens: tuple[float, float]
    r_squared: float
    version: str
    iterations: int | None = None
    ranges: IterationRanges | None = None
    held_out: HeldOutSummary | None = None
    note: str = ""

    @classmethod
    def from_dict(cls, data: Any, where: str) -> HardwareSource:
        """Build it from plain data; unknown or missing keys are rejected by name."""
        table = checked_table(data, cls, where)
        for key, kind in (("ranges", IterationRanges), ("held_out", HeldOutSummary)):
            if key in table:
                table[key] = kind(**checked_table(table[key], kind, f"{where} {key}"))
        return cls(**table)

    def __post_init__(self) -> None:
        for name in ("device", "model", "engine", "file", "version"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ConfigurationError(f"hardware source {name}", value, "a non-empty text")
        if not isinstance(self.note, str):
            raise ConfigurationError("hardware source note", self.note, "a text")
        require_date("hardware source date", self.date)
        _set_range(self, "tokens", "hardware source tokens")
        if not _is_real(self.r_squared) or self.r_squared > 1:
            raise ConfigurationError("hardware source r_squared", self.r_squared, "at most 1")
        if self.iterations is not None:
            check_integer(self, "iterations", "hardware source iterations", 1)


def require_date(field: str, value: object) -> None:
    """Raise ConfigurationError unless a value is the text of a day."""
    try:
        if isinstance(value, str) and _DATE.fullmatch(value) and calendar_date.fromisoformat(value):
            return
    except ValueError:
        pass
    raise ConfigurationError(field, value, "a day as a text, such as '2026-01-31'")


def _set_range(owner: Any, name: str, field: str) -> None:
    """Make a list of two numbers a tuple; raises ConfigurationError for anything else."""
    got = getattr(owner, name)
    if (
        not isinstance(got, (list, tuple))
        or len(got) != 2
        or not all(map(is_finite_number, got))
        or got[0] > got[1]
    ):
        raise ConfigurationError(field, got, "[fewest, most]")
    object.__setattr__(owner, name, tuple(got))


def _is_real(value: Any) -> bool:
    """A finite number of either sign."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and is_finite_number(abs(value))
