"""What a command left in a folder, without the seconds that it took."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

# What a clock or a processor tells, in results, trainings and rules.
CLOCKS = {
    "seconds",
    "wall_seconds",
    "simulation_seconds",
    "cpu_seconds",
    "decision_milliseconds",
    "events_per_second",
}


def folder_content(folder: Path) -> dict[str, Any]:
    """Files by their names: bytes, or of JSON, arrays and archives what is in them."""
    return {
        path.relative_to(folder).as_posix(): _without_clocks(path.suffix, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".part"
    }


def parts(folder: Path) -> list[Path]:
    """Files that nobody ended."""
    return list(folder.rglob("*.part"))


def _without_clocks(suffix: str, content: bytes) -> Any:
    """Raises for a file of which a part is missing."""
    if suffix == ".json":
        return _plain(json.loads(content))
    if suffix in {".zip", ".npz"}:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {
                name: _without_clocks(Path(name).suffix, archive.read(name))
                for name in archive.namelist()
                if Path(name).stem not in CLOCKS
            }
    if suffix == ".npy":
        return np.load(io.BytesIO(content), allow_pickle=False).tobytes()
    if suffix == ".csv":
        header, *rows = content.decode().split("\n")
        kept = [k for k, name in enumerate(header.split(",")) if name not in CLOCKS]
        if len(kept) < header.count(",") + 1:
            return [[cells[k] for k in kept] for row in rows if (cells := row.split(","))[0]]
    return content


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items() if key not in CLOCKS}
    return [_plain(value) for value in data] if isinstance(data, list) else data
