"""Write the files of a study: rows as CSV, a figure, its part of the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.versions import versions
from llm_sched_env.files.atomic import save_figure, write_whole
from research.framework.cell_runs import run_cells
from research.framework.claims import Findings
from research.framework.paper_page import (
    INTRODUCTION,
    Run,
    is_quick,
    paragraph,
    parts,
    with_paragraph,
)
from research.framework.registry import STUDIES
from research.framework.source_stamp import source_stamp
from research.framework.study import Cell, Row, Study

PAGE = "paper.md"
# More kinds of runs are told as a range.
_MOST_TIMES = 3


@dataclass(frozen=True)
class StudyRun:
    """A study run into a folder.

    Args:
        study: what to run.
        folder: gets ``NAME.csv``, ``NAME.png``, ``paper.md`` and the finished cells, ``cells/``.
        quick: at reduced size.
        seed: of all random streams.
    """

    study: Study
    folder: Path
    quick: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        # Before a long run, in which sources may be edited: the stamp is of the code that runs.
        source_stamp(type(self.study))

    @property
    def command(self) -> str:
        """What runs it again."""
        quick = " --quick" if self.quick else ""
        return f"python -m research experiment {self.study.name}{quick} --seed {self.seed}"

    def count_cells(self) -> int:
        """How many cells the study has."""
        return len(self.study.cells(quick=self.quick, seed=self.seed))

    def require_place(self) -> None:
        """Refuse to put a quick result in the place of a full one.

        Raises:
            ConfigurationError: if the folder's page has one.
        """
        kept = parts(_page(self.folder)).get(self.study.name)
        if self.quick and kept is not None and not is_quick(kept):
            raise ConfigurationError(
                f"The folder {str(self.folder)!r} (`--out`) has a full result of "
                f"{self.study.name}, which `--quick` would replace; choose another folder."
            )

    def run(self, executor: Executor, on_cell: Callable[[int], None] | None = None) -> Findings:
        """Compute what is not stored, then write every file."""
        cells = self.study.cells(quick=self.quick, seed=self.seed)
        folder = self.folder / "cells"
        rows = run_cells(self.study, cells, folder, executor=executor, on_cell=on_cell)
        findings = self.study.findings(rows)
        name = self.study.name
        write_whole(self.folder / f"{name}.csv", csv_bytes(rows))
        _write_figure(self.study, rows, self.folder / f"{name}.png")
        run = Run(self.quick, self.seed, self.command, _simulated_times(cells), versions())
        text = paragraph(self.study, rows, findings, run)
        order = [study.name for study in STUDIES]
        page = with_paragraph(_page(self.folder), name, text, order)
        write_whole(self.folder / PAGE, page)
        return findings


def csv_bytes(rows: list[Row]) -> bytes:
    """Rows under the union of their keys; floats in full, so that files can be compared."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _simulated_times(cells: list[Cell]) -> str:
    """Length and warm-up of the runs, of cells that are simulations; empty for others."""
    sizes: dict[tuple[float, float], list[int]] = {}
    for cell in cells:
        if "horizon" in cell:
            sizes.setdefault((cell["horizon"], cell["warmup"]), []).append(cell["n_gpus"])
    if len(sizes) > _MOST_TIMES:
        horizons, warmups = zip(*sizes, strict=True)
        return (
            f"Runs of {min(horizons):g} to {max(horizons):g} s, of which {min(warmups):g} to "
            f"{max(warmups):g} s are warm-up."
        )
    runs = [
        f"{horizon:g} s, {warmup:g} s of them warm-up"
        + (f" (n = {min(found)} to {max(found)})" if len(sizes) > 1 else "")
        for (horizon, warmup), found in sizes.items()
    ]
    return f"Runs of {'; '.join(runs)}." if runs else ""


def _page(folder: Path) -> str:
    path = folder / PAGE
    return path.read_text(encoding="utf-8") if path.exists() else INTRODUCTION


def _write_figure(study: Study, rows: list[Row], path: Path) -> None:
    """The figure as PNG without a mark of the library's version: same rows, same bytes."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    study.draw(rows, figure)
    save_figure(figure, path, dpi=90, metadata={"Software": None})
