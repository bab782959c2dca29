"""Check that a state fits into memory before the system kills the process."""

from __future__ import annotations

from pathlib import Path

from llm_sched_env.errors import InsufficientMemoryError

# Less is not worth asking the system.
_SMALL = 1 << 26
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def require_memory(needed: int, what: str) -> None:
    """Refuse to allocate what the system cannot give.

    Args:
        needed: bytes.
        what: needs them, for the message.

    Raises:
        InsufficientMemoryError: where the system says that it has less. Where it says nothing,
            NumPy raises MemoryError for what it cannot allocate.
    """
    if needed < _SMALL:
        return
    available = available_bytes()
    if available is not None and needed > available:
        raise InsufficientMemoryError(what, needed, available)


def available_bytes() -> int | None:
    """Bytes that this process can still allocate without swapping; None where nothing tells."""
    known = [found for found in (_of_machine(), _of_container(), _of_limit()) if found is not None]
    return max(0, min(known)) if known else None


def _of_machine() -> int | None:
    """What Linux reckons can be allocated without swapping."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * kilobytes[0] if kilobytes else None


def _of_container() -> int | None:
    """What is left of a container's limit, its page cache counted as free (cgroup v2)."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return None
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        statistics = (_CGROUP / "memory.stat").read_text(encoding="ascii").split()
        cached = dict(zip(statistics[::2], statistics[1::2], strict=True)).get("inactive_file", "0")
        return int(limit) - used + int(cached)
    except (OSError, ValueError):
        return None


def _of_limit() -> int | None:
    """What is left of the limit of this process's address space (``ulimit -v``)."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return limit - pages * resource.getpagesize()
    except (ImportError, OSError):
        return None
