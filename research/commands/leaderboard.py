"""``python -m research leaderboard``: rank every policy on every instance of the leaderboard."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from llm_sched_env.commands.options import (
    BackendOption,
    JsonOption,
    RayAddressOption,
    WorkersOption,
    agent_files,
    messages,
    names,
    output_folder,
    print_json,
    print_lines,
    print_note,
    print_table,
    require_extra,
    will_be_kept,
)
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.reports.comparison_page import write_scores
from research.leaderboard.entrants import Agent, entrants
from research.leaderboard.grid import leaderboard_cases
from research.leaderboard.run_files import FILES, LeaderboardRun
from research.leaderboard.standings import Standings, ranking

RESULTS, QUICK_RESULTS = Path("results/leaderboard"), Path("results/leaderboard-quick")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: python -m research leaderboard --policies my_package.my_module:MyPolicy"
    )
    def leaderboard(
        out: Annotated[
            Path | None,
            typer.Option(help=f"Folder; default {RESULTS}, or {QUICK_RESULTS} with --quick."),
        ] = None,
        policies: Annotated[
            str | None,
            typer.Option(
                help="Comma-separated: registered names restrict the leaderboard to them, "
                "package.module:Name enters in addition."
            ),
        ] = None,
        agents: Annotated[
            str | None,
            typer.Option(help="Checkpoints, comma-separated: PATH, or INSTANCE=PATH for one row."),
        ] = None,
        quick: Annotated[
            bool, typer.Option("--quick", help="A few small cases, half a minute.")
        ] = False,
        jobs: WorkersOption = None,
        backend: BackendOption = "joblib",
        ray_address: RayAddressOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Every registered policy on fixed instances and sizes, on the same requests.

        An interrupted run resumes: finished parts are cached in cells/.
        """
        executor = Executor(jobs, backend, ray_address)
        require_extra("report", "matplotlib", "jinja2")
        folder = out or (QUICK_RESULTS if quick else RESULTS)
        run_leaderboard(folder, policies, agents, quick=quick, executor=executor, as_json=as_json)


def run_leaderboard(
    out: Path,
    policies: str | None,
    agents: str | None,
    *,
    quick: bool,
    executor: Executor,
    as_json: bool,
) -> None:
    """Compute what is missing, write the leaderboard, show its ranking."""
    cases = leaderboard_cases(quick=quick)
    wanted = names("--policies", policies) if policies is not None else []
    files = list(agent_files(agents, list(dict.fromkeys(case.instance.name for case in cases))))
    for file in files:
        if file.n_gpus is not None:
            raise ConfigurationError(
                "--agents", f"{file.instance}:{file.n_gpus}", "INSTANCE=PATH: all sizes are played"
            )
    competing = entrants(cases, wanted, [Agent(file.path, file.instance) for file in files])
    run = LeaderboardRun(competing, out, _command(policies, agents, quick=quick), quick)
    run.require_place()
    executor.connect()
    will_be_kept("finished parts", output_folder(out) / "cells")
    missing = run.missing()
    minutes = sum(map(run.leaderboard.cost, missing)) / 60.0
    print_note(
        f"{len(run.cells)} cells, {len(missing)} of them to compute: about {minutes:.1f} minutes "
        f"of a processor; finished ones are kept in {out / 'cells'}"
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=messages) as progress:
        task = progress.add_task("leaderboard", total=len(run.cells))
        rows = run.run(executor, lambda done: progress.update(task, completed=done))
    settings = run.leaderboard.settings(rows)
    command = _command(policies, agents, quick=quick)
    write_scores(rows, [settings], command, out / "report.html")
    table = ranking(Standings(rows))
    if as_json:
        print_json({"ranking": table, "results": rows})
    else:
        shown = [key for key in table[0] if key in {"policy", "all"} or key.startswith("n = ")]
        body = [[row[key].partition("±")[0] for key in shown] for row in table]
        print_table(shown, body, title="Mean score in % of R*")
        print_lines(settings)
    print_note(f"wrote {', '.join(FILES)}, report.html to {out}")


def _command(policies: str | None, agents: str | None, *, quick: bool) -> str:
    """What runs it again."""
    options = (("--policies", policies), ("--agents", agents))
    words = [word for option, value in options if value for word in (option, value)]
    quickly = ["--quick"] if quick else []
    return shlex.join(["python", "-m", "research", "leaderboard", *words, *quickly, "--out", "DIR"])
