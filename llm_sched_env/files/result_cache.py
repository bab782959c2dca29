"""On-disk cache of finished results: one JSON file each, written atomically.

A folder of results may come from anybody, so a file is plain data of a known format: reading it
runs no code, and what does not fit is reported, never repaired.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.files.atomic import write_whole

_FORMAT = 1
_KEYS = {"format", "kind", "of", "result"}
# A result has a few kB; what is much larger was not written here.
_MOST_BYTES = 64 * 2**20


class CachedResult(NamedTuple):
    """A finished result.

    Attributes:
        of: what it is the result of, plain data.
        result: plain data.
    """

    of: Any
    result: Any


def result_key(content: Any) -> str:
    """SHA-256 of plain data, whatever the order of its keys: the name of a result's file."""
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def store_result(file: Path, kind: str, of: Any, result: Any) -> None:
    """Keep a finished result; the file appears under its name when it is whole.

    Args:
        file: to write; its folder is made.
        kind: of result, such as ``evaluation``.
        of: what it is the result of, plain data without NaN or infinity.
        result: plain data without NaN or infinity.
    """
    content = {"format": _FORMAT, "kind": kind, "of": of, "result": result}
    write_whole(file, json.dumps(content, allow_nan=False).encode())


def read_result(file: Path, kind: str) -> CachedResult | None:
    """The result in a file, or None where there is none.

    Raises:
        ConfigurationError: for a file that :func:`store_result` did not write for this kind.
    """
    try:
        return _read(file, kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise unusable(file, kind, error) from None


def unusable(file: Path, kind: str, reason: object) -> ConfigurationError:
    """The error for a file that holds no result of this version."""
    return ConfigurationError(
        f"The cached {kind} {str(file)!r} is damaged or of another version "
        f"({' '.join(str(reason).split())}); remove the file to compute it again.",
    )


def _read(file: Path, kind: str) -> CachedResult:
    if file.stat().st_size > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
    content = json.loads(file.read_bytes(), parse_constant=_refuse)
    if not isinstance(content, dict) or content.keys() != _KEYS:
        raise ValueError(f"its keys are not {', '.join(sorted(_KEYS))}")
    if (content["format"], content["kind"]) != (_FORMAT, kind):
        raise ValueError(f"it is not of format {_FORMAT} and kind {kind!r}")
    return CachedResult(content["of"], content["result"])


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}, which is no JSON")
