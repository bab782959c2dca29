"""Base class of a study: cells to compute, rows, a figure, and claims checked by the rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from research.framework.claims import Findings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = dict[str, Any]
"""One independent computation as plain data (what JSON holds), everything that decides its rows."""
Row = dict[str, Any]
"""A line of the study's CSV: texts, numbers and ``None``."""


class Study(ABC):
    """A part of the paper that can be computed.

    A new one is a file in ``studies/`` with a subclass and a line in the registry. Rows depend on
    the cell alone, so that cells can run anywhere, in any order, and be kept. Kept rows are keyed
    by the cell and by the sources that ``compute`` reaches: other changes cost no computation.

    Attributes:
        name: of the command line and of the files.
        title: heading of its part of the page.
        source: sections, theorems and figures of the paper.
        names_its_policies: whether every cell holds a stamp of its policy, so that other
            registered policies do not count.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    names_its_policies: ClassVar[bool] = False

    @abstractmethod
    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """What to compute, in the order of the rows; quick: in half a minute on two cores.

        Args:
            quick: fewer and smaller cells.
            seed: of all random streams; another one shares none with it.
        """

    @abstractmethod
    def compute(self, cell: Cell) -> list[Row]:
        """The rows of a cell; runs in a process of its own."""

    def cost(self, cell: Cell) -> float:  # noqa: ARG002
        """How long a cell takes, in any unit: the longest are started first."""
        return 1.0

    @abstractmethod
    def findings(self, rows: list[Row]) -> Findings:
        """Claims with our numbers, a table and remarks."""

    @abstractmethod
    def draw(self, rows: list[Row], figure: Figure) -> None:
        """Fill an empty figure of constrained layout."""

    @abstractmethod
    def settings(self, rows: list[Row]) -> str:
        """What was computed with which parameters, in sentences, for the page."""


def seeds(seed: int, count: int) -> list[int]:
    """Seeds of the runs of a study: those of two seeds of the command line never meet."""
    if count > _RUNS_PER_SEED:
        raise ValueError(f"count: got {count}, expected at most {_RUNS_PER_SEED}")
    return [_RUNS_PER_SEED * seed + k for k in range(count)]


_RUNS_PER_SEED = 1000
