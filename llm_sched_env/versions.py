"""Which versions does a published number name?"""

from __future__ import annotations

from importlib.metadata import version

_PACKAGES = ("llm-sched-env", "numpy", "numba", "scipy")


def versions(*more: str) -> dict[str, str]:
    """Of this package, of what it computes with, and of further packages that are named."""
    return {name: version(name) for name in (*_PACKAGES, *more)}
