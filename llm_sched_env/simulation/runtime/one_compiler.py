"""One process compiles a function of the engine, and the others wait for what it writes.

Without this, processes that start together would each compile the same code for minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOGGER = logging.getLogger("llm_sched_env.compile")
_WAITING = "llm_sched_env: another process compiles the engine; waiting for it"


def compile_in_one_process(dispatcher: Any, cache_file: Any) -> None:
    """Let one process at a time compile a function whose machine code is not in the cache.

    Args:
        dispatcher: of Numba, cached on disk.
        cache_file: of its cache.
    """
    compile_here = dispatcher.compile
    path = Path(f"{cache_file._index_path}.lock")  # noqa: SLF001 - no public way

    def compile_or_wait(signature: Any) -> Any:
        if signature in dispatcher.overloads or _is_cached(dispatcher, cache_file, signature):
            return compile_here(signature)
        with _held(path):
            return compile_here(signature)

    dispatcher.compile = compile_or_wait


def _is_cached(dispatcher: Any, cache_file: Any, signature: Any) -> bool:
    key = dispatcher._cache._index_key(signature, dispatcher.targetctx.codegen())  # noqa: SLF001
    return key in cache_file._load_index()  # noqa: SLF001


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a lock, where files can be locked; the system frees that of a process that ends."""
    lock = FileLock(path)
    with suppress(OSError, NotImplementedError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            _say_waiting()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@cache
def _say_waiting() -> None:
    """Once a process."""
    LOGGER.warning(_WAITING)
