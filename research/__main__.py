"""``python -m research``: studies, leaderboard and trainings, from a clone of the repository."""

from __future__ import annotations

import typer

from llm_sched_env.cli import run
from research.commands import (
    experiment,
    hardware_presets,
    leaderboard,
    tasks,
    train_router,
    train_rule,
    train_study,
)

app = typer.Typer(
    help="Reproduce the studies, the leaderboard and the trainings.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (
    experiment,
    leaderboard,
    tasks,
    train_rule,
    train_router,
    train_study,
    hardware_presets,
):
    module.register(app)

if __name__ == "__main__":
    run(app, "python -m research")
