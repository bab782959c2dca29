"""The options of every command that reads traces, declared once and passed as one object."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from llm_sched_env.commands.options import names, print_note
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.workloads.summary import reading_notes
from llm_sched_env.workloads.trace import Trace
from llm_sched_env.workloads.traces import load_traces

KeepInstanceOption = Annotated[
    bool, typer.Option(help="Plan for the instance as it is, with the trace's classes by name.")
]

PlanWindowOption = Annotated[
    str | None,
    typer.Option(
        help="Plan for the arrivals in A,B seconds, such as those before --window.",
        metavar="A,B",
    ),
]


@dataclass(frozen=True)
class TraceReading:
    """How trace files are read; each field is an option of the command line."""

    window: Annotated[
        str | None,
        typer.Option(help="Only arrivals in A,B seconds; B may be inf.", metavar="A,B"),
    ] = None
    speed: Annotated[float, typer.Option(help="Replay the trace this many times faster.")] = 1.0
    rate: Annotated[
        float | None,
        typer.Option(help="Scale time to this many requests/s on average, for the whole cluster."),
    ] = None
    zero_rows: Annotated[
        str, typer.Option(help="keep or drop requests without prompt or output tokens.")
    ] = "keep"
    time_unit: Annotated[
        str | None,
        typer.Option(
            help="Unit of numeric timestamps: s, ms, us or ns, or FILE=UNIT, comma-separated "
            "(default: the format's).",
            metavar="UNIT",
        ),
    ] = None
    classes_by: Annotated[
        str | None,
        typer.Option(help="Column that names the classes (default: one class per file)."),
    ] = None

    def load(self, paths: Sequence[Path]) -> Trace:
        """The files as one trace; its notes go to stderr."""
        if self.rate is not None and self.speed != 1.0:
            raise ConfigurationError(
                "`--speed` cannot be combined with `--rate`, since both scale time."
            )
        trace = load_traces(
            paths,
            window=_window(self.window) if self.window is not None else None,
            zero_rows=self.zero_rows,
            rate=self.rate,
            time_unit=_time_unit(self.time_unit),
            classes_by=self.classes_by,
        ).at_speed(self.speed)
        for note in reading_notes(trace):
            print_note(note)
        return trace

    def planned_on(self, window: str | None, paths: Sequence[Path]) -> Trace | None:
        """What a policy plans for in place of the requests, of ``--plan-window``; None without."""
        if window is None:
            return None
        if self.rate is not None:
            raise ConfigurationError(
                "`--rate` cannot be combined with `--plan-window`; "
                "use `--speed`, which scales both."
            )
        return dataclasses.replace(self, window=window).load(paths)

    def load_if_given(self, paths: Sequence[Path]) -> Trace | None:
        """As :meth:`load`; without files no option may be set."""
        if paths:
            return self.load(paths)
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                option = f"--{field.name.replace('_', '-')}"
                raise ConfigurationError(f"`{option}` needs a trace; give `--trace`.")
        return None


def reads_traces(
    command: Callable[..., None], speed_option: str = "--speed"
) -> Callable[..., None]:
    """Give a command the options of :class:`TraceReading` in place of its argument ``reading``.

    Args:
        command: whose signature is extended.
        speed_option: what the option of the speed is called, where another has its usual name.
    """
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.name != "reading"
    ]
    shared = [
        _renamed(parameter, speed_option) if parameter.name == "speed" else parameter
        for parameter in inspect.signature(TraceReading, eval_str=True).parameters.values()
    ]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        options = [arguments.pop(parameter.name) for parameter in shared]
        command(**arguments, reading=TraceReading(*options))

    # Typer reads both: with them it sees one flat list of options.
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _renamed(parameter: inspect.Parameter, option: str) -> inspect.Parameter:
    """The parameter under the name that its option is called."""
    _, given = get_args(parameter.annotation)
    renamed = Annotated[float, typer.Option(option, help=given.help)]
    name = option.removeprefix("--").replace("-", "_")
    return parameter.replace(name=name, annotation=renamed)


def _time_unit(text: str | None) -> str | dict[str, str] | None:
    """One unit for all files, or one by file."""
    if text is None or "=" not in text:
        return text
    pairs = [item.rpartition("=") for item in names("--time-unit", text)]
    units = {file: unit for file, _, unit in pairs}
    if not all(units) or len(units) < len(pairs):
        raise ConfigurationError(
            "--time-unit",
            text,
            "one unit, such as ms, or one FILE=UNIT per file, such as a.jsonl=s",
        )
    return units


def _window(text: str) -> tuple[float, float]:
    """Start and end in seconds."""
    try:
        start, end = map(float, names("--window", text))
    except ValueError:
        start = end = math.nan
    if not 0 <= start < end:
        raise ConfigurationError("--window", text, "A,B in seconds with 0 <= A < B, such as 0,600")
    return start, end
