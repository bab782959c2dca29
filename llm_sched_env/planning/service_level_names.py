"""Parse a service level from text or plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.service_levels import (
    TPOT,
    Abandonment,
    DecodeFairness,
    PrefillFairness,
    ServiceLevel,
)
from llm_sched_env.plugins.deprecated_names import renamed_choice
from llm_sched_env.plugins.user_code import import_attribute, user_code

SERVICE_LEVELS: dict[str, type[ServiceLevel]] = {
    level.name: level for level in (PrefillFairness, DecodeFairness, TPOT, Abandonment)
}
"""The indicators of the paper, and the share of requests that give up, by name."""

_FORMS = "NAME@limit=NUMBER, NAME@price=NUMBER or both with a comma"


def checked_service_levels(slos: Sequence[Any]) -> tuple[ServiceLevel, ...]:
    """The service levels meant by a sequence, each with a name of its own.

    Args:
        slos: of :class:`ServiceLevel` objects, texts as for :func:`named_service_level`, or
            mappings with ``name`` and ``limit``, ``price`` or both.

    Raises:
        ConfigurationError: for anything else, or the same name twice.
    """
    if isinstance(slos, (str, Mapping, ServiceLevel)) or not isinstance(slos, Iterable):
        raise ConfigurationError(
            "service levels", slos, 'a list of service levels, such as ["token-time@price=3000"]'
        )
    levels = tuple(_service_level(level) for level in slos)
    for level in levels:
        if not isinstance(getattr(level, "name", None), str):
            raise ConfigurationError(
                "service levels", level, "a class with a name", "set it: name = ..."
            )
    names = [level.name for level in levels]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                "service levels",
                f"{name} twice",
                "each once",
                "one object can have a limit and a price",
            )
    return levels


def _service_level(given: Any) -> ServiceLevel:
    if isinstance(given, ServiceLevel):
        return given
    if isinstance(given, str):
        return named_service_level(given)
    if isinstance(given, Mapping) and "name" in given:
        settings = {key: value for key, value in given.items() if key != "name"}
        return _made(_kind(given["name"]), settings)
    raise ConfigurationError(
        "service levels",
        given,
        f"ServiceLevel objects, texts {_FORMS}, or mappings with name and settings",
    )


def named_service_level(text: str) -> ServiceLevel:
    """A service level from ``NAME@limit=NUMBER``, ``NAME@price=NUMBER`` or both with a comma.

    NAME is one of :data:`SERVICE_LEVELS`, or ``package.module:Name`` of a subclass of
    :class:`ServiceLevel`, whose own settings that are numbers can be given too.

    Raises:
        ConfigurationError: for another name, key or number.
    """
    name, _, settings = text.partition("@")
    kind = _kind(name)
    pairs = [setting.split("=") for setting in settings.split(",")]
    try:
        numbers = {key: float(number) for key, number in pairs}
    except ValueError:
        numbers = {}
    if len(numbers) < len(pairs):
        raise ConfigurationError("service level", text, _FORMS)
    return _made(kind, numbers)


def _kind(name: Any) -> type[ServiceLevel]:
    """The class of service levels with a name or at an import path."""
    name = renamed_choice("service level", name, {"token-time": "tpot"})
    if name in SERVICE_LEVELS:
        return SERVICE_LEVELS[name]
    if ":" not in str(name):
        known = ", ".join(SERVICE_LEVELS)
        raise ConfigurationError("service level", name, f"{known} or package.module:Name")
    found = import_attribute(str(name), "service level")
    if not (isinstance(found, type) and issubclass(found, ServiceLevel)):
        raise ConfigurationError("service level", name, "a subclass of ServiceLevel")
    return found


def _made(kind: type[ServiceLevel], settings: Mapping[str, Any]) -> ServiceLevel:
    allowed = [field.name for field in fields(kind)]
    missing = {f.name for f in fields(kind) if f.default is f.default_factory is MISSING}
    if missing <= set(settings) <= set(allowed):
        with user_code(f"service level {kind.__module__}:{kind.__qualname__}"):
            return kind(**settings)
    raise ConfigurationError(f"settings of {kind.__name__}", dict(settings), ", ".join(allowed))
