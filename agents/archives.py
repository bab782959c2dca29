"""Read and write zip files of JSON and arrays, within size limits and without running code."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
)
"""What reading a file from elsewhere can raise: cut, locked, nested too deep, of wrong types."""

_KINDS = "biuf"


def read_members(
    path: Path, limits: Mapping[str, int], required: Iterable[str]
) -> dict[str, bytes]:
    """The members of a zip file by name.

    Args:
        path: of the file.
        limits: the greatest size in bytes of each member that there may be.
        required: members that there must be.

    Raises:
        ValueError: for an unknown, missing or oversized member, or one that is there twice; what
            else :data:`UNREADABLE` names for a damaged file.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for name in names:
            if name not in limits:
                raise ValueError(
                    f"unknown member {name!r}, expected {', '.join(limits)}; "
                    "files of earlier versions cannot be read"
                )
        for name in required:
            if name not in names:
                raise ValueError(f"member {name!r} is missing")
        _check_sizes(archive, limits)
        return {name: archive.read(name) for name in names}


def read_arrays(source: bytes | Path, limit: int) -> dict[str, np.ndarray]:
    """The numbers of an npz file by name; never an object, which numpy would unpickle.

    Args:
        source: the file's content or its path.
        limit: the greatest size in bytes of all arrays together.

    Raises:
        ValueError: for other content; what else :data:`UNREADABLE` names for a damaged file.
    """
    file: BinaryIO = source.open("rb") if isinstance(source, Path) else io.BytesIO(source)
    with file:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if not all(name.endswith(".npy") for name in names):
                raise ValueError("an npz file holds something else than arrays")
            _check_sizes(archive, dict.fromkeys(names, limit), limit)
        file.seek(0)
        with np.load(file, allow_pickle=False) as loaded:
            arrays = dict(loaded)
    for name, array in arrays.items():
        _require_numbers(name, array)
    return arrays


def arrays_content(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An npz file of arrays of numbers; raises ValueError for others, which numpy would pickle."""
    for name, array in arrays.items():
        _require_numbers(name, array)
    content = io.BytesIO()
    named: Any = dict(arrays)
    np.savez(content, **named)
    return content.getvalue()


def _require_numbers(name: str, array: np.ndarray) -> None:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in _KINDS:
        raise ValueError(f"array {name!r} holds no numbers")


def _check_sizes(
    archive: zipfile.ZipFile, limits: Mapping[str, int], total: int | None = None
) -> None:
    """No name twice, no member larger than its limit, not more than ``total`` together."""
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise ValueError("a member is there twice")
    # No more is ever unpacked than the sizes that the file declares.
    for member in archive.infolist():
        if member.file_size > limits[member.filename]:
            raise ValueError(
                f"member {member.filename!r} of {member.file_size:,} bytes, "
                f"at most {limits[member.filename]:,} are read"
            )
    if total is not None and sum(member.file_size for member in archive.infolist()) > total:
        raise ValueError(f"arrays of more than {total:,} bytes")
