"""Measured rows of a page in a CSV file of ``research/results``."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_sched_env.files.atomic import write_rows


def write_results(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows, floats in full; the columns are all that any row has, in their order."""
    write_rows(path, list(dict.fromkeys(key for row in rows for key in row)), rows)


def read_results(path: Path) -> list[dict[str, str]]:
    """The rows of a file, as texts."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
