"""Who runs the iterations of ``LLMSchedEvent-v0``: the simulator, or a backend by entry point."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.event_control import EventControl
from llm_sched_env.errors import ConfigurationError, one_of

BACKEND_GROUP = "llm_sched_env.backends"
SIMULATOR = "simulator"


def event_control(
    backend: str, configuration: EventConfiguration, options: Mapping[str, Any] | None
) -> EventControl:
    """The control of one cluster.

    Args:
        backend: ``simulator``, or a name of the entry-point group ``llm_sched_env.backends``: of
            a function that takes a configuration and options and gives an :class:`EventControl`.
        configuration: of the environment.
        options: of the backend.

    Raises:
        ConfigurationError: for a backend that is not there, or what it refuses.
    """
    if options is not None and not isinstance(options, Mapping):
        raise ConfigurationError("backend_options", options, "None or a dict")
    given = dict(options or {})
    if backend == SIMULATOR:
        if given:
            raise ConfigurationError("backend_options", given, "none: the simulator has none")
        return EventControl(configuration)
    known = {point.name: point for point in entry_points(group=BACKEND_GROUP)}
    if not isinstance(backend, str) or backend not in known:
        raise ConfigurationError("backend", backend, one_of((SIMULATOR, *sorted(known))))
    try:
        make = known[backend].load()
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "backend",
            backend,
            f"what it needs to be installed ({error})",
            f"pip install 'llm-sched-env[{backend}]'",
        ) from error
    control: EventControl = make(configuration, **given)
    return control
