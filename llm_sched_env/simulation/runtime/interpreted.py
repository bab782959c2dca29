"""Run the engine uncompiled (``NUMBA_DISABLE_JIT=1``), for debuggers and one test run.

Compiled code reads fields of records as attributes and lets unsigned integers wrap around;
here arrays become recarrays and NumPy is told that wrapping is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np


def interpreted(function: Callable[..., Any]) -> Callable[..., Any]:
    """An entry point that runs as plain Python on the same arrays."""

    @wraps(function)
    def run(*arguments: Any) -> Any:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            return function(*(_with_attributes(argument) for argument in arguments))

    return run


def _with_attributes(value: Any) -> Any:
    if isinstance(value, tuple):
        return type(value)(*(_with_attributes(item) for item in value))
    if isinstance(value, np.ndarray) and value.dtype.names:
        return value.view(np.recarray)
    return value
