"""Which sources does a cell's result depend on? A stamp over them is part of its key.

The model as a whole, and of the studies what ``compute`` reaches by name: a figure or a sentence
can change without computing anew. Where a name could mean two things, both count.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from llm_sched_env.experiments.study import Study
from llm_sched_env.policies import POLICY_GROUP

_EXPERIMENTS = Path(__file__).parent
_PACKAGE = _EXPERIMENTS.parent
# What cannot change a row; everything else counts, so that nothing is forgotten.
_ELSEWHERE = ("commands", "experiments", "cli.py", "__main__.py", "report.py", "comparison.py")
_FRAMEWORK = (
    "cell_runs",
    "cell_store",
    "claims",
    "estimates",
    "paper_page",
    "registry",
    "row_selection",
    "source_stamp",
    "study",
    "study_files",
)
_PREFIX = "llm_sched_env.experiments."


@cache
def source_stamp(study: type[Study]) -> str:
    """SHA-256 over the model's sources and what the study's ``compute`` reaches."""
    digest = hashlib.sha256(_model_digest().encode())
    for base in study.__mro__[: study.__mro__.index(Study)]:
        digest.update(_computing_source(Path(inspect.getfile(base))).encode())
    return digest.hexdigest()


@cache
def _model_digest() -> str:
    digest = hashlib.sha256()
    for path in _model_sources():
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _model_sources() -> Iterator[Path]:
    """Instances, plans, engine, evaluation, and the folders of what registers policies."""
    for path in sorted(_PACKAGE.rglob("*.py")):
        if path.relative_to(_PACKAGE).parts[0] not in _ELSEWHERE:
            yield path
    for module in sorted({point.module for point in entry_points(group=POLICY_GROUP)}):
        spec = find_spec(module)
        if spec is not None and spec.origin is not None:
            file = Path(spec.origin)
            yield from sorted(file.parent.glob("*.py")) if "." in module else [file]


def _computing_source(path: Path) -> str:
    """The definitions of a study's file that ``compute`` reaches, and the files it shares."""
    definitions = _definitions(ast.parse(path.read_text(encoding="utf-8")))
    seen: set[str] = set()
    found, waiting = [], ["compute"]
    while waiting:
        name = waiting.pop()
        for node in definitions[name] if name not in seen else ():
            found.append(ast.dump(node))
            waiting += sorted(_names(node))
            found += [file.read_text(encoding="utf-8") for file in _shared_files(node)]
        seen.add(name)
    return "\n".join(found)


def _definitions(tree: ast.Module) -> dict[str, list[ast.AST]]:
    """What a file defines, at its top or in a class, by name."""
    definitions: dict[str, list[ast.AST]] = defaultdict(list)
    for top in tree.body:
        for node in [top, *(top.body if isinstance(top, ast.ClassDef) else ())]:
            for name in _defined(node):
                definitions[name].append(node)
    return definitions


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return sorted(name for target in targets for name in _names(target))
    return []


def _names(node: ast.AST) -> set[str]:
    """Names that are read or written anywhere in a node, attributes included."""
    inside = list(ast.walk(node))
    return {n.id for n in inside if isinstance(n, ast.Name)} | {
        n.attr for n in inside if isinstance(n, ast.Attribute)
    }


def _shared_files(node: ast.AST) -> Iterator[Path]:
    """Files of the studies, but not of their framework, that a node imports from."""
    for inside in ast.walk(node):
        if isinstance(inside, ast.ImportFrom) and str(inside.module).startswith(_PREFIX):
            module = str(inside.module).removeprefix(_PREFIX)
            if module not in _FRAMEWORK:
                yield _EXPERIMENTS / f"{module.replace('.', '/')}.py"
