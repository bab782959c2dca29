"""KV caches of requests between two engines, in memory that the processes of both can map.

A cache is written when its request leaves its slot and read by whichever engine decodes it; only
its name passes through the router.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import torch
from torch import Tensor

from llm_sched_env.errors import WorkerError

_MOUNT = Path("/dev/shm")  # where Linux keeps it


def share_cache(name: str, cache: Tensor) -> None:
    """Keep a cache under a name that is not taken, until it is read or forgotten.

    Raises:
        WorkerError: if there is no memory for it.
    """
    plain = cache.cpu().contiguous().view(torch.uint8).flatten()
    try:
        memory = SharedMemory(name, create=True, size=len(plain))
    except OSError as error:
        raise _no_room(len(plain), error) from None
    try:
        _reserve(name, len(plain))
        assert memory.buf is not None
        memory.buf[: len(plain)] = plain.numpy().data
    except BaseException:
        memory.unlink()
        raise
    finally:
        memory.close()


def take_cache(name: str, into: Tensor) -> None:
    """Read the cache of a name, which is free again.

    Args:
        name: of it.
        into: of the cache's shape and type, on any device.
    """
    memory = SharedMemory(name)
    try:
        assert memory.buf is not None
        kept = torch.frombuffer(memory.buf, dtype=into.dtype, count=into.numel())
        into.copy_(kept.view(into.shape))
        del kept  # the memory cannot be closed while a tensor shows it
    finally:
        memory.close()
        memory.unlink()


def forget_cache(name: str) -> None:
    """Nobody will read the cache of a name, if there is one."""
    with suppress(FileNotFoundError):
        memory = SharedMemory(name)
        memory.close()
        memory.unlink()


def _reserve(name: str, size: int) -> None:
    """Take the memory now: a write beyond what is left would kill the process."""
    if not _MOUNT.is_dir():
        return
    descriptor = os.open(_MOUNT / name, os.O_RDWR)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise _no_room(size, error) from None
    finally:
        os.close(descriptor)


def _no_room(size: int, error: OSError) -> WorkerError:
    reason = "no space is left" if error.errno == errno.ENOSPC else error.strerror
    return WorkerError(
        f"shared memory: got a KV cache of {size / 1e6:.3g} MB that waits for a decode slot, "
        f"expected room for it ({reason}); enlarge {_MOUNT} or send fewer requests"
    )
