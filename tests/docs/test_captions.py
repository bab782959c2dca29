"""Every figure of the pages has a caption that says what to see, also where it is generated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from research.framework.captions import CAPTIONS, caption_line
from research.framework.registry import STUDIES

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
    *sorted((ROOT / "research" / "pages").glob("*.md")),
]
FIGURES = [
    (page, number)
    for page in PAGES
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines())
    if line.startswith("![")
]


def test_there_are_figures():
    assert len(FIGURES) > 30


@pytest.mark.parametrize(
    ("page", "number"), [pytest.param(p, n, id=f"{p.stem}-{n + 1}") for p, n in FIGURES]
)
def test_what_to_see_stands_below_a_figure(page, number):
    lines = page.read_text(encoding="utf-8").splitlines()[number + 1 :]
    below = [line for line in lines[:5] if line][:3]
    assert re.search(r"^\*.*", below[0])
    assert "What to see" in " ".join(below)
    caption = " ".join(below).partition(" ![")[0]
    assert re.search(r"\.\*(\s|$)", caption)  # the italics end


def test_every_study_has_a_caption_which_its_page_shows():
    names = [study.name for study in STUDIES]
    assert CAPTIONS.keys() == set(names)
    page = (ROOT / "docs" / "results" / "paper.md").read_text(encoding="utf-8")
    for name in names:
        assert f"](paper/{name}.png)\n{caption_line(name)}\n" in page
