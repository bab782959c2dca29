"""Connect to a Ray cluster and check that its workers run the same code."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.versions import versions
from llm_sched_env.simulation.runtime.row_threads import available_processors

_SECONDS_TO_ANSWER = 5.0
_QUIET: dict[str, Any] = {
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": "ERROR",
}
# An editable install maps these folders, which are next to the package.
_MAPPED = ("agents", "baselines", "benchmarks")


def connect_to_ray(address: str | None, processors: int | None) -> None:
    """Connect this process to a cluster, once; it stays connected until it ends.

    Args:
        address: ``HOST:PORT``, ``auto``, ``local`` or None, as
            :class:`llm_sched_env.evaluation.executor.Executor` has it.
        processors: that a cluster started here gets; None: those of this process.

    Raises:
        ConfigurationError: where no cluster answers at the address.
    """
    import ray

    if ray.is_initialized():
        return
    chosen = address or os.environ.get("RAY_ADDRESS") or ""
    try:
        if place := re.fullmatch(r"([\w.-]+):(\d{1,5})", chosen):
            # Where no cluster answers, Ray itself tries for five minutes and then ends the process.
            socket.create_connection((place[1], int(place[2])), _SECONDS_TO_ANSWER).close()
            ray.init(chosen, **_QUIET)
        elif chosen == "auto":
            ray.init("auto", **_QUIET)
        elif chosen == "local" or (not chosen and not _joined()):
            ray.init("local", num_cpus=processors or available_processors(), **_QUIET)
        elif chosen:
            raise ConfigurationError(
                "Ray address", chosen, "HOST:PORT of the head of a running cluster, auto or local"
            )
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            "Ray address", chosen, "HOST:PORT of the head of a running cluster", str(error)
        ) from None


def _joined() -> bool:
    """Whether this machine belongs to a cluster; this process is then connected to it."""
    import ray

    try:
        ray.init("auto", **_QUIET)
    except ConnectionError:
        return False
    return True


@cache
def installation_digest(package: str = "") -> str:
    """SHA-256 over this package's sources and the versions below it, as installed here.

    Args:
        package: a top-level package or module whose functions run; its sources count, too.
    """
    digest = hashlib.sha256(repr([*versions().values()]).encode())
    root = Path(__file__).parents[1]
    sources = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    folders = {name: _folders(f"llm_sched_env.{name}") for name in _MAPPED}
    if package != "llm_sched_env":
        folders[package] = _folders(package)
    for name, places in folders.items():
        for folder in places:
            inside = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
            sources |= {f"{name}/{path}": inside[path] for path in inside}
    for name, path in sorted(sources.items()):
        digest.update(name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _folders(package: str) -> list[Path]:
    """Where a package lies; a module, or a script, has no folder."""
    try:
        spec = find_spec(package)
    except ValueError:  # no name, or __main__ of a script
        return []
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
