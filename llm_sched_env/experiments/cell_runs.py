"""In which order, and where, are cells computed? Longest first, in processes, each once."""

from __future__ import annotations

from collections.abc import Callable

from llm_sched_env.errors import LLMSchedError, StudyError
from llm_sched_env.experiments.cell_store import CellStore
from llm_sched_env.experiments.study import Cell, Row, Study


def run_cells(
    study: Study,
    cells: list[Cell],
    store: CellStore,
    *,
    jobs: int,
    on_cell: Callable[[int], None] | None = None,
) -> list[Row]:
    """The rows of all cells in their order; only cells that are not stored are computed.

    Args:
        study: whose cells.
        cells: as :meth:`Study.cells` gives them.
        store: each cell is there as soon as it is finished, so that what is killed can go on.
        jobs: cells computed at the same time; the rows do not depend on it.
        on_cell: called with the number of finished cells, at first with those found.

    Raises:
        StudyError: if a cell cannot be computed; those that were finished stay.
    """
    from joblib import Parallel, delayed

    missing = [cell for cell in cells if store.read(study, cell) is None]
    missing.sort(key=study.cost, reverse=True)
    done = len(cells) - len(missing)
    if on_cell is not None:
        on_cell(done)
    parallel = Parallel(n_jobs=jobs, batch_size=1, return_as="generator_unordered")
    for _ in parallel(delayed(_compute)(study, cell, store) for cell in missing):
        done += 1
        if on_cell is not None:
            on_cell(done)
    # Read back also what was computed just now: rows are the same whether they were kept or not.
    return [row for cell in cells for row in _finished(study, cell, store)]


def _compute(study: Study, cell: Cell, store: CellStore) -> None:
    """Compute a cell and keep it; runs in a worker."""
    try:
        rows = study.compute(cell)
    except LLMSchedError as error:
        # Errors of this package do not all survive the way back from another process.
        raise StudyError(f"{study.name} cell {cell}: {error}") from None
    store.write(study, cell, rows)


def _finished(study: Study, cell: Cell, store: CellStore) -> list[Row]:
    rows = store.read(study, cell)
    if rows is None:
        raise StudyError(
            f"{study.name} cell {cell}: got no result in {store.folder}, allowed is one a cell; "
            "leave the folder alone during a run"
        )
    return rows
