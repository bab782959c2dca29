"""Merge files into one trace, and derive an instance from a trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from llm_sched_env.errors import ConfigurationError, TraceError
from llm_sched_env.model.catalog import PAPER_PRICES, PATIENCE_RATE, QWEN_8B_A100
from llm_sched_env.model.fleet import Fleet, GpuGroup
from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass
from llm_sched_env.model.length_distributions import ObservedLengths
from llm_sched_env.workloads.formats import CANONICAL
from llm_sched_env.workloads.summary import TraceSummary, reading_notes, summarize
from llm_sched_env.workloads.trace import Source, Trace, merged
from llm_sched_env.workloads.trace_files import FileRows, read_file

__all__ = [
    "Trace",
    "TraceSummary",
    "instance_from_trace",
    "load_traces",
    "merged",
    "reading_notes",
    "summarize",
]

ZERO_ROWS = ("keep", "drop")


def load_traces(
    paths: str | Path | Sequence[str | Path],
    *,
    window: tuple[float, float] | None = None,
    zero_rows: str = "keep",
    rate: float | None = None,
    time_unit: str | Mapping[str, str] | None = None,
    classes_by: str | None = None,
) -> Trace:
    r"""Read files of any known format, recognized by their headers, and merge them by time.

    Time 0 is the first arrival of all files; files in the canonical schema keep their own.

    Args:
        paths: one file or several, plain or gzip; each is a class unless its rows name theirs.
        window: only the requests that arrive in [start, end) seconds; the end may be ``inf``.
        zero_rows: ``keep`` or ``drop`` requests without prompt or output tokens; they are counted.
        rate: scale time to this many requests per second for the whole cluster, on average, after
            the window is cut out.
        time_unit: ``s``, ``ms``, ``us`` or ``ns`` for numeric timestamps whose unit the format does
            not tell, or that are in another; for all files, or by path or name of the file.
        classes_by: column that names the classes (BurstGPT: ``Model`` or ``Log Type``).

    Raises:
        TraceError: naming file and line, for a file that is missing, empty or malformed, or whose
            timestamps could be in two units.
        ConfigurationError: for an option that is not allowed or that a file does not have.

    Example:
        >>> import tempfile
        >>> row = "arrival_seconds,class,prompt_tokens,output_tokens\n0.5,chat,300,50\n"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "requests.csv"
        ...     _ = file.write_text(row)
        ...     trace = load_traces(file)
        >>> trace.class_names
        ('chat',)
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    if not isinstance(paths, Sequence) or not all(isinstance(p, (str, Path)) for p in paths):
        raise ConfigurationError("trace", paths, "the path of a file, or a list of several")
    if not paths:
        raise TraceError("trace: got no file; give the path of at least one")
    if zero_rows not in ZERO_ROWS:
        raise ConfigurationError("zero_rows", zero_rows, " or ".join(ZERO_ROWS))
    files = [
        read_file(path, unit, classes_by)
        for path, unit in zip(map(Path, paths), _time_units(paths, time_unit), strict=True)
    ]
    _require_one_clock(files)
    files = _in_one_unit(files)
    names = None if files[0].labels else _class_names([file.path for file in files])
    origin = 0 if files[0].format is CANONICAL else min(file.ticks.min() for file in files)
    trace = merged(
        [
            _trace_of(file, origin, file.labels if names is None else (names[k],))
            for k, file in enumerate(files)
        ]
    )
    if window is not None:
        trace = trace.window(*window)
    if zero_rows == "drop":
        trace = trace.without_zero_rows()
    return trace if rate is None else trace.at_rate(rate)


def instance_from_trace(
    trace: Trace,
    n_gpus: int,
    patience_rates: float | Sequence[float] = PATIENCE_RATE,
    hardware: Hardware | Fleet = QWEN_8B_A100,
    prices: Prices = PAPER_PRICES,
    *,
    seconds: tuple[float, float] | None = None,
) -> Instance:
    """The instance whose lengths and rates per GPU are those of a trace replayed on n GPUs.

    Its lengths are the trace's rows, prompts with their outputs, so that what a plan needs of
    them (means, whole chunks, what fits into a KV limit) is counted and not modelled.

    Args:
        trace: what is replayed.
        n_gpus: cluster size n.
        patience_rates: theta, 1/s, one for all classes or one per class; default: the presets'.
        hardware: iteration times and slots, or groups of GPUs; default: Qwen-8B on an A100.
        prices: revenue per token; default: the paper's.
        seconds: only of the requests that arrive in [start, end), at their rate over these
            seconds; requests at the end count too if it is not before the last arrival. A class
            without any keeps the lengths of the whole trace at the rate 0. Default: the whole
            trace, over its duration.

    Raises:
        TraceError: if a class has no request in the trace, or none with tokens in ``seconds``.
        ConfigurationError: if no request arrives in ``seconds``.
    """
    if seconds is None:
        seconds = (0.0, trace.positive_duration())
    measured = _measured_rows(trace, seconds)
    reused = _reused_tokens(trace, hardware)
    theta = np.broadcast_to(np.asarray(patience_rates, float), len(trace.class_names))
    classes = []
    for i, name in enumerate(trace.class_names):
        own = trace.request_class == i
        if not own.any():
            raise TraceError(
                f"trace: got no request of the class {name!r}, expected at least one of each; "
                "widen the window or leave the class's file out"
            )
        rows = own & measured
        rate = _rate(rows, n_gpus, seconds)
        lengths = _lengths(trace, rows if rate else own, reused)
        classes.append(_class_of_rows(lengths, name, rate, theta[i]))
    return Instance("trace", tuple(classes), hardware, prices)


