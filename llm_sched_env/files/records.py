"""Convert typed records to plain data and back, without loss and checked by annotations.

Floats come back to the last bit; those that JSON lacks are the texts ``nan``, ``inf`` and ``-inf``.
"""

from __future__ import annotations

import dataclasses
import math
import types
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_DTYPES = ("float64", "float32", "int64", "int32", "uint64", "bool")
_ARRAY_KEYS = {"dtype", "shape", "values"}
_INTEGERS_BELOW = 2**64


def to_plain(kind: Any, value: Any) -> Any:
    """A value as JSON holds it.

    Args:
        kind: its annotation: a dataclass, ``float``, ``int``, ``bool``, ``str``, ``numpy.ndarray``,
            a union with None, or ``tuple``, ``list`` or ``dict`` with text keys of those.
        value: of that kind.

    Raises:
        TypeError: for a value of another kind.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, kind):
        return {name: to_plain(k, getattr(value, name)) for name, k in _fields(kind).items()}
    if _is_array(kind) and isinstance(value, np.ndarray) and value.dtype.name in _DTYPES:
        item = _item_kind(value.dtype.name)
        values = [to_plain(item, v) for v in value.ravel().tolist()]
        return {"dtype": value.dtype.name, "shape": list(value.shape), "values": values}
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else to_plain(_other_than_none(parts), value)
    if origin is dict and isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {name: to_plain(parts[1], item) for name, item in value.items()}
    if origin in (tuple, list) and isinstance(value, origin):
        kinds = _item_kinds(kind, len(value))
        return [to_plain(k, item) for k, item in zip(kinds, value, strict=True)]
    return _plain_scalar(kind, value)


def from_plain(kind: Any, data: Any, where: str = "record") -> Any:
    """The value that :func:`to_plain` made plain data of.

    Args:
        kind: its annotation.
        data: from JSON.
        where: in the record, for messages.

    Raises:
        ValueError: for data that is not of this kind, one line.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _record(kind, data, where)
    if _is_array(kind):
        return _array(data, where)
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if data is None else from_plain(_other_than_none(parts), data, where)
    if origin is dict and isinstance(data, dict):
        return {name: from_plain(parts[1], v, f"{where}.{name}") for name, v in data.items()}
    if origin in (tuple, list) and isinstance(data, list):
        try:
            kinds = _item_kinds(kind, len(data))
        except TypeError as error:
            raise ValueError(f"{where}: {error}") from None
        pairs = enumerate(zip(kinds, data, strict=True))
        return origin(from_plain(k, v, f"{where}[{i}]") for i, (k, v) in pairs)
    return _scalar(kind, data, where)


def _record(kind: type, data: Any, where: str) -> Any:
    fields = _fields(kind)
    if not isinstance(data, dict) or data.keys() != fields.keys():
        found = sorted(map(str, data)) if isinstance(data, dict) else _shown(data)
        raise ValueError(f"{where}: got {found}, expected the fields of {kind.__name__}")
    return kind(
        **{name: from_plain(k, data[name], f"{where}.{name}") for name, k in fields.items()}
    )


def _array(data: Any, where: str) -> np.ndarray:
    if not isinstance(data, dict) or data.keys() != _ARRAY_KEYS or data["dtype"] not in _DTYPES:
        raise ValueError(f"{where}: got {_shown(data)}, expected dtype, shape and values")
    shape, values = (from_plain(list[int], data["shape"], where), data["values"])
    if not isinstance(values, list) or min(shape, default=0) < 0 or math.prod(shape) != len(values):
        raise ValueError(f"{where}: got other than {math.prod(shape)} values for shape {shape}")
    item = _item_kind(data["dtype"])
    try:
        flat = np.array([_scalar(item, v, where) for v in values], data["dtype"])
    except OverflowError as error:
        raise ValueError(f"{where}: {error}") from None
    return flat.reshape(shape)


def _plain_scalar(kind: Any, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if not _is_scalar(kind, value):
        raise TypeError(f"got {_shown(value)}, expected {_shown_kind(kind)}")
    # numpy's float64 is a float, but not what JSON gives back.
    return float(value) if isinstance(value, float) else value


def _scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is float and isinstance(data, str) and data in _SPECIAL:
        return _SPECIAL[data]
    if not _is_scalar(kind, data) or not _is_number_of_arrays(data):
        raise ValueError(f"{where}: got {_shown(data)}, expected {_shown_kind(kind)}")
    return data


def _is_scalar(kind: Any, value: Any) -> bool:
    """Whether a value is of a kind; a whole number is also a float, as in Python's typing."""
    if kind in (float, int) and isinstance(value, bool):
        return False
    return kind in (float, int, bool, str) and isinstance(
        value, (float, int) if kind is float else kind
    )


def _is_number_of_arrays(data: Any) -> bool:
    """False for numbers that JSON can spell and no array holds: 1e999, integers of 500 digits."""
    if isinstance(data, float):
        return math.isfinite(data)
    return not isinstance(data, int) or abs(data) < _INTEGERS_BELOW


def _item_kinds(kind: Any, length: int) -> list[Any]:
    """The kinds of the items of a tuple or list."""
    parts = get_args(kind)
    if get_origin(kind) is list or parts[1:] == (Ellipsis,):
        return [parts[0]] * length
    if len(parts) != length:
        raise TypeError(f"got {length} items, expected {len(parts)}")
    return list(parts)


def _item_kind(dtype: str) -> type:
    return bool if dtype == "bool" else float if dtype.startswith("float") else int


def _other_than_none(parts: tuple[Any, ...]) -> Any:
    kinds = [part for part in parts if part is not type(None)]
    if len(kinds) != 1:
        raise TypeError(f"got a union of {len(kinds)} kinds, expected one and None")
    return kinds[0]


def _is_array(kind: Any) -> bool:
    return kind is np.ndarray or get_origin(kind) is np.ndarray


@cache
def _fields(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass with their annotations."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _shown_kind(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)
