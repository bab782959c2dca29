"""Options of `size` and `tune`: the workload, what is required of it, and the GPUs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from llm_sched_env.commands.options import messages, names, will_be_kept
from llm_sched_env.commands.trace_options import TraceReading
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.model.hardware import HardwareFile
from llm_sched_env.model.hardware_presets import HARDWARE_PRESETS
from llm_sched_env.presets import resolve_instance
from llm_sched_env.sizing.case_runs import CaseRuns
from llm_sched_env.sizing.judged import GpuKind
from llm_sched_env.sizing.requirement import Requirement
from llm_sched_env.sizing.workload import Workload, instance_workload, trace_workload

DEFAULT_GPUS = "h100-llama3-8b"
DEFAULT_PERCENTILE = 99.0

TracesArgument = Annotated[
    list[Path] | None, typer.Argument(help="Trace files of a known format, plain or gzip.")
]
TermsOption = Annotated[
    str | None,
    typer.Option(
        "--instance",
        help="Preset or instance file: with a trace it gives patience, deadlines and prices; "
        "without one its classes arrive at --rate.",
    ),
]
GpuOption = Annotated[
    list[str],
    typer.Option(
        "--gpu",
        help="Kinds of GPUs, NAME or NAME=PRICE an hour, comma-separated or repeated; NAME is a "
        "hardware file, a preset or the beginning of several.",
    ),
]
TtftOption = Annotated[
    float | None, typer.Option(help="Deadline of the first token, s, of every class.")
]
TpotOption = Annotated[
    float | None, typer.Option(help="Deadline of the other tokens, s per token, of every class.")
]
PercentileOption = Annotated[
    float | None,
    typer.Option(help="Percent of TTFT, and of TPOT, that are within the deadlines (99)."),
]
ShareOption = Annotated[
    float | None, typer.Option(help="In its place: share of the requests within both, 0.95 say.")
]
GoodputOption = Annotated[
    float | None, typer.Option(help="In its place: requests per second within both.")
]
ConfidenceOption = Annotated[float, typer.Option(help="Of the verdict, one-sided.")]
GrowthOption = Annotated[float, typer.Option(help="Requests arrive this many times as fast.")]
PatienceOption = Annotated[
    float | None,
    typer.Option(help="Mean patience in a queue, s (default: the instance's, else none leaves)."),
]
KvTokensOption = Annotated[
    int | None, typer.Option(help="KV tokens that fit on a GPU (default: as its file says).")
]
HorizonOption = Annotated[float, typer.Option(help="Seconds of arrivals of a sample (--instance).")]
WarmupOption = Annotated[float, typer.Option(help="Of these, not counted (--instance).")]
SamplesOption = Annotated[int, typer.Option("--replications", help="Samples (--instance).")]
SizingJobsOption = Annotated[
    int, typer.Option("--jobs", help="Cases at the same time; 1 runs in this process.")
]


def gpu_kinds(values: Sequence[str], kv_tokens: int | None) -> list[GpuKind]:
    """The kinds of ``--gpu``, each once.

    Raises:
        ConfigurationError: for a price that is no number, or a kind that is given twice.
    """
    kinds = []
    for value in values:
        for item in names("--gpu", value):
            text, _, price = item.partition("=")
            cost = _price(item, price) if price or "=" in item else None
            kinds += [_kind(name, cost, kv_tokens) for name in _presets(text)]
    labels = [kind.name for kind in kinds]
    if len(set(labels)) < len(labels):
        raise ConfigurationError("--gpu", ",".join(values), "each kind once")
    return kinds


def _presets(name: str) -> list[str]:
    """The presets that a name begins, or the name itself."""
    if name in HARDWARE_PRESETS or not name:
        return [name]
    return [preset for preset in HARDWARE_PRESETS if preset.startswith(name)] or [name]


def _kind(name: str, price: float | None, kv_tokens: int | None) -> GpuKind:
    file = HardwareFile.load(name)
    hardware = file.hardware
    if kv_tokens is not None:
        hardware = dataclasses.replace(hardware, kv_tokens=kv_tokens)
    return GpuKind(Path(name).name, hardware, price, file.source)


def _price(item: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError("--gpu", item, "NAME=PRICE with a number") from None


def required(
    percentile: float | None, share: float | None, goodput: float | None, confidence: float
) -> Requirement:
    """What is asked, by one of the three options.

    Raises:
        ConfigurationError: for more than one, or a value that is not allowed.
    """
    given = {"percentile": percentile, "share": share, "goodput": goodput}
    found = {name: level for name, level in given.items() if level is not None}
    if len(found) > 1:
        raise ConfigurationError(
            f"`--{'` and `--'.join(found)}` exclude each other; give one of them."
        )
    measure, level = next(iter(found.items()), ("percentile", DEFAULT_PERCENTILE))
    return Requirement(measure, level, confidence)


def deadlines_of(ttft: float | None, tpot: float | None) -> Deadlines | None:
    """The deadlines of ``--ttft`` and ``--tpot``; None without either."""
    return None if ttft is None and tpot is None else Deadlines(ttft, tpot)


def rate_as_given(instance: str | None, gpus: int | None) -> float | None:
    """The rate of an instance on so many GPUs; None without either."""
    if instance is None or gpus is None:
        return None
    return gpus * float(resolve_instance(instance).arrival_rates.sum())


def sized_workload(
    traces: Sequence[Path] | None,
    instance: str | None,
    reading: TraceReading,
    deadlines: Deadlines | None,
    *,
    growth: float,
    patience: float | None,
    horizon: float,
    warmup: float,
    replications: int,
    seed: int,
    default_rate: float | None = None,
) -> Workload:
    """The workload of the options, growth included.

    Args:
        traces: files; None or empty: the instance's requests.
        instance: preset or file.
        reading: how traces are read; its rate is also the instance's.
        deadlines: in place of the instance's.
        growth: factor of the rate.
        patience: mean seconds, in place of the instance's.
        horizon: of a sample of the instance.
        warmup: of such a sample.
        replications: such samples.
        seed: of the samples.
        default_rate: requests per second of an instance without ``--rate``.

    Raises:
        ConfigurationError: where neither a trace nor an instance with its rate is given.
    """
    if traces:
        found = trace_workload(
            reading.load(traces), deadlines, instance=instance, patience_seconds=patience
        )
        return found.at_rate(growth) if growth != 1.0 else found
    if instance is None:
        raise ConfigurationError("Give trace files, or `--instance` with `--rate`.")
    rate = default_rate if reading.rate is None else reading.rate
    if rate is None:
        raise ConfigurationError(
            "`--instance` needs `--rate`, requests per second for the whole cluster."
        )
    dataclasses.replace(reading, rate=None).load_if_given(())
    return instance_workload(
        instance,
        rate * growth,
        deadlines,
        patience_seconds=patience,
        horizon=horizon,
        warmup=warmup,
        replications=replications,
        seed=seed,
    )


@contextmanager
def case_runs(executor: Executor, out: Path | None, what: str) -> Iterator[CaseRuns]:
    """Where cases run, with their progress on stderr; with a folder finished ones are kept."""
    executor.connect()
    if out is not None:
        will_be_kept("finished runs", out / "cells")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=messages, transient=True) as progress:
        task = progress.add_task(what)
        done = 0

        def tell(text: str) -> None:
            nonlocal done
            done += 1
            progress.update(task, description=f"{what}: {done} runs, {text}")

        yield CaseRuns(executor, None if out is None else out / "cells", tell)