def given_patience_rates(trace: Trace, horizon: float) -> list[float] | None:
    """The patience rate of each class, 1/s, from what a trace gives; None if it gives none.

    The estimate of exponential patience that is seen for ``horizon`` seconds: those who would have
    left by then, over the seconds of everybody until then. 0: nobody would have.
    """
    if trace.patience_seconds is None:
        return None
    rates = []
    for i in range(len(trace.class_names)):
        own = trace.patience_seconds[trace.request_class == i]
        seen = float(np.minimum(own, horizon).sum())
        rates.append(float((own <= horizon).sum()) / seen if seen > 0 else 0.0)
    return rates


def _measured_rows(trace: Trace, seconds: tuple[float, float]) -> np.ndarray:
    """Which requests arrive in some seconds, at least one; bool, shape (K,)."""
    measured = trace.arrives_in(*seconds)
    if not measured.any():
        raise ConfigurationError(
            "measured seconds",
            seconds,
            "seconds in which a request arrives",
            f"the trace lasts {trace.duration:g} s",
        )
    return measured


def _rate(rows: np.ndarray, n_gpus: int, seconds: tuple[float, float]) -> float:
    """Arrivals per GPU and second."""
    return float(rows.sum()) / ((seconds[1] - seconds[0]) * n_gpus)


def _reused_tokens(trace: Trace, hardware: Hardware | Fleet) -> np.ndarray | None:
    """Prompt tokens that one infinite cache has; None where no GPU has a cache, or no blocks."""
    groups = hardware.groups if isinstance(hardware, Fleet) else (GpuGroup("all", hardware),)
    if trace.blocks is None or all(group.hardware.cache_tokens is None for group in groups):
        return None
    return trace.reused_tokens


def _lengths(trace: Trace, rows: np.ndarray, reused: np.ndarray | None) -> ObservedLengths:
    """The lengths of some rows of a trace."""
    own = None if reused is None else reused[rows]
    return ObservedLengths(trace.prompt_tokens[rows], trace.output_tokens[rows], own)


def _class_of_rows(lengths: ObservedLengths, name: str, rate: float, theta: float) -> RequestClass:
    """A class whose lengths are some rows of a trace, at a rate per GPU."""
    for what, tokens in (("prompt", lengths.prompt_tokens), ("output", lengths.output_tokens)):
        if not tokens.any():
            raise TraceError(
                f"trace: no request of the class {name!r} has {what} tokens in the seconds that "
                "are measured; measure other seconds or drop requests without tokens"
            )
    return RequestClass(
        name,
        float(lengths.prompt_tokens.mean()),
        float(lengths.output_tokens.mean()),
        rate,
        float(theta),
        observed_lengths=lengths,
    )


def _time_units(
    paths: Sequence[str | Path], time_unit: str | Mapping[str, str] | None
) -> list[str | None]:
    """The unit given for each file, None where none is."""
    if not isinstance(time_unit, Mapping):
        return [time_unit] * len(paths)
    units: list[str | None] = [None] * len(paths)
    for name, unit in time_unit.items():
        meant = [k for k, path in enumerate(paths) if str(name) in (str(path), Path(path).name)]
        if len(meant) != 1:
            raise ConfigurationError(
                "time_unit",
                name,
                "the path or name of one of the files",
                f"give one of {', '.join(map(str, paths))}",
            )
        units[meant[0]] = unit
    return units


def _in_one_unit(files: list[FileRows]) -> list[FileRows]:
    """The files as they are if they count in the same unit, otherwise in seconds."""
    if len({file.ticks_per_second for file in files}) == 1:
        return files  # calendar times stay exact
    return [
        dataclasses.replace(file, ticks=file.ticks / file.ticks_per_second, ticks_per_second=1)
        for file in files
    ]


def _trace_of(file: FileRows, origin: float, names: tuple[str, ...]) -> Trace:
    """One file as a trace whose time 0 is ``origin``, in the file's unit."""
    ticks, label = file.ticks, file.label if file.labels else np.zeros(len(file), np.int32)
    latest = np.maximum.accumulate(ticks)
    late = int((ticks < latest).sum())
    source = Source(
        str(file.path), file.format.name, len(file), late, file.time_unit, file.not_read
    )
    rows = np.argsort(ticks, kind="stable") if source.out_of_order else slice(None)
    return Trace(
        names,
        ((ticks - origin) / file.ticks_per_second)[rows],
        label[rows],
        file.prompt_tokens[rows],
        file.output_tokens[rows],
        (source,),
        end=file.end,
        patience_seconds=None if file.patience_seconds is None else file.patience_seconds[rows],
        session=None if file.session is None else file.session[rows],
        blocks=None if file.blocks is None else file.blocks.picked(rows),
    )


def _require_one_clock(files: list[FileRows]) -> None:
    """Times of different origins cannot be told to be before or after one another."""
    for file in files[1:]:
        if file.clock != files[0].clock:
            raise TraceError(
                f"trace {file.path}: got {file.clock} beside {files[0].clock} of {files[0].path}, "
                "expected one clock in a replay; save each with `llmsched trace FILE --save`, "
                "which starts it at 0, and give those"
            )


def _class_names(paths: list[Path]) -> tuple[str, ...]:
    """Short names from the files': what follows the last underscore if that tells them apart."""
    stems = [Path(path.name.removesuffix(".gz")).stem for path in paths]
    short = [stem.rpartition("_")[2] or stem for stem in stems]
    telling = len(set(short)) == len(short) and all(name[0].isalpha() for name in short)
    names = short if telling else stems
    if len(set(names)) < len(names):
        raise TraceError(
            f"trace: got the file names {stems}, expected a name of its own for "
            "each file, since it names the class"
        )
    return tuple(names)
