"""Which versions does a published number name?"""

from __future__ import annotations

import platform
from importlib.metadata import version

_PACKAGES = ("llm-sched-env", "numpy", "numba", "scipy")


def versions(*more: str) -> dict[str, str]:
    """Of this package, of what it computes with, and of further packages that are named."""
    return {name: version(name) for name in (*_PACKAGES, *more)}


def version_line() -> str:
    """Of this package, Python and what it computes with, in a line."""
    own, *others = versions("gymnasium").items()
    found = {"Python": platform.python_version(), **dict(others)}
    return f"{' '.join(own)} ({', '.join(' '.join(pair) for pair in found.items())})"
