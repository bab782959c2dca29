"""Versions of the software that results depend on; recorded with every result."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version

_PACKAGES = ("llm-sched-env", "numpy", "numba", "scipy")


def versions(*more: str) -> dict[str, str]:
    """Versions of this package, of what it computes with, and of more distributions."""
    return {name: _version(name) for name in (*_PACKAGES, *more)}


def version_line() -> str:
    """Versions of this package, Python and what it computes with, in a line."""
    own, *others = versions("gymnasium").items()
    found = {"Python": platform.python_version(), **dict(others)}
    return f"{' '.join(own)} ({', '.join(' '.join(pair) for pair in found.items())})"


@cache
def _version(name: str) -> str:
    # Reading a distribution's metadata takes longer than a short evaluation.
    return version(name)
