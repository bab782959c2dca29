"""``llmsched compare --all``: everybody on every instance of the board."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from llm_sched_env.commands.options import (
    agent_files,
    messages,
    names,
    output_folder,
    print_json,
    print_lines,
    print_note,
    print_table,
)
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.executor import Spreading
from llm_sched_env.evaluation.report import write_page
from llm_sched_env.experiments.leaderboard.board_files import FILES, BoardRun
from llm_sched_env.experiments.leaderboard.entrants import Agent, entrants
from llm_sched_env.experiments.leaderboard.grid import board_cases
from llm_sched_env.experiments.leaderboard.standings import Standings, ranking

OPTIONS = ("out", "policies", "agents", "quick", "jobs", "backend", "ray_address", "as_json")
"""Options of ``compare`` that the board takes; the others it fixes."""
ONLY_HERE = ("quick",)
"""Options that only the board takes."""


def check_options(context: typer.Context, *, whole_board: bool) -> set[str]:
    """Names of the given options; refuses those that contradict ``--all``, or its absence."""
    given = set()
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        given.add(name)
        option, value = parameter.opts[0], context.params[name]
        if whole_board and name not in {*OPTIONS, "whole_board"}:
            raise ConfigurationError(
                option, value, "no such option beside --all", "the board fixes it: leave it out"
            )
        if not whole_board and name in ONLY_HERE:
            raise ConfigurationError(option, value, "this option beside --all only", "add --all")
    return given


def run_board(
    out: Path,
    policies: str | None,
    agents: str | None,
    *,
    quick: bool,
    spreading: Spreading,
    as_json: bool,
) -> None:
    """Compute what is missing, write the board, show its ranking."""
    cases = board_cases(quick=quick)
    wanted = names("--policies", policies) if policies is not None else []
    files = agent_files(agents, list(dict.fromkeys(case.instance.name for case in cases)))
    competing = entrants(cases, wanted, [Agent(path, only or None) for path, only in files])
    run = BoardRun(competing, out, _command(policies, agents, quick=quick), quick)
    run.require_place()
    spreading.connect()
    output_folder(out)
    missing = run.missing()
    minutes = sum(map(run.board.cost, missing)) / 60.0
    print_note(
        f"{len(run.cells)} cells, {len(missing)} of them to compute: about {minutes:.1f} minutes "
        f"of a processor; finished ones are kept in {out / 'cells'}"
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=messages) as progress:
        task = progress.add_task("leaderboard", total=len(run.cells))
        rows = run.run(spreading, lambda done: progress.update(task, completed=done))
    settings = run.board.settings(rows)
    write_page(rows, [settings], out / "report.html")
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
    return shlex.join(["llmsched", "compare", "--all", *words, *quickly, "--out", "DIR"])
