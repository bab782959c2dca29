"""Provenance of a hardware's numbers: where they were measured (docs/calibration.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date as calendar_date

from llm_sched_env.errors import ConfigurationError, is_finite_number

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


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
    """

    device: str
    model: str
    engine: str
    date: str
    file: str
    tokens: tuple[float, float]
    r_squared: float
    version: str

    def __post_init__(self) -> None:
        for name in ("device", "model", "engine", "file", "version"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ConfigurationError(f"hardware source {name}", value, "a non-empty text")
        require_date("hardware source date", self.date)
        tokens = self.tokens
        if (
            not isinstance(tokens, (list, tuple))
            or len(tokens) != 2
            or not all(map(is_finite_number, tokens))
            or tokens[0] > tokens[1]
        ):
            raise ConfigurationError("hardware source tokens", tokens, "[fewest, most]")
        object.__setattr__(self, "tokens", tuple(tokens))
        if not is_finite_number(self.r_squared) or self.r_squared > 1:
            raise ConfigurationError("hardware source r_squared", self.r_squared, "0 to 1")


def require_date(field: str, value: object) -> None:
    """Raise ConfigurationError unless a value is the text of a day."""
    try:
        if isinstance(value, str) and _DATE.fullmatch(value) and calendar_date.fromisoformat(value):
            return
    except ValueError:
        pass
    raise ConfigurationError(field, value, "a day as a text, such as '2026-01-31'")
