"""docs/dependencies.md gives a reason for each dependency, and for nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;~ ]", text, maxsplit=1)[0] for text in requirements}


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_package_of_the_core_has_a_reason(project, rows) -> None:
    core = {row[0].strip("`") for row in rows if len(row) == 2}
    assert core == names(project["dependencies"])
    assert all(len(row[-1]) > 10 for row in rows)


def test_every_extra_is_there_with_its_packages(project, rows) -> None:
    extras = {
        row[0].strip("`"): set(re.findall(r"`([^`]+)`", row[1])) for row in rows if len(row) == 3
    }
    assert extras == {
        name: names(given) for name, given in project["optional-dependencies"].items()
    }


def test_the_oldest_versions_on_the_page_are_those_of_the_project(project) -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    for name, shown in (("gymnasium", "Gymnasium"), ("numpy", "NumPy")):
        (given,) = [text for text in project["dependencies"] if names([text]) == {name}]
        least = re.search(r">=([\d.]+)", given)
        assert least is not None
        assert f"{shown} {least[1]} to" in page.replace("\n", " ")
    assert f"Python {project['requires-python'].removeprefix('>=')} to" in page
