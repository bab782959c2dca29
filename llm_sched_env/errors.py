"""Errors that users can cause: one line with what was got, what is expected and what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

# Sums and ratios of a few such numbers stay within the range of floats.
_GREATEST = 1e100


class LLMSchedError(ValueError):
    """Base of this package's errors; the command line prints it as one line and exits with 2.

    Example:
        >>> import llm_sched_env as lse
        >>> try:
        ...     lse.Instance.load("missing.json")
        ... except lse.LLMSchedError as error:
        ...     print(error)
        instance file: got 'missing.json', expected a readable file; No such file or directory
    """


class ConfigurationError(LLMSchedError):
    """An invalid value or combination of arguments.

    With a value the message is ``FIELD: got VALUE, expected ALLOWED; REMEDY``. Where a sentence
    says it better, for instance for two options that exclude each other, it is the only argument.

    Args:
        field: the argument or option that was set, or the whole message.
        got: its value.
        allowed: the values that are expected.
        remedy: what to do, where ``allowed`` does not say it.

    Example:
        >>> print(ConfigurationError("n_gpus", 0, "an integer >= 1"))
        n_gpus: got 0, expected an integer >= 1
    """

    def __init__(
        self, field: str, got: object = None, allowed: str | None = None, remedy: str = ""
    ) -> None:
        self.field = field
        if allowed is None:
            super().__init__(field)
            return
        shown = repr(got)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        message = f"{field}: got {' '.join(shown.split())}, expected {allowed}"
        super().__init__(f"{message}; {remedy}" if remedy else message)


def one_of(names: Iterable[str]) -> str:
    """Choices for a message, such as ``a, b or c``."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def is_finite_number(value: Any, *, positive: bool = False) -> bool:
    """Whether a value is a real number (not a bool) within the range of floats, >= 0 or > 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        number = float(value)
    except OverflowError:
        return False
    # The bounds also turn away NaN.
    return 0 <= number <= sys.float_info.max and not (positive and number == 0)


def checked_integer(field: str, value: Any, least: int = 1) -> int:
    """The value as an int; raises ConfigurationError unless it is an integer >= ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ConfigurationError(field, value, f"an integer >= {least}")
    return int(value)


def checked_numbers(field: str, values: Any) -> tuple[float, ...]:
    """A non-empty list, tuple or array of finite numbers >= 0 as plain floats, or an error."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, (list, tuple)) or not values:
        raise ConfigurationError(field, values, "a non-empty list of numbers >= 0")
    for value in values:
        if not is_finite_number(value):
            raise ConfigurationError(field, value, "finite numbers >= 0")
        if float(value) > _GREATEST:
            raise ConfigurationError(field, value, f"numbers up to {_GREATEST:g}")
    return tuple(float(value) for value in values)


class PlanError(LLMSchedError):
    """The fluid plan could not be computed or has no use (zero value, solver failure)."""


class FileError(LLMSchedError):
    """A file that cannot be read or written."""


class InsufficientMemoryError(LLMSchedError):
    """A cluster, or several, that do not fit into memory.

    Args:
        what: needs the memory.
        needed: bytes, about.
        available: bytes.
    """

    def __init__(self, what: str, needed: int, available: int) -> None:
        super().__init__(
            f"{what} need about {_bytes_text(needed)} of memory, {_bytes_text(available)} are "
            "available; take fewer GPUs, slots, jobs, replications or environments"
        )
        self._arguments = (what, needed, available)

    def __reduce__(self) -> tuple[Any, ...]:
        return InsufficientMemoryError, self._arguments


def _bytes_text(size: int) -> str:
    """A size to three digits."""
    # Sizes come from what users ask for: they may be beyond floats.
    for k, unit in enumerate(("bytes", "kB", "MB", "GB")):
        if size < 1000 ** (k + 1):
            return f"{size / 1000**k:.3g} {unit}"
    hundredths = size // 10**10
    return f"{hundredths // 100:,}.{hundredths % 100:02} TB"


class TraceError(LLMSchedError):
    """A trace file that cannot be read as a stream of requests."""


class CalibrationError(LLMSchedError):
    """Iteration times that cannot be read, or to which a law cannot be fitted."""


class CheckpointError(LLMSchedError):
    """A trained agent that cannot be loaded or does not fit the instance."""


class StudyError(LLMSchedError):
    """A cell of a study of the paper that could not be computed."""


class WorkerError(LLMSchedError):
    """A process or machine that should compute and did not."""
