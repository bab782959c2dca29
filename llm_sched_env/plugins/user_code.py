"""Record where an exception raised by user code arose.

User code is, for example, a policy or a service level. The exception propagates unchanged, with its
own traceback; only the command line shortens it to one line.
"""

from __future__ import annotations

import importlib
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm_sched_env.errors import ConfigurationError, LLMSchedError

_PACKAGE = __name__.partition(".")[0]
_NOTE = "_llm_sched_env_note"
_STANDARD = Path(sysconfig.get_path("stdlib")).resolve()


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Run code that is not this package's; what it raises remembers its place.

    Args:
        what: runs, for the message, such as ``policy my_package:Mine``.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        note_place(error, what)
        raise


def note_place(error: BaseException, what: str) -> None:
    """Let an exception that a user's code raised remember where; as in :func:`user_code`."""
    place = _place(error)
    # This package's own errors are clear lines already, unless a user's code led to them.
    if not hasattr(error, _NOTE) and (place or not isinstance(error, LLMSchedError)):
        setattr(error, _NOTE, _line(what, error, place))


def user_error_line(error: BaseException) -> str | None:
    """What :func:`user_code` noted, also in another process; None for any other exception."""
    # Ray hands over the exception of its worker inside one of its own.
    note = getattr(error, _NOTE, None) or getattr(getattr(error, "cause", None), _NOTE, None)
    return note if isinstance(note, str) else None


def import_attribute(path: str, field: str) -> Any:
    """The object at ``package.module:Name``.

    Args:
        path: where it is.
        field: what it is for, in messages.

    Raises:
        ConfigurationError: where there is no such module or name.
        Exception: whatever the module raises when it is imported.
    """
    module, _, attribute = path.partition(":")
    allowed = "package.module:Name"
    if not (module and attribute):
        raise ConfigurationError(field, path, allowed)
    with user_code(f"{field} {path}"):
        try:
            loaded: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            # A module that is missing further down is the fault of the module that imports it.
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise ConfigurationError(field, path, allowed, str(error)) from error
        except (TypeError, ValueError) as error:
            if _place(error):
                raise
            raise ConfigurationError(field, path, allowed, str(error)) from error
        if not hasattr(loaded, attribute):
            remedy = f"module {module!r} has no attribute {attribute!r}"
            raise ConfigurationError(field, path, allowed, remedy)
        return getattr(loaded, attribute)


def _line(what: str, error: BaseException, place: str) -> str:
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{what} raised {said}{f' ({place})' if place else ''}; --debug shows the traceback"


def _place(error: BaseException) -> str:
    """``FILE:LINE in FUNCTION`` of the innermost frame of a user's code; empty if there is none."""
    outside = [
        (Path(frame.f_code.co_filename), line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not _is_own(frame.f_globals.get("__name__", ""))
    ]
    outside = [found for found in outside if not _is_standard(found[0])]
    # What a user wrote may call libraries, or be installed like one.
    written = [found for found in outside if not _is_installed(found[0])]
    written = written or [found for found in outside if found[0].parent == outside[0][0].parent]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    if not written:
        return ""
    file, line, function = written[-1]
    return f"{file}:{line}" + ("" if function == "<module>" else f" in {function}")


def _is_own(module: str) -> bool:
    return module == _PACKAGE or module.startswith(f"{_PACKAGE}.")


def _is_installed(file: Path) -> bool:
    """Whether it belongs to an installed package."""
    return bool({"site-packages", "dist-packages"} & {*file.parts})


def _is_standard(file: Path) -> bool:
    """Whether it belongs to Python itself."""
    if str(file).startswith("<"):  # what is frozen into the interpreter, or has no file
        return True
    return not _is_installed(file) and file.resolve().is_relative_to(_STANDARD)
