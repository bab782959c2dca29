"""Parse the column names in the first line of a trace file."""

from __future__ import annotations

import csv
import json
from typing import Any


def is_json(text: str) -> bool:
    """Whether a first line is meant as JSON lines."""
    return text.startswith("{")


def header_names(text: str) -> list[str]:
    """The columns of a CSV header or the keys of an object, as often as they stand there.

    [] for a line that is neither.
    """
    return _json_names(text) if is_json(text) else csv_names(text)


def csv_names(text: str, separator: str = ",") -> list[str]:
    """The fields of a CSV line; [] if it is none."""
    try:
        rows = csv.reader([text], delimiter=separator, strict=True)
        return [name.strip() for row in rows for name in row]
    except csv.Error:
        return []


def _json_names(text: str) -> list[str]:
    try:
        pairs: Any = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return []
    return [name for name, _ in pairs]
