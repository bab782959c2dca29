"""``python -m research tasks``: every policy on the held-out runs of the tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from llm_sched_env.commands.options import (
    BackendOption,
    JsonOption,
    RayAddressOption,
    WorkersOption,
    messages,
    names,
    output_folder,
    print_json,
    print_note,
    print_table,
    require_extra,
)
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.versions import versions
from llm_sched_env.files.atomic import save_figure, write_whole
from llm_sched_env.tasks import TASKS
from research.framework.cell_runs import run_cells
from research.framework.study_files import csv_bytes
from research.tasks.entrants import Given, entrants
from research.tasks.leaderboard_page import leaderboard_page
from research.tasks.standings import TaskStandings, headroom_table
from research.tasks.study import TaskStudy, present_tasks

RESULTS = Path("results/tasks")
COMMAND = "python -m research tasks"
FILES = ("results.csv", "tasks.md", "tasks.png")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        "tasks",
        epilog="Example: python -m research tasks --tasks Bursts --enter my_package.my_module:My",
    )
    def tasks_command(
        out: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
        tasks: Annotated[
            str | None, typer.Option(help="Comma-separated names of tasks [all].")
        ] = None,
        enter: Annotated[
            str | None,
            typer.Option(
                help="Policies that enter, comma-separated: package.module:Name or a checkpoint; "
                "TASK=... enters one task. Names that differ in a number at the end are seeds."
            ),
        ] = None,
        quick: Annotated[bool, typer.Option("--quick", help="Two runs of each.")] = False,
        jobs: WorkersOption = None,
        backend: BackendOption = "joblib",
        ray_address: RayAddressOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Headroom of the tasks, and who closes it; finished parts are kept in cells/."""
        executor = Executor(jobs, backend, ray_address)
        require_extra("report", "matplotlib")
        chosen, absent = present_tasks(names("--tasks", tasks) if tasks else ())
        for line in absent:
            print_note(f"left out, {line}")
        given = [_given(item) for item in names("--enter", enter)] if enter else []
        study = TaskStudy(entrants(chosen, given))
        cells = study.cells(quick=quick)
        executor.connect()
        folder = output_folder(out)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=messages) as progress:
            shown = progress.add_task("tasks", total=len(cells))
            rows = run_cells(
                study,
                cells,
                folder / "cells",
                executor=executor,
                on_cell=lambda done: progress.update(shown, completed=done),
            )
        standings = TaskStandings(rows)
        write_whole(folder / "results.csv", csv_bytes(rows))
        write_whole(folder / "tasks.md", leaderboard_page(standings, versions(), COMMAND))
        _write_figure(study, rows, folder / "tasks.png")
        table = headroom_table(standings)
        if as_json:
            print_json({"headroom": table, "results": rows})
        else:
            print_table(list(table[0]), [list(row.values()) for row in table], title="% of bounds")
        print_note(f"wrote {', '.join(FILES)} to {folder}")


def _given(item: str) -> Given:
    """``TASK=POLICY``, or a policy for all tasks."""
    task, separator, policy = item.partition("=")
    return Given(policy, task) if separator and task in TASKS else Given(item)


def _write_figure(study: TaskStudy, rows: list[dict[str, object]], path: Path) -> None:
    """As PNG without a mark of the library's version: same rows, same bytes."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    study.draw(rows, figure)
    save_figure(figure, path, dpi=90, metadata={"Software": None})
