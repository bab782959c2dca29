"""``llmsched profile``: measure a decoder on this machine and fit its hardware."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from llm_sched_env.commands.options import SeedOption, print_note, require_extra
from llm_sched_env.errors import ConfigurationError, is_finite_number


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched profile --shape llama3-8b --device cuda --batch-slots 32 "
        "--chunk-tokens 512 --out h100"
    )
    def profile(
        out: Annotated[Path, typer.Option(help="Folder for log, hardware file, figure and page.")],
        shape: Annotated[
            str, typer.Option(help="llama3-8b, qwen3-4b, tiny, or a config.json.")
        ] = "llama3-8b",
        device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda",
        batch_slots: Annotated[int, typer.Option(help="B.")] = 32,
        chunk_tokens: Annotated[int, typer.Option(help="C.")] = 512,
        tokens: Annotated[int, typer.Option(help="Longest request, prompt and output.")] = 4096,
        seconds: Annotated[float, typer.Option(help="To measure for.")] = 110.0,
        clock: Annotated[
            str,
            typer.Option(help="wall; or processor, for one engine on a CPU that others use."),
        ] = "wall",
        seed: SeedOption = 0,
    ) -> None:
        """Measure iterations of a decoder with random weights and fit the KV-aware law."""
        require_extra("serving", "torch")
        require_extra("serving", "matplotlib")
        if not is_finite_number(seconds, positive=True):
            raise ConfigurationError("seconds", seconds, "a finite number of seconds > 0")
        from llm_sched_env.serving.profiling import profile as measure

        with Progress(console=Console(file=sys.stderr), transient=True) as bar:
            task = bar.add_task(f"{shape} on {device}", total=1.0)
            found = measure(
                shape,
                device,
                out,
                batch_slots=batch_slots,
                chunk_tokens=chunk_tokens,
                tokens=tokens,
                seconds=seconds,
                seed=seed,
                clock=clock,
                progress=lambda share: bar.update(task, completed=share),
            )
        for note in found.calibration.notes():
            print_note(note)
        names = ("grid.csv", "loads.csv", "hardware.toml", "fit.png", "profile.md")
        print_note(f"wrote {', '.join(str(out / name) for name in names)}")
        print((out / "profile.md").read_text(encoding="utf-8"))
