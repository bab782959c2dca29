"""Write the files of a leaderboard run: rows, differences, pages and a figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.versions import versions
from llm_sched_env.files.atomic import save_figure, write_whole
from llm_sched_env.policies.registry import registered_policies
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from research.framework.cell_runs import run_cells
from research.framework.cell_store import cell_file
from research.framework.study import Cell, Row
from research.framework.study_files import csv_bytes
from research.leaderboard.differences import Differences, difference_rows
from research.leaderboard.entrants import Entrant
from research.leaderboard.leaderboard import Leaderboard
from research.leaderboard.ranking_page import FULL, page, ranking_text
from research.leaderboard.standings import Standings

FILES = ("results.csv", "differences.csv", "ranking.md", "leaderboard.md", "leaderboard.png")


@dataclass(frozen=True)
class LeaderboardRun:
    """The leaderboard run into a folder.

    Args:
        competing: entrants.
        folder: gets :data:`FILES` and the finished cells, ``cells/``.
        command: that runs it again.
        quick: a few small cases.
    """

    competing: Sequence[Entrant]
    folder: Path
    command: str
    quick: bool = False

    @cached_property
    def leaderboard(self) -> Leaderboard:
        """The study."""
        return Leaderboard(self.competing)

    @cached_property
    def cells(self) -> list[Cell]:
        """All of them, finished or not."""
        return self.leaderboard.cells(quick=self.quick)

    def require_place(self) -> None:
        """Refuse to put a quick leaderboard in the place of a full one.

        Raises:
            ConfigurationError: if the folder has one.
        """
        kept = self.folder / "leaderboard.md"
        if self.quick and kept.exists() and kept.read_text(encoding="utf-8").startswith(FULL):
            raise ConfigurationError(
                f"The folder {str(self.folder)!r} (`--out`) has a full leaderboard, "
                "which `--quick` would replace; choose another folder."
            )

    def missing(self) -> list[Cell]:
        """Cells that are to be computed."""
        store = self.folder / "cells"
        return [
            cell for cell in self.cells if not cell_file(store, self.leaderboard, cell).exists()
        ]

    def run(self, executor: Executor, on_cell: Callable[[int], None] | None = None) -> list[Row]:
        """Compute what is not stored, then write every file; returns the rows."""
        store = self.folder / "cells"
        rows = run_cells(self.leaderboard, self.cells, store, executor=executor, on_cell=on_cell)
        standings = Standings(rows)
        rules = [entrant.label for entrant in self.competing if entrant.is_rule]
        challengers = [p for p in standings.policies if p not in rules]
        differences = Differences(standings, rules)
        # Policies in Python may stay away: their decisions take milliseconds each.
        compiled = (
            name
            for name, entry in registered_policies().items()
            if isinstance(entry.make(), DispatchRule)
        )
        everybody = set(compiled)
        text = page(
            standings,
            differences,
            challengers,
            self.leaderboard.settings(rows),
            versions(),
            self.command,
            publishable=not self.quick and everybody <= {*standings.policies},
        )
        compared = difference_rows(differences, standings)
        contents: tuple[bytes | str, ...] = (
            csv_bytes(rows),
            csv_bytes(compared),
            f"{ranking_text(standings, versions())}\n",
            text,
        )
        *texts, figure = FILES
        for name, content in zip(texts, contents, strict=True):
            write_whole(self.folder / name, content)
        self._write_figure(rows, self.folder / figure)
        return rows

    def _write_figure(self, rows: list[Row], path: Path) -> None:
        """As PNG without a mark of the library's version: same rows, same bytes."""
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        self.leaderboard.draw(rows, figure)
        save_figure(figure, path, dpi=90, metadata={"Software": None})
