"""``python -m research train-router``: train the network of a router on a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from llm_sched_env.commands.options import messages, output_folder
from llm_sched_env.errors import ConfigurationError, checked_integer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        "train-router",
        epilog="Example: python -m research train-router --task SessionRouting --out runs/router",
    )
    def train_router_command(
        out: Annotated[
            Path, typer.Option(help="Folder of the run; the router is router.json in it.")
        ],
        task: Annotated[str, typer.Option(help="Task that routes arrivals.")] = "SessionRouting",
        generations: Annotated[int, typer.Option(help="Steps of the evolution strategy.")] = 60,
        seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    ) -> None:
        """Train a router by evolution; runs are side by side in one batch of clusters."""
        from llm_sched_env.tasks import task as find_task
        from llm_sched_env.tasks.task import ROUTING
        from research.router_training.trainer import RouterTraining, train_router

        chosen = find_task(task)
        if chosen.environment != ROUTING:
            raise ConfigurationError("--task", task, "a task that routes arrivals")
        settings = RouterTraining(
            chosen.name,
            generations=checked_integer("--generations", generations),
            seed=checked_integer("--seed", seed, 0),
        )
        columns = (
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}, {task.fields[shown]}"),
            BarColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=messages) as progress:
            line = progress.add_task("", total=generations, shown="")

            def show(row: dict[str, float]) -> None:
                progress.update(line, completed=row["generation"])
                if "gain" in row:
                    gain = f"gain {100 * row['gain']:+.2f}±{196 * row['gain_error']:.2f} % of R*"
                    progress.update(line, shown=gain)

            path = train_router(settings, chosen, output_folder(out), show)
        print(f"{path}: {generations} generations")
