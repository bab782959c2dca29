"""Options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, NamedTuple

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from llm_sched_env.errors import ConfigurationError, checked_integer, is_finite_number
from llm_sched_env.files.atomic import make_folder
from llm_sched_env.planning.service_level_names import SERVICE_LEVELS
from llm_sched_env.plugins.deprecated_names import warn_renamed

InstanceOption = Annotated[
    str, typer.Option("--instance", help="Preset name or instance file (.json, .toml).")
]
InstancesOption = Annotated[
    str, typer.Option("--instance", help="Presets or instance files, comma-separated.")
]
PricingOption = Annotated[str, typer.Option(help="bundled or separate.")]
RevenueOption = Annotated[
    str, typer.Option(help="all, or goodput: pay only requests that met their class's deadlines.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of all random streams, >= 0.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
TraceOption = Annotated[
    list[str] | None,
    typer.Option(help="Trace files of known formats: comma-separated or repeated."),
]
BillingOption = Annotated[
    str | None,
    typer.Option(help="class-means or own-tokens (default: own with a trace or given lengths)."),
]
JobsOption = Annotated[int | None, typer.Option(help="Replications run at the same time.")]
WorkersOption = Annotated[
    int | None,
    typer.Option("--jobs", help="Computations at the same time (default: processors)."),
]
BackendOption = Annotated[
    str, typer.Option(help="Where they run: joblib (this machine) or ray (a cluster).")
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(help="HOST:PORT, auto or local [$RAY_ADDRESS; else auto, else local]."),
]
SloOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Service-level objective NAME@limit=NUMBER, NAME@price=NUMBER or both with a comma; "
        f"NAME is {', '.join(SERVICE_LEVELS)} or package.module:Name; repeatable."
    ),
]
FormerSloOption = Annotated[list[str] | None, typer.Option("--sli", hidden=True)]
ReplicationsOption = Annotated[int, typer.Option(help="Independent runs.")]

_NUMBER_WIDTH = 12
_HEADER_WIDTH = 7

_GIVEN: ContextVar[tuple[str, ...]] = ContextVar("the command that runs", default=())
_KEPT: ContextVar[tuple[str, Path, str] | None] = ContextVar("what Ctrl-C leaves", default=None)

messages = Console(stderr=True, highlight=False)
"""Progress and notes: stdout is for results."""


def remember_command(program: str, words: Sequence[str]) -> None:
    """Keep what was typed, for reports that say how they were made."""
    _GIVEN.set((*program.split(), *words))
    _KEPT.set(None)


def will_be_kept(what: str, place: Path, how: str = "the same command resumes") -> None:
    """Say what of this command's work outlives an interruption.

    Args:
        what: in the plural.
        place: a file or folder that is made with the first of it.
        how: to go on.
    """
    _KEPT.set((what, place, how))


def interruption_text() -> str:
    """What is left of the command that was interrupted, and how it goes on."""
    if (kept := _KEPT.get()) is not None and kept[1].exists():
        what, place, how = kept
        return f"interrupted; {what} are kept in {place}, {how}"
    return "interrupted; the same command starts anew"


def given_command() -> str:
    """What was typed, as a shell takes it; the folder of ``--out`` is DIR.

    A report says how it was made, and is the same wherever it lies.
    """
    words = list(_GIVEN.get())
    for k, word in enumerate(words):
        if k > 0 and words[k - 1] == "--out":
            words[k] = "DIR"
        elif word.startswith("--out="):
            words[k] = "--out=DIR"
    return shlex.join(words)


def print_note(text: str) -> None:
    """One line on stderr, next to a result on stdout."""
    messages.print(text, soft_wrap=True, markup=False)


def print_lines(*lines: str) -> None:
    """Results as plain text, wrapped to the terminal."""
    console = Console(highlight=False, markup=False)
    for line in lines:
        console.print(line)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """A table as wide as the terminal; the first column is text, the others may be numbers."""
    table = Table(title=title or None, box=SIMPLE_HEAD, pad_edge=False)
    given = [tuple(row) for row in rows]
    for name, *cells in zip(header, *given, strict=True):
        # Long names break at their hyphens, not inside a word; numbers do not break at all.
        lines = wrap(name, _HEADER_WIDTH, break_long_words=False)
        longest = max(map(len, cells), default=0)
        least = longest if longest <= _NUMBER_WIDTH else None
        table.add_column("\n".join(lines), overflow="fold", min_width=least)
    for row in given:
        table.add_row(*row)
    Console(highlight=False).print(table)


def print_json(data: Any) -> None:
    """One JSON object on stdout."""
    print(json.dumps(data, allow_nan=False))


def names(option: str, text: str) -> list[str]:
    """A comma-separated list of texts."""
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise ConfigurationError(option, text, "a comma-separated list without empty items")
    return items


def warn_former_option(old: str, new: str) -> None:
    """Warn that an option was renamed, in Python and on the command line."""
    warn_renamed(f"the option {old}", new, level=4)
    print_note(f"note: the option {old} is now {new}; its former name will be removed")


def objectives(slo: Sequence[str] | None, sli: Sequence[str] | None) -> list[str]:
    """The service-level objectives of ``--slo`` and its former name ``--sli``."""
    if sli:
        warn_former_option("--sli", "--slo")
    return [*(slo or ()), *(sli or ())]


def trace_paths(values: Sequence[str] | None) -> list[Path]:
    """Paths given comma-separated, by repeating --trace, or both."""
    return [Path(name) for value in values or () for name in names("--trace", value)]


class AgentFile(NamedTuple):
    """A checkpoint of ``--agents``, and where it competes."""

    path: str
    instance: str | None = None  # None: on all
    n_gpus: int | None = None  # None: at all sizes


def agent_files(agents: str | None, instances: Collection[str]) -> Iterator[AgentFile]:
    """Checkpoints of ``--agents``: ``PATH``, ``INSTANCE=PATH`` or ``INSTANCE:N=PATH``."""
    for item in names("--agents", agents) if agents else []:
        only, separator, path = item.partition("=")
        if not separator:
            yield AgentFile(item)
            continue
        instance, n_gpus = only, None
        name, colon, size = only.rpartition(":")
        if colon and size.isdecimal() and only not in instances:
            instance, n_gpus = name, checked_integer("--agents", int(size))
        if instance not in instances:
            raise ConfigurationError(
                "--agents",
                item,
                f"PATH, INSTANCE=PATH or INSTANCE:N=PATH with an instance of {sorted(instances)}",
            )
        yield AgentFile(path, instance, n_gpus)


def integers(option: str, text: str) -> list[int]:
    """A comma-separated list of integers >= 1."""
    try:
        values = [int(item) for item in names(option, text)]
    except ValueError:
        values = []
    if not values or min(values) < 1:
        raise ConfigurationError(option, text, "comma-separated integers >= 1, such as 5,20,50")
    return values


def numbers(option: str, text: str) -> list[float]:
    """A comma-separated list of finite numbers >= 0."""
    try:
        values = [float(item) for item in names(option, text)]
    except ValueError:
        values = [-1.0]
    if not all(is_finite_number(value) for value in values):
        raise ConfigurationError(option, text, "comma-separated numbers >= 0, such as 1.5,0")
    return values


def require_extra(extra: str, *modules: str) -> None:
    """Fail in one line when an optional dependency is not installed."""
    if missing := [module for module in modules if not has_extra(module)]:
        raise ConfigurationError(
            f"This command needs {', '.join(missing)} of the extra {extra!r}; install it with "
            f"`pip install 'llm-sched-env[{extra}]' -c constraints.txt`."
        )


def has_extra(*modules: str) -> bool:
    """Whether these modules of optional dependencies are installed."""
    from importlib.util import find_spec

    return all(find_spec(module) is not None for module in modules)


def output_folder(path: Path) -> Path:
    """A folder to write into, made now so that a long run does not fail at its end."""
    make_folder(path)
    return path
