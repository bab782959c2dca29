"""Where do the rows of finished cells lie? One file a cell, named by what it depends on."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from llm_sched_env.experiments.source_stamp import source_stamp
from llm_sched_env.experiments.study import Cell, Row, Study

_PACKAGES = ("llm-sched-env", "numpy", "numba", "scipy")


@dataclass(frozen=True)
class CellStore:
    """Finished cells in a folder; ``STUDY/KEY.json`` each."""

    folder: Path

    def read(self, study: Study, cell: Cell) -> list[Row] | None:
        """The rows of a cell, or None where it is not finished."""
        path = self._path(study, cell)
        if not path.exists():
            return None
        rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return rows

    def write(self, study: Study, cell: Cell, rows: list[Row]) -> None:
        """Keep a finished cell; the file appears under its name when it is whole."""
        path = self._path(study, cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"cell": cell, "rows": rows}, allow_nan=False)
        write_whole(path, text.encode())

    def _path(self, study: Study, cell: Cell) -> Path:
        return self.folder / study.name / f"{cell_key(study, cell)}.json"


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


def versions() -> dict[str, str]:
    """The versions that a published number names."""
    return {name: version(name) for name in _PACKAGES}


def write_whole(path: Path, content: bytes) -> None:
    """Write a side file and rename it: whoever looks finds the old content or the new one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
