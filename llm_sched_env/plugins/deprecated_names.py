"""Accept the former name of a function argument, attribute or choice for one release.

Each use of a former name gives one DeprecationWarning that says the new name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def warn_renamed(old: str, new: str, *, level: int = 3) -> None:
    """Warn that a name was renamed; ``level`` is the ``stacklevel`` of the user's line."""
    text = f"{old} is now {new}; the former name will be removed in the next release"
    warnings.warn(text, DeprecationWarning, stacklevel=level)


def renamed_arguments(
    **new_names: str,
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Let a function take keyword arguments under their former names, too.

    Args:
        **new_names: the new name of each former one.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @wraps(function)
        def renaming(*args: Any, **kwargs: Any) -> Result:
            for old in new_names.keys() & kwargs.keys():
                new = new_names[old]
                if new in kwargs:
                    raise TypeError(f"{function.__name__}() got both {new!r} and {old!r}")
                warn_renamed(f"the argument {old!r}", repr(new))
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return renaming

    return decorate


def renamed_choice(field: str, value: Any, new_names: Mapping[str, str]) -> Any:
    """The present name of a choice, such as ``gate="credit"``; other values stay as they are."""
    if not isinstance(value, str) or value not in new_names:
        return value
    warn_renamed(f"{field}={value!r}", repr(new_names[value]), level=5)
    return new_names[value]


def renamed_attributes(module: dict[str, Any], **new_names: str) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that finds former names.

    Args:
        module: ``globals()`` of the module.
        **new_names: the new name of each former one.
    """

    def find(name: str) -> Any:
        if name in new_names:
            warn_renamed(f"{module['__name__']}.{name}", new_names[name])
            return module[new_names[name]]
        raise AttributeError(f"module {module['__name__']!r} has no attribute {name!r}")

    return find


def renamed_property(old: str, new: str) -> property:
    """A property of a class that reads another attribute under a former name."""

    def read(record: Any) -> Any:
        warn_renamed(f"{type(record).__name__}.{old}", new)
        return getattr(record, new)

    return property(read, doc=f"Former name of ``{new}``.")
