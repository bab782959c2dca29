"""What a run on an engine leaves: requests and iterations, in the columns of their logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.calibration.iteration_log import LOG_HEADER, START
from llm_sched_env.files.atomic import make_folder, write_rows
from llm_sched_env.serving.real_machine import Iteration
from llm_sched_env.simulation.state import layout
from llm_sched_env.validation.served_files import SERVED_HEADER
from llm_sched_env.validation.served_run import ABANDONED, COMPLETED, INSIDE, OUTCOMES, ServedRun
from llm_sched_env.workloads.trace import Trace

ITERATION_HEADER = (START, *LOG_HEADER, "end_seconds", "cpu_seconds")
DECISION_HEADER = ("seconds", "decision", "id", "gpu")
_FIELDS = ("seconds", "kind", "request", "gpu")
_DECISIONS = {layout.PREFILL_START: "prefill", layout.DECODE_START: "decode"}


@dataclass(frozen=True, eq=False)
class Decisions:
    """Starts in order: when, of which kind, of which request, where; arrays of shape (K,)."""

    seconds: np.ndarray
    kind: np.ndarray
    request: np.ndarray
    gpu: np.ndarray

    @classmethod
    def of(cls, events: Sequence[np.ndarray]) -> Decisions:
        """Those among the events of a cluster."""
        told = np.concatenate([np.empty(0, layout.EVENT), *events])
        starts = told[np.isin(told["kind"], list(_DECISIONS))]
        return cls(starts["time"], starts["kind"], starts["index"], starts["gpu"])

    def __len__(self) -> int:
        return len(self.seconds)

    def first_difference(self, other: Decisions) -> int | None:
        """The number of the first decision that is another, in time too; None: all are the same."""
        pairs = [(getattr(self, n), getattr(other, n)) for n in _FIELDS]
        common = min(len(self), len(other))
        differs = np.any([a[:common] != b[:common] for a, b in pairs], axis=0)
        if differs.any():
            return int(np.argmax(differs))
        return None if len(self) == len(other) else common


def served_run(
    trace: Trace, iterations: Sequence[Sequence[Iteration]], events: Sequence[np.ndarray]
) -> ServedRun:
    """What became of the requests that have arrived.

    Args:
        trace: what was to arrive, with patience.
        iterations: of each GPU.
        events: of the cluster, up to the end of the run.
    """
    told = np.concatenate([np.empty(0, layout.EVENT), *events])
    times = np.full((layout.REJECT + 1, len(trace)), np.nan)
    times[told["kind"], told["index"]] = told["time"]
    begun = np.full(len(trace), np.nan)
    for own in iterations:
        for iteration in own:
            for request, is_prefill in iteration.sent:
                if is_prefill and not np.isnan(iteration.end):
                    begun[request] = iteration.start
    completed = ~np.isnan(times[layout.DECODE_END])
    left = np.fmax(times[layout.LEAVE_PREFILL], times[layout.LEAVE_DECODE])
    assert trace.patience_seconds is not None
    run = ServedRun(
        trace.class_names,
        trace.arrival_time,
        trace.request_class,
        trace.prompt_tokens,
        trace.output_tokens,
        trace.patience_seconds,
        np.where(completed, COMPLETED, np.where(np.isnan(left), INSIDE, ABANDONED)),
        begun,
        times[layout.PREFILL_END],
        np.where(completed, times[layout.DECODE_END], left),
    )
    return run.until(float(told["time"].max())) if len(told) else run.until(-1.0)


def write_served(
    folder: Path,
    run: ServedRun,
    iterations: Sequence[Sequence[Iteration]],
    decisions: Decisions,
) -> list[str]:
    """Write ``requests.csv``, ``decisions.csv`` and an iteration log a GPU; their names."""
    make_folder(folder)
    write_requests(folder / "requests.csv", run)
    write_rows(folder / "decisions.csv", DECISION_HEADER, _decision_rows(decisions))
    names = ["requests.csv", "decisions.csv"]
    for gpu, own in enumerate(iterations):
        name = "iterations.csv" if len(iterations) == 1 else f"iterations_{gpu}.csv"
        write_rows(folder / name, ITERATION_HEADER, map(iteration_row, own))
        names.append(name)
    return names


def write_requests(path: Path, run: ServedRun) -> None:
    """Write a measured run, as :func:`.read_served_run` reads it."""
    write_rows(path, SERVED_HEADER, _request_rows(run))


def iteration_row(iteration: Iteration) -> dict[str, Any]:
    """A row of an iteration log."""
    return {
        START: iteration.start,
        "seconds": iteration.seconds,
        **iteration.content._asdict(),
        "end_seconds": "" if np.isnan(iteration.end) else iteration.end,
        "cpu_seconds": iteration.cpu_seconds,
    }


def processor_share(iterations: Sequence[Iteration]) -> float:
    """Time on the processor over the time that iterations took: less than 1 where others run."""
    total = sum(iteration.seconds for iteration in iterations)
    return sum(iteration.cpu_seconds for iteration in iterations) / total if total > 0 else 1.0


def _request_rows(run: ServedRun) -> Iterator[dict[str, Any]]:
    for k in range(len(run)):
        times = (run.prefill_start[k], run.first_token[k], run.end[k])
        values = (
            k,
            float(run.arrival_time[k]),
            run.class_names[run.request_class[k]],
            int(run.prompt_tokens[k]),
            int(run.output_tokens[k]),
            float(run.patience_seconds[k]),
            OUTCOMES[run.outcome[k]],
            *("" if np.isnan(time) else float(time) for time in times),
        )
        yield dict(zip(SERVED_HEADER, values, strict=True))


def _decision_rows(decisions: Decisions) -> Iterator[dict[str, Any]]:
    arrays = (decisions.seconds, decisions.kind, decisions.request, decisions.gpu)
    for time, kind, request, gpu in zip(*(a.tolist() for a in arrays), strict=True):
        values = (time, _DECISIONS[kind], request, gpu)
        yield dict(zip(DECISION_HEADER, values, strict=True))
