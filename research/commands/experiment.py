"""``python -m research experiment``: check the paper's statements against our numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from llm_sched_env.commands.options import (
    BackendOption,
    JsonOption,
    RayAddressOption,
    SeedOption,
    WorkersOption,
    messages,
    output_folder,
    print_json,
    print_lines,
    print_note,
    print_table,
    require_extra,
    will_be_kept,
)
from llm_sched_env.errors import checked_integer
from llm_sched_env.evaluation.executor import Executor
from research.framework.claims import Findings
from research.framework.registry import STUDIES, named_studies
from research.framework.study_files import StudyRun

RESULTS, QUICK_RESULTS = Path("results/paper"), Path("results/paper-quick")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog="Example: python -m research experiment convergence --quick")
    def experiment(
        name: Annotated[
            str | None, typer.Argument(help="A study, or all; without it they are listed.")
        ] = None,
        list_studies: Annotated[
            bool, typer.Option("--list", help="List the studies and run none.")
        ] = False,
        quick: Annotated[
            bool, typer.Option("--quick", help="Reduced size, about half a minute a study.")
        ] = False,
        out: Annotated[
            Path | None,
            typer.Option(help=f"Folder; default {RESULTS}, or {QUICK_RESULTS} with --quick."),
        ] = None,
        jobs: WorkersOption = None,
        backend: BackendOption = "joblib",
        ray_address: RayAddressOption = None,
        seed: SeedOption = 0,
        as_json: JsonOption = False,
    ) -> None:
        """Compute statements of the paper: NAME.csv, NAME.png and claims in paper.md.

        An interrupted run resumes: finished parts are cached in cells/.
        """
        if name is None or list_studies:
            _list(as_json=as_json)
            return
        executor = Executor(jobs, backend, ray_address)
        checked_integer("--seed", seed, least=0)
        require_extra("report", "matplotlib")
        folder = out or (QUICK_RESULTS if quick else RESULTS)
        runs = [StudyRun(study, folder, quick, seed) for study in named_studies(name)]
        for run in runs:
            run.require_place()
        executor.connect()
        will_be_kept("finished parts", output_folder(folder) / "cells")
        found = {run.study.name: _run(run, executor, show=not as_json) for run in runs}
        if as_json:
            print_json({name: [claim.to_dict() for claim in f.claims] for name, f in found.items()})
        print_note(f"wrote CSV, figures and paper.md to {folder}")


def _list(*, as_json: bool) -> None:
    """All studies, none of them run."""
    if as_json:
        print_json({s.name: {"title": s.title, "source": s.source} for s in STUDIES})
        return
    print_table(
        ("study", "question", "where in the paper"), [(s.name, s.title, s.source) for s in STUDIES]
    )


def _run(run: StudyRun, executor: Executor, *, show: bool) -> Findings:
    """Run one study with a bar of its cells; show its claims."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=messages) as progress:
        task = progress.add_task(run.study.name, total=run.count_cells())
        findings = run.run(executor, lambda done: progress.update(task, completed=done))
    if show:
        print_table(
            ("claim", "our number", "value [95%]", "outcome"),
            [(c.statement, c.quantity, c.number(), c.outcome) for c in findings.claims],
            title=f"{run.study.title} ({run.study.source})",
        )
        print_lines(*findings.remarks)
    return findings
