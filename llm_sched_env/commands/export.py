"""``llmsched export``: export a checkpoint without the state needed only to resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_sched_env.commands.options import JsonOption, print_json, require_extra
from llm_sched_env.errors import ConfigurationError


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("strip", hidden=True, deprecated=True)
    @app.command(epilog="Example: llmsched export runs/a/agent.zip --out a.zip")
    def export(
        checkpoint: Annotated[Path, typer.Argument(help="What `llmsched train` wrote.")],
        out: Annotated[Path, typer.Option(help="The small file to write (.zip).")],
        as_json: JsonOption = False,
    ) -> None:
        """Write an agent as a small file: weights, normaliser, configuration, evaluations."""
        require_extra("agents", "torch", "stable_baselines3", "sb3_contrib")
        from llm_sched_env.agents.checkpoint import Checkpoint

        if out.suffix != ".zip" or not out.parent.is_dir():
            raise ConfigurationError(
                "--out", str(out), "the path of a .zip file in an existing folder"
            )
        Checkpoint.load(checkpoint).exported().save(out)
        result = {"checkpoint": str(out), "bytes": out.stat().st_size}
        if as_json:
            print_json(result)
        else:
            print(f"{out}: {result['bytes']:,} bytes")
