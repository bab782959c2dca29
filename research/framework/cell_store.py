"""On-disk cache of run results, keyed by what each cell depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_sched_env.evaluation.versions import versions
from llm_sched_env.files.result_cache import read_result, result_key, store_result, unusable
from research.framework.source_stamp import source_stamp
from research.framework.study import Cell, Row, Study

_KIND = "study cell"


def cell_file(folder: Path, study: Study, cell: Cell) -> Path:
    """Where a cell's rows lie once it is finished: ``STUDY/KEY.json`` in a folder of cells."""
    return folder / study.name / f"{cell_key(study, cell)}.json"


def read_rows(file: Path, cell: Cell) -> list[Row] | None:
    """The rows of a cell, or None where it is not finished.

    Raises:
        ConfigurationError: for a file that is damaged, or was written for another cell.
    """
    kept = read_result(file, _KIND)
    if kept is None:
        return None
    if kept.of != cell:
        raise unusable(file, _KIND, "it is the result of another cell")
    if not isinstance(kept.result, list) or not all(map(_is_row, kept.result)):
        raise unusable(file, _KIND, "its rows are not texts, numbers and null by column")
    return kept.result


def keep_rows(file: Path, cell: Cell, rows: list[Row]) -> None:
    """Keep a finished cell; the file appears under its name when it is whole."""
    store_result(file, _KIND, cell, rows)


def cell_key(study: Study, cell: Cell) -> str:
    """SHA-256 of a cell's data, of the sources that compute it and of the versions below it."""
    return result_key(
        {
            "study": study.name,
            "cell": cell,
            "sources": source_stamp(type(study)),
            "versions": versions(),
        }
    )


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and all(
        value is None or isinstance(value, (str, int, float)) for value in row.values()
    )
