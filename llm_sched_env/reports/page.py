"""A report as data, and the one file that it becomes: no network, no other file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llm_sched_env.files.atomic import write_whole

_MOST_CHOICES = 40


@dataclass(frozen=True)
class Chart:
    """A figure of a page.

    Attributes:
        title: what is drawn, with its unit: the label of the vertical axis.
        svg: the drawing, as :func:`.drawing.as_svg` makes it.
        caption: what to see.
        description: the drawing in words, for those who cannot see it.
        key: numbers and names of colours that no legend explains.
    """

    title: str
    svg: str
    caption: str
    description: str
    key: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True)
class Section:
    """Charts that belong together, under a legend whose entries hide and show their series.

    Attributes:
        title: of the section.
        lead: a sentence or two below it.
        charts: in their order.
        legend: numbers and names of the series.
    """

    title: str
    lead: str
    charts: Sequence[Chart]
    legend: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and the number that it is sorted by, if it is one."""

    text: str
    value: float | None = None

    @property
    def sort_key(self) -> str:
        """What the page's script sorts by; empty for what is unknown, which comes last."""
        if self.value is None:
            return self.text
        return repr(float(self.value)) if not math.isnan(self.value) else ""


@dataclass(frozen=True)
class Table:
    """All results: a row each, which can be sorted by every column and filtered.

    Attributes:
        columns: names with units.
        rows: cells by column.
        caption: what a row is.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str

    def is_number(self, column: int) -> bool:
        """Whether a column has numbers."""
        return any(row[column].value is not None for row in self.rows)

    def choices(self, column: int) -> list[str]:
        """Texts of a column to choose from; empty for numbers, and where there is no choice."""
        if self.is_number(column):
            return []
        found = list(dict.fromkeys(row[column].text for row in self.rows))
        return found if 1 < len(found) <= _MOST_CHOICES else []


@dataclass(frozen=True)
class Report:
    """A page.

    Attributes:
        title: of the page.
        answer: in words: the first sentence stands out.
        sections: with charts.
        table: all results.
        facts: how they were made: names and texts.
        notes: what a reader must know.
    """

    title: str
    answer: Sequence[str]
    sections: Sequence[Section]
    table: Table
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str] = field(default=())


def write_report(report: Report, path: Path) -> None:
    """Write a report as one HTML file, whole or not at all.

    Args:
        report: what it says.
        path: of the file.

    Raises:
        FileError: in one line, if the file cannot be written.

    Example:
        >>> import tempfile
        >>> table = Table(["policy"], [[Cell("fcfs-immediate")]], "a policy a row")
        >>> page = Path(tempfile.mkdtemp()) / "report.html"
        >>> write_report(Report("A report", ["It works."], [], table, []), page)
        >>> page.read_text(encoding="utf-8").startswith("<!doctype html>")
        True
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent / "page"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((folder / name).read_text("utf-8") for name in ("report.css", "report.js"))
    html = environment.get_template("report.html").render(report=report, style=style, script=script)
    write_whole(path, html)
