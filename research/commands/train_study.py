"""``python -m research train-study``: compare training variants, or PPO at increasing scale."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from llm_sched_env.commands.options import (
    JsonOption,
    messages,
    output_folder,
    print_json,
    print_note,
    require_extra,
    will_be_kept,
)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        "train-study",
        epilog="Example: python -m research train-study variants --quick --out runs/variants",
    )
    def train_study(
        study: Annotated[str, typer.Argument(help="variants, scale or scratch.")],
        out: Annotated[Path, typer.Option(help="Folder of the trainings, table and figure.")],
        quick: Annotated[
            bool, typer.Option(help="A few thousand steps each: whether everything runs.")
        ] = False,
        variant: Annotated[str, typer.Option(help="What `scale` trains.")] = "ppo-residual",
        seed: Annotated[
            int, typer.Option(help="Seed of every training; of the first, where there are several.")
        ] = 0,
        as_json: JsonOption = False,
    ) -> None:
        """Train and compare; what is finished stays, what was killed goes on (extra `agents`)."""
        require_extra("agents", "torch", "stable_baselines3", "sb3_contrib")
        from research.agent_training.page import markdown_table, write_page
        from research.agent_training.seeds_page import seeds_table, write_seeds_page
        from research.agent_training.study import cells, finished_results, run_cells

        write, table = write_page, markdown_table
        if study == "scratch":
            write, table = write_seeds_page, seeds_table
        wanted = cells(study, quick=quick, seed=seed, scale_variant=variant)
        folder = output_folder(out)
        will_be_kept("finished trainings and parts of others", folder)
        with_figure = find_spec("matplotlib") is not None
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=messages) as progress:
            task = progress.add_task(study, total=len(wanted))

            def show(done: int, name: str) -> None:
                progress.update(task, completed=done, description=name)
                # The table so far.
                if done:
                    write(finished_results(wanted, folder), folder, figure=with_figure)

            results = run_cells(wanted, folder, show)
            progress.update(task, completed=len(wanted))
        written = write(results, folder, figure=with_figure)
        if as_json:
            print_json({"files": [str(file) for file in written], "results": results})
        else:
            print(table(results), end="")
            print_note(", ".join(map(str, written)))
