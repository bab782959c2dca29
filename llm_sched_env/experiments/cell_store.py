"""Where do the rows of finished cells lie? One file a cell, named by what it depends on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from llm_sched_env.experiments.source_stamp import source_stamp
from llm_sched_env.experiments.study import Cell, Row, Study
from llm_sched_env.versions import versions
from llm_sched_env.whole_files import write_whole


def cell_file(folder: Path, study: Study, cell: Cell) -> Path:
    """Where a cell's rows lie once it is finished: ``STUDY/KEY.json`` in a folder of cells."""
    return folder / study.name / f"{cell_key(study, cell)}.json"


def read_rows(file: Path) -> list[Row] | None:
    """The rows of a cell, or None where it is not finished."""
    if not file.exists():
        return None
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return rows


def keep_rows(file: Path, cell: Cell, rows: list[Row]) -> None:
    """Keep a finished cell; the file appears under its name when it is whole."""
    write_whole(file, json.dumps({"cell": cell, "rows": rows}, allow_nan=False).encode())


def cell_key(study: Study, cell: Cell) -> str:
    """SHA-256 of a cell's data, of the sources that compute it and of the versions below it."""
    content = {
        "study": study.name,
        "cell": cell,
        "sources": source_stamp(type(study)),
        "versions": versions(),
    }
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
