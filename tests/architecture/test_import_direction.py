"""Imports flow one way (docs/architecture.md), and heavy libraries stay where they belong."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "llm_sched_env"
# Folders of the repository and the packages that they are installed as.
FOLDERS = {
    "llm_sched_env": PACKAGE,
    "baselines": f"{PACKAGE}.baselines",
    "agents": f"{PACKAGE}.agents",
    "benchmarks": f"{PACKAGE}.benchmarks",
    # Beside the package: it runs from a clone.
    "research": "research",
}
# A part may import the parts of lower rows, and itself.
LAYERS = [
    {"errors"},
    {"files", "plugins"},
    {"model"},
    {"presets"},
    {"planning", "simulation"},
    {"exact", "workloads"},
    {"calibration", "envs"},
    {"policies"},
    {"evaluation"},
    {"bandits", "baselines", "sizing", "tasks", "validation", "watching"},
    {"adaptation", "offline", "reports"},
    {"agents", "benchmarks", "serving"},
    {"commands"},
    {"cli"},
    {"__main__"},
    {""},  # the package itself, which its rooms do not import
    {"research"},
]
# What lies in the package itself and not in one of its rooms.
LOOSE = {"__init__.py", "__main__.py", "cli.py", "errors.py", "py.typed"}
# The only upward import, made when it is called: a preset that is read from its trace files.
LATE = {("presets", "workloads")}
RANK = {part: rank for rank, row in enumerate(LAYERS) for part in row}

LEARNING = {"torch", "stable_baselines3", "sb3_contrib", "tensorboard"}
PLOTTING = {"matplotlib", "jinja2"}


class Import(NamedTuple):
    """One imported module, by whom, and whether importing the importer runs it."""

    importer: str
    imported: str
    at_import: bool
    place: str


def module_name(path: Path) -> str:
    folder, *parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join([FOLDERS[folder], *parts])


SOURCES = {
    module_name(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))
}


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def import_nodes(node: ast.AST, at_import: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Import statements below a node; those in a function do not run at import."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, at_import
        elif not is_for_type_checkers(child):
            deferred = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from import_nodes(child, at_import and not deferred)


def imported_names(node: ast.AST) -> list[str]:
    """Modules that a statement imports; ``from package import module`` names the module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    assert node.level == 0, "relative imports hide where they lead"
    candidates = [f"{node.module}.{alias.name}" for alias in node.names]
    modules = [name for name in candidates if name in SOURCES]
    return modules if len(modules) == len(candidates) else [*modules, str(node.module)]


def imports_of(module: str) -> list[Import]:
    path = SOURCES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        Import(module, name, at_import, f"{path.relative_to(ROOT)}:{node.lineno}")
        for node, at_import in import_nodes(tree)
        for name in imported_names(node)
    ]


IMPORTS = {module: imports_of(module) for module in SOURCES}
ALL_IMPORTS = [found for imports in IMPORTS.values() for found in imports]


def part_of(module: str) -> str:
    """The room or file of the package that a module belongs to; "" for the package itself."""
    return module.removeprefix(PACKAGE).lstrip(".").partition(".")[0]


def is_own(module: str) -> bool:
    return module.partition(".")[0] in {PACKAGE, "research"}


def own_imports(*importers: str) -> list[Import]:
    return [i for i in ALL_IMPORTS if is_own(i.imported) and part_of(i.importer) in importers]


def test_every_part_has_a_place_in_the_order() -> None:
    assert {part_of(module) for module in SOURCES} == RANK.keys()
    assert len(ALL_IMPORTS) > 100


def test_every_file_has_a_room() -> None:
    loose = {path.name for path in (ROOT / PACKAGE).iterdir() if path.is_file()}
    assert loose == LOOSE


def test_nothing_of_the_package_knows_the_research() -> None:
    users = {part_of(i.importer) for i in ALL_IMPORTS if part_of(i.imported) == "research"}
    assert users == {"research"}


def test_imports_flow_one_way() -> None:
    upward = [
        i.place
        for i in own_imports(*RANK)
        if (pair := (part_of(i.importer), part_of(i.imported)))[0] != pair[1]
        and RANK.get(pair[1], len(RANK)) >= RANK[pair[0]]
        and not (pair in LATE and not i.at_import)
    ]
    assert upward == []


def test_importing_the_package_imports_none_of_its_parts() -> None:
    assert [found for found in own_imports("") if found.at_import] == []


@pytest.mark.parametrize(
    ("importer", "forbidden"),
    [
        ("planning", {"simulation"}),
        ("exact", {"simulation"}),
        ("simulation", {"planning", "envs", "evaluation"}),
        ("model", {"presets", "planning", "simulation"}),
        ("evaluation", {"baselines", "agents"}),
        ("envs", {"evaluation", "baselines", "agents"}),
    ],
)
def test_no_chain_of_imports_leads_to_what_a_part_must_not_know(
    importer: str, forbidden: set[str]
) -> None:
    reached = {module for module in SOURCES if part_of(module) == importer}
    waiting = list(reached)
    while waiting:
        for found in IMPORTS[waiting.pop()]:
            packages = accumulate(found.imported.split("."), "{}.{}".format)
            new = SOURCES.keys() & set(packages) - reached if found.at_import else set()
            reached |= new
            waiting += new
    assert {part_of(module) for module in reached} & forbidden == set()


def test_learning_libraries_are_imported_only_by_what_learns() -> None:
    loaders = {
        i.importer for i in ALL_IMPORTS if i.at_import and i.imported.partition(".")[0] in LEARNING
    }
    allowed = {module for module in SOURCES if part_of(module) in {"agents", "serving"}}
    assert loaders
    assert loaders <= allowed | {f"{PACKAGE}.envs.sb3"}


def test_plotting_libraries_are_imported_only_when_something_is_drawn() -> None:
    drawing = [i for i in ALL_IMPORTS if i.imported.partition(".")[0] in PLOTTING]
    assert drawing
    assert [i.place for i in drawing if i.at_import] == []


def test_the_adapter_for_stable_baselines3_is_imported_only_by_what_learns() -> None:
    users = {i.importer for i in ALL_IMPORTS if i.imported == f"{PACKAGE}.envs.sb3"}
    assert users
    assert {part_of(module) for module in users} == {"agents"}
