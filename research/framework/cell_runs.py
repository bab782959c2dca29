"""Run and cache the cells of a study, longest first, each once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from llm_sched_env.errors import LLMSchedError, StudyError
from llm_sched_env.evaluation.executor import Executor
from research.framework.cell_store import cell_file, keep_rows, read_rows
from research.framework.study import Cell, Row, Study


def run_cells(
    study: Study,
    cells: list[Cell],
    folder: Path,
    *,
    executor: Executor,
    on_cell: Callable[[int], None] | None = None,
) -> list[Row]:
    """The rows of all cells in their order; only cells that are not finished are computed.

    Args:
        study: whose cells.
        cells: as :meth:`Study.cells` gives them.
        folder: of finished cells; each is there at once, so that what is killed can go on.
        executor: where cells are computed; the rows do not depend on it.
        on_cell: called with the number of finished cells, at first with those found.

    Raises:
        StudyError: if a cell cannot be computed; those that were finished stay.
        ConfigurationError: if a file of a finished cell is damaged; nothing has run then.
    """
    # Found here, not in the workers: sources may be edited during a long run.
    files = [cell_file(folder, study, cell) for cell in cells]
    kept = [read_rows(file, cell) for cell, file in zip(cells, files, strict=True)]
    missing = [(cells[k], files[k]) for k, rows in enumerate(kept) if rows is None]
    missing.sort(key=lambda pair: study.cost(pair[0]), reverse=True)
    done = len(cells) - len(missing)
    if on_cell is not None:
        on_cell(done)
    for k, rows in executor.run(partial(_compute, study), [cell for cell, _ in missing]):
        # Stored here and not by the worker: other machines may have other disks.
        cell, file = missing[k]
        keep_rows(file, cell, rows)
        done += 1
        if on_cell is not None:
            on_cell(done)
    # Read back also what was computed just now: rows are the same whether they were kept or not.
    return [
        row
        for cell, file, rows in zip(cells, files, kept, strict=True)
        for row in (_finished(file, cell) if rows is None else rows)
    ]


def _compute(study: Study, cell: Cell) -> list[Row]:
    """The rows of a cell; runs in a worker."""
    try:
        return study.compute(cell)
    except LLMSchedError as error:
        raise StudyError(f"{study.name} cell {cell}: {error}") from None


def _finished(file: Path, cell: Cell) -> list[Row]:
    rows = read_rows(file, cell)
    if rows is None:
        raise StudyError(f"{file}: got no finished cell; leave the folder alone during a run")
    return rows
