"""Read and write instance and hardware files as plain tables, in JSON or TOML."""

from __future__ import annotations

import codecs
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.files.atomic import whole_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_table(path: Path, what: str = "instance file") -> Any:
    """The content of a JSON or TOML file; ``what`` names it in messages."""
    try:
        text = _text(path, what)
        require_table_suffix(path, what)
        if path.suffix == ".toml":
            return tomllib.loads(text)
        return json.loads(text, object_pairs_hook=partial(_without_duplicates, what))
    except OSError as error:
        reason = error.strerror or "check the path"
        raise ConfigurationError(what, str(path), "a readable file", reason) from None
    except ConfigurationError:
        raise
    except (ValueError, RecursionError) as error:  # what the parsers and the decoder raise
        reason = " ".join(str(error).split())
        raise ConfigurationError(what, str(path), "valid JSON or TOML", reason) from None


def _text(path: Path, what: str) -> str:
    """A file in UTF-8, with or without a byte-order mark."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigurationError(what, str(path), "text in UTF-8", "it is in UTF-16: convert it")
    return content.decode("utf-8-sig")


def write_table(table: dict[str, Any], path: Path, what: str = "instance file") -> None:
    """Write a table as JSON or TOML, whole or not at all; ``what`` names the file in messages.

    Raises:
        ConfigurationError: for another ending.
        FileError: if the file cannot be written.
    """
    require_table_suffix(path, what)
    text = tomli_w.dumps(table) if path.suffix == ".toml" else json.dumps(table, indent=2) + "\n"
    with whole_file(path) as file:
        file.write(text.encode())


def require_table_suffix(path: Path, what: str) -> None:
    """Raise ConfigurationError unless a path's ending says how its table is written."""
    if path.suffix not in (".json", ".toml"):
        raise ConfigurationError(what, str(path), "a file name that ends in .json or .toml")


def _without_duplicates(what: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no key stands twice."""
    table = dict(pairs)
    if len(table) < len(pairs):
        twice = sorted({key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1})
        raise ConfigurationError(f"{what}: keys", twice, "each key once")
    return table
