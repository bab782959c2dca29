"""``python -m research hardware-presets``: fit the package's hardware files anew."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_sched_env.commands.options import print_lines
from llm_sched_env.errors import StudyError
from llm_sched_env.model.hardware import HardwareFile
from llm_sched_env.model.hardware_presets import hardware_path
from research.setups.hardware_presets import FITS


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog="Example: python -m research hardware-presets --check")
    def hardware_presets(
        check: Annotated[
            bool, typer.Option("--check", help="Compare with the files in place of writing them.")
        ] = False,
    ) -> None:
        """Fit the hardware files of the package to the measurements in the data folders."""
        for name, fit in FITS.items():
            path, fitted = hardware_path(name), fit()
            if not check:
                fitted.save(path)
            elif HardwareFile.load(name) != fitted:
                raise StudyError(
                    f"{path}: not what the measurements give; run `python -m research "
                    "hardware-presets` and look at the difference"
                )
            print_lines(f"{name}: {'as fitted' if check else 'written'}")
