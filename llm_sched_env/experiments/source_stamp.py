"""Which sources does a cell's result depend on? A stamp over them is part of its key."""

from __future__ import annotations

import ast
import hashlib
import inspect
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
    "cell_runs.py",
    "cell_store.py",
    "claims.py",
    "estimates.py",
    "paper_page.py",
    "registry.py",
    "row_selection.py",
    "source_stamp.py",
    "study.py",
    "study_files.py",
)
_PRESENTING = ("findings", "draw", "settings")


@cache
def source_stamp(study: type[Study]) -> str:
    """SHA-256 over the model's sources and the part of the study's file that computes."""
    digest = hashlib.sha256(_model_digest().encode())
    digest.update(_computing_source(Path(inspect.getfile(study))).encode())
    return digest.hexdigest()


@cache
def _model_digest() -> str:
    digest = hashlib.sha256()
    for path in _model_sources():
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _model_sources() -> Iterator[Path]:
    """Instances, plans, engine, policies, evaluation, and what studies share in computing."""
    for path in sorted(_PACKAGE.rglob("*.py")):
        if path.relative_to(_PACKAGE).parts[0] not in _ELSEWHERE:
            yield path
    for module in sorted({point.module for point in entry_points(group=POLICY_GROUP)}):
        spec = find_spec(module)
        if spec is not None and spec.origin is not None:
            file = Path(spec.origin)
            yield from sorted(file.parent.glob("*.py")) if "." in module else [file]
    yield from (p for p in sorted(_EXPERIMENTS.glob("*.py")) if p.name not in _FRAMEWORK)


def _computing_source(path: Path) -> str:
    """The code of a study's file without the methods that only present, and without comments."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [part for part in node.body if not _presents(part)]
    return ast.dump(tree)


def _presents(part: ast.stmt) -> bool:
    return isinstance(part, ast.FunctionDef) and part.name.lstrip("_").startswith(_PRESENTING)
