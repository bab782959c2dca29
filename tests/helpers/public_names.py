"""What users may build on; ``python tests/helpers/public_names.py`` writes the list."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import typer

import llm_sched_env as lse

FILE = Path(__file__).parents[1] / "packaging" / "public_names.txt"
GROUPS = ("llm_sched_env.policies", "llm_sched_env.checkpoints", "llm_sched_env.backends")
ENVIRONMENTS = ("LLMSched-v0", "LLMSchedEvent-v0", "LLMSchedRouting-v0")


def public_names() -> list[str]:
    """Names and parameters, in order."""
    return sorted({*_python(), *_environments(), *_tasks(), *_commands(), *_entry_points()})


def _python() -> Iterator[str]:
    for name in lse.__all__:
        thing = getattr(lse, name)
        where = f"llm_sched_env.{name}"
        if isinstance(thing, ModuleType):
            for inner in thing.__all__:
                yield f"{where}.{inner}{_parameters(getattr(thing, inner))}"
            continue
        yield where + _parameters(thing)
        if isinstance(thing, type):
            for member in _members(thing):
                yield f"{where}.{member}"


def _members(kind: type) -> Iterator[str]:
    """Methods and properties that this package gives a class; its fields are its parameters."""
    own = [base for base in kind.__mro__ if base.__module__.startswith("llm_sched_env")]
    fields = set() if issubclass(kind, Exception) else set(inspect.signature(kind).parameters)
    for name in {name for base in own for name in vars(base) if not name.startswith("_")} - fields:
        member = inspect.getattr_static(kind, name)
        plain = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        yield name + (_parameters(plain) if inspect.isfunction(plain) else "")


def _parameters(thing: Any) -> str:
    """``(name, other=default, *, ...)`` without types; empty for what is not called."""
    if not callable(thing) or (isinstance(thing, type) and issubclass(thing, Exception)):
        return ""
    signature = inspect.signature(thing)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    shown = [p.replace(default=_Shown(p.default)) if p.default is not p.empty else p for p in plain]
    return str(signature.replace(parameters=shown, return_annotation=inspect.Signature.empty))


class _Shown:
    """A default as it is shown: plain values as they are, others by their type."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        plain = self._value is None or isinstance(self._value, (bool, int, float, str))
        if plain or self._value == ():
            return repr(self._value)
        return f"<{type(self._value).__name__}>"


def _environments() -> Iterator[str]:
    for name in ENVIRONMENTS:
        spec = gymnasium.spec(name)
        yield f"gymnasium.make({name!r}): {spec.entry_point}"
        kind = gymnasium.envs.registration.load_env_creator(str(spec.entry_point))
        for parameter, given in inspect.signature(kind).parameters.items():
            if given.kind is inspect.Parameter.VAR_KEYWORD:
                for key in _keys(kind):
                    yield f"gymnasium.make({name!r}, {key}=...)"
            else:
                yield f"gymnasium.make({name!r}, {parameter}={_Shown(given.default)!r})"


def _tasks() -> Iterator[str]:
    from llm_sched_env import tasks

    for task in tasks.TASKS.values():
        yield f"gymnasium.make({task.id!r}): {gymnasium.spec(task.id).entry_point}"
    for name in tasks.__all__:
        yield f"llm_sched_env.tasks.{name}{_parameters(getattr(tasks, name))}"


def _keys(kind: Any) -> list[str]:
    from llm_sched_env.envs.configuration import IntervalArguments
    from llm_sched_env.envs.event_configuration import EventArguments

    table = EventArguments if "Event" in kind.__name__ else IntervalArguments
    return sorted(table.__annotations__)


def _commands() -> Iterator[str]:
    from llm_sched_env.cli import app

    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        for parameter in command.params:
            shown = "/".join(parameter.opts) if parameter.opts[0].startswith("-") else "ARGUMENT"
            if not getattr(parameter, "hidden", False):
                yield f"llmsched {name} {shown}"


def _entry_points() -> Iterator[str]:
    for group in GROUPS:
        for point in entry_points(group=group):
            if point.dist is not None and point.dist.name == "llm-sched-env":
                yield f"entry point {group}: {point.name}"


if __name__ == "__main__":
    FILE.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
