"""Decorators that compile the engine: inner functions, and functions that Python calls."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import types

from llm_sched_env.simulation.runtime.interpreted import interpreted
from llm_sched_env.simulation.runtime.one_compiler import compile_in_one_process

_numba_config: Any = numba.config
COMPILED: bool = not _numba_config.DISABLE_JIT
"""False with NUMBA_DISABLE_JIT=1."""

# Without reference counting: the engine allocates nothing, and its arrays outlive each call.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@cache
def engine_source_digest() -> str:
    """SHA-256 over every source file of the engine, the stamp of its on-disk cache."""
    digest = hashlib.sha256()
    engine = Path(__file__).parents[1]
    for path in sorted(engine.rglob("*.py")):
        digest.update(path.relative_to(engine).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _plain(kind: Any) -> Any:
    """The type that an argument is passed as: constants as variables, integers with 64 bits."""
    kind = types.unliteral(kind)
    return types.int64 if kind == types.int32 else kind


def _compiled_once(dispatcher: Any) -> Any:
    """Numba would compile a function anew for each constant and each width of an integer."""
    if COMPILED:
        template_for = dispatcher.get_call_template

        def get_call_template(args: Any, kws: Any) -> Any:
            given = {name: _plain(kind) for name, kind in kws.items()}
            return template_for(tuple(map(_plain, args)), given)

        dispatcher.get_call_template = get_call_template
    return dispatcher


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile an inner function; it is inlined into each entry point that calls it."""
    decorator: Any = numba.njit(forceinline=True, **_INNER, **_OPTIONS)
    return _compiled_once(decorator(function))


def compiled_within(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile an inner function as a part of its only caller, never by itself.

    For large ones: what is inlined by itself is optimised once alone and again in each caller.
    """
    decorator: Any = numba.njit(inline="always", **_INNER, **_OPTIONS)
    return decorator(function)


def compiled_apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile an inner function that is called, not inlined: rarely run, or called often."""
    decorator: Any = numba.njit(**_INNER, **_OPTIONS)
    return _compiled_once(decorator(function))


def entry_point(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that Python calls, and cache the machine code on disk.

    Numba stamps a cached function with its own file only, so a change in a callee's file would
    go unnoticed; the stamp set here covers the whole engine.
    """
    if not COMPILED:
        return interpreted(function)
    decorator: Any = numba.njit(cache=True, **_OPTIONS)
    dispatcher = decorator(function)
    cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if cache_file is not None:
        own = Path(function.__code__.co_filename).read_bytes()
        stamp = engine_source_digest() + hashlib.sha256(own).hexdigest()
        cache_file._source_stamp = stamp  # noqa: SLF001 - no public way
        _forget_unreadable(cache_file)
        compile_in_one_process(dispatcher, cache_file)
    return dispatcher


def _forget_unreadable(cache_file: Any) -> None:
    """Remove an index that cannot be read: after modules moved, Numba would raise for ever."""
    try:
        cache_file._load_index()  # noqa: SLF001 - no public way
    except Exception:  # noqa: BLE001 - whatever unpickling an old index raises
        Path(cache_file._index_path).unlink(missing_ok=True)  # noqa: SLF001
