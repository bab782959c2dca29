"""Stamp of the sources that a cell's result depends on, as part of its cache key.

The stamp covers the whole model and, of the studies, what ``compute`` reaches by name. So a figure
or a sentence can change without recomputing. Where a name could mean two things, both count.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import llm_sched_env
from llm_sched_env.policies.registry import POLICY_GROUP, Policy
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from research.framework.study import Study

_RESEARCH = Path(__file__).parents[1]
_PACKAGE = Path(llm_sched_env.__file__).parent
# What cannot change a row; everything else counts, so that nothing is forgotten.
_ELSEWHERE = {
    "cli.py",
    "__main__.py",
    "adaptation",
    "bandits",
    "commands",
    "files",
    "plugins",
    "sizing",
    # What a task is made of is in its cell.
    "tasks/best_rules.json",
    "tasks/suite.py",
    "validation",
    "policies/timing.py",
    "evaluation/comparison.py",
    "evaluation/executor.py",
    "evaluation/evaluation_cache.py",
    "evaluation/ray_cluster.py",
    "evaluation/report.py",
}
# What plays has stamps of its own; a wheel has these folders inside the package.
_PLAYERS = ("agents", "baselines", "benchmarks")
_SUFFIXES = (".py", ".json", ".npz", ".toml")
_PREFIX, _FRAMEWORK = "research.", "research.framework."


@cache
def source_stamp(study: type[Study]) -> str:
    """SHA-256 over the model's sources and what the study's ``compute`` reaches."""
    digest = hashlib.sha256(_digest(_model_sources()).encode())
    if not study.names_its_policies:
        digest.update(_digest(_registered_sources()).encode())
    for base in study.__mro__[: study.__mro__.index(Study)]:
        digest.update(_computing_source(Path(inspect.getfile(base))).encode())
    return digest.hexdigest()


def policy_stamp(policy: Policy, *modules: str) -> str:
    """SHA-256 over what a policy is: a rule's settings, which the model runs, or its sources.

    Args:
        policy: a rule, or an object with ``reset`` and ``act``.
        modules: where it is defined or made, in addition to the module of its class.
    """
    digest = hashlib.sha256()
    if isinstance(policy, DispatchRule):
        text = json.dumps(dataclasses.asdict(policy), sort_keys=True, default=_plain)
        digest.update(text.encode())
    if type(policy) is not DispatchRule:
        digest.update(_digest(_sources_of({type(policy).__module__, *modules})).encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _model_sources() -> Iterator[Path]:
    """Instances, plans, engine and evaluation."""
    for path in _files(_PACKAGE, "**/*"):
        inside = path.relative_to(_PACKAGE)
        if {inside.parts[0], inside.as_posix()}.isdisjoint({*_ELSEWHERE, *_PLAYERS}):
            yield path


def _registered_sources() -> Iterator[Path]:
    """The folders of what registers policies."""
    return _sources_of({point.module for point in entry_points(group=POLICY_GROUP)})


def _sources_of(modules: set[str]) -> Iterator[Path]:
    """The folder of each module of a package; of others their file."""
    for module in sorted(modules):
        spec = find_spec(module)
        if spec is not None and spec.origin is not None:
            file = Path(spec.origin)
            yield from _files(file.parent, "*") if "." in module else [file]


def _files(folder: Path, pattern: str) -> list[Path]:
    """Sources and their data, such as weights."""
    return sorted(path for path in folder.glob(pattern) if path.suffix in _SUFFIXES)


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
        if not isinstance(inside, ast.ImportFrom):
            continue
        module = str(inside.module)
        if module.startswith(_PREFIX) and not module.startswith(_FRAMEWORK):
            yield _RESEARCH / f"{module.removeprefix(_PREFIX).replace('.', '/')}.py"
