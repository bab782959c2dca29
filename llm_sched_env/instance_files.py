"""Instance files as plain tables: JSON and TOML, every failure one clear line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tomli_w

from llm_sched_env.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FIELD = "instance file"


def read_table(path: Path) -> Any:
    """The content of a JSON or TOML file."""
    try:
        text = path.read_text(encoding="utf-8")
        _require_suffix(path)
        if path.suffix == ".toml":
            return tomllib.loads(text)
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except OSError as error:
        reason = error.strerror or "check the path"
        raise ConfigurationError(_FIELD, str(path), "a readable file", reason) from None
    except ConfigurationError:
        raise
    except (ValueError, RecursionError) as error:  # what the parsers and the decoder raise
        reason = " ".join(str(error).split())
        raise ConfigurationError(_FIELD, str(path), "valid JSON or TOML", reason) from None


def write_table(table: dict[str, Any], path: Path) -> None:
    """Write a table as JSON or TOML."""
    _require_suffix(path)
    text = tomli_w.dumps(table) if path.suffix == ".toml" else json.dumps(table, indent=2) + "\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or "check the path"
        raise ConfigurationError(_FIELD, str(path), "a path that can be written", reason) from None


def _require_suffix(path: Path) -> None:
    if path.suffix not in (".json", ".toml"):
        raise ConfigurationError(_FIELD, str(path), "a name in .json or .toml")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no key stands twice."""
    table = dict(pairs)
    if len(table) < len(pairs):
        twice = sorted({key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1})
        raise ConfigurationError(f"{_FIELD}: keys", twice, "each key once")
    return table
