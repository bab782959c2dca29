"""Write a file atomically: a reader finds the old content or all of the new."""

from __future__ import annotations

import csv
import errno
import io
import os
import platform
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from llm_sched_env.errors import FileError, LLMSchedError

_ELSEWHERE = "choose a place where you may write"
_SPACE = "free some space, or choose a place on another disk"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.EISDIR: "name a file, not a folder",
    errno.ENOENT: "make its folder first",
    errno.ENOTDIR: "one of its folders is a file: name another",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def whole_file(path: Path, error: type[LLMSchedError] = FileError) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of ``path`` when the block has ended.

    After an error in the block the old file, or none, is there, and no other; after a kill there
    is ``NAME.HOST-PROCESS.part`` beside it, which the next one to write the file removes. A link
    stays a link. Devices and pipes cannot be replaced and are written to directly.

    Args:
        path: of the file, in a folder that exists.
        error: what a failure raises.

    Raises:
        FileError: in one line, if the file cannot be written.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            with target.open("wb") as file:  # raises for a folder
                yield file
            return
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        _remove_parts_of_the_dead(target)
        part = target.with_name(f"{target.name}{_mark()}{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                yield file
            if target.exists():
                part.chmod(stat.S_IMODE(target.stat().st_mode))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as failure:
        reason = failure.strerror or str(failure)
        remedy = _REMEDIES.get(failure.errno or 0, "check the path")
        raise error(f"{path}: cannot be written ({reason}); {remedy}") from failure


def _mark() -> str:
    """What is between the name of a file and the number of the process that writes it."""
    return f".{platform.node()}-"


def _remove_parts_of_the_dead(target: Path) -> None:
    """Remove what processes of this machine began to write for a file before they were killed."""
    if os.name != "posix":  # elsewhere nobody can be asked whether he lives
        return
    begins, ends = f"{target.name}{_mark()}", ".part"
    with suppress(FileNotFoundError, PermissionError), os.scandir(target.parent) as entries:
        for entry in entries:
            if entry.name.startswith(begins) and entry.name.endswith(ends):
                number = entry.name[len(begins) : -len(ends)]
                if number.isdecimal() and not _is_alive(int(number)):
                    Path(entry.path).unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True


def require_writable(path: Path) -> None:
    """Find out before a long run whether a file can be written; what is there stays.

    Raises:
        FileError: in one line, if it cannot.
    """
    with suppress(_NothingToWriteError), whole_file(path):
        raise _NothingToWriteError


class _NothingToWriteError(Exception):
    """Ends a block of :func:`whole_file` as an error does: the old file stays."""


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all; its folder is made where there is none.

    Args:
        path: of the file.
        content: a text is written in UTF-8, its line ends as they are.

    Raises:
        FileError: in one line, if the file cannot be written.
    """
    make_folder(path.parent)
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write CSV under a header; floats in full, what a row lacks is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def save_figure(figure: Any, path: Path, **options: Any) -> None:
    """Write a figure of Matplotlib in the format of the path's ending.

    Args:
        figure: to write.
        path: of the file.
        **options: of its ``savefig``.
    """
    write_whole(path, figure_bytes(figure, path.suffix[1:], **options))


def figure_bytes(figure: Any, form: str, **options: Any) -> bytes:
    """A figure of Matplotlib as what a file of a format, such as ``svg``, would hold."""
    image = io.BytesIO()
    figure.savefig(image, format=form, **options)
    return image.getvalue()


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        FileError: in one line, if that cannot be done, or if it cannot be written into.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        reason = failure.strerror or str(failure)
        raise FileError(
            f"{path}: no folder can be made there ({reason}); name another place"
        ) from failure
    if not os.access(path, os.W_OK | os.X_OK):
        raise FileError(f"{path}: nothing can be written into this folder; name another place")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when the block has ended.

    After an error in the block there is none; what a killed process left is hidden beside it and
    goes with the next attempt.

    Args:
        path: of the folder, which does not exist, in one that does.

    Raises:
        FileError: in one line, if the folder exists or cannot be made.
    """
    try:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        for left in path.parent.glob(f".{path.name}.*.part"):
            shutil.rmtree(left, ignore_errors=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.mkdir()
        try:
            yield part
            part.rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as failure:
        reason = failure.strerror or str(failure)
        remedy = _REMEDIES.get(failure.errno or 0, "choose another name")
        raise FileError(f"{path}: cannot be written ({reason}); {remedy}") from failure
