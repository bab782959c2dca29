"""Frozen dataclasses as plain tables of instance files, and tables checked against them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, is_finite_number

_LARGEST_INTEGER = 10**9


def check_number(
    owner: Any, name: str, field: str, *, positive: bool = False, remedy: str = ""
) -> None:
    """Reject anything but a finite real number >= 0 (or > 0); a NumPy scalar becomes plain."""
    got = _plain(owner, name)
    allowed = "a finite number > 0" if positive else "a finite number >= 0"
    if not is_finite_number(got, positive=positive):
        raise ConfigurationError(field, got, allowed, remedy)


def check_integer(owner: Any, name: str, field: str, least: int, remedy: str = "") -> None:
    """Reject anything but an integer >= ``least``; a NumPy scalar becomes plain."""
    got = _plain(owner, name)
    numeric = isinstance(got, int) and not isinstance(got, bool)
    if not numeric or not least <= got <= _LARGEST_INTEGER:
        raise ConfigurationError(field, got, f"an integer >= {least} and <= 10^9", remedy)


def _plain(owner: Any, name: str) -> Any:
    """The attribute as plain Python data, stored back on the frozen owner."""
    got = getattr(owner, name)
    if isinstance(got, np.generic):
        got = got.item()
        object.__setattr__(owner, name, got)
    return got


def plain_table(owner: Any) -> dict[str, Any]:
    """A dataclass as plain data, without optional fields that have their default."""
    table = {}
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if field.default is not dataclasses.MISSING and value == field.default:
            continue
        table[field.name] = _plain_value(value)
    return table


def _plain_value(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return plain_table(value)
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    return value


def checked_table(
    data: Any,
    cls: type,
    where: str,
    *,
    hidden: Collection[str] = (),
    required: Collection[str] = (),
) -> dict[str, Any]:
    """The mapping as keyword arguments of a dataclass: every key known, none missing.

    Fields without a default are required, and those of ``required``; messages do not offer the
    ``hidden`` ones.
    """
    fields = dataclasses.fields(cls)
    allowed = [f.name for f in fields if f.name not in hidden]
    if not isinstance(data, Mapping):
        raise ConfigurationError(where, data, f"a table with the keys {', '.join(allowed)}")
    for key in data:
        if key not in allowed and key not in hidden:
            raise ConfigurationError(
                f"{where}: unknown key", key, ", ".join(allowed), "remove it or correct its name"
            )
    for field in fields:
        key = field.name
        needed = field.default is dataclasses.MISSING or key in required
        if needed and key not in data:
            raise ConfigurationError(
                f"{where}: missing key {key!r}, keys",
                sorted(str(k) for k in data if k not in hidden),
                ", ".join(allowed),
            )
    return dict(data)
