"""Versions of what decides a number: they stand beside every result."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version


def versions(*more: str) -> dict[str, str]:
    """Versions of this package, of what it computes with, and of more distributions."""
    return {name: _version(name) for name in ("llm-sched-env", "numpy", "numba", "scipy", *more)}


@cache
def _version(name: str) -> str:
    # Reading a distribution's metadata takes longer than a short evaluation.
    return version(name)
