"""Summarise a trace: counts, rates and lengths by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llm_sched_env.workloads.trace import Source, Trace, ZeroRows


@dataclass(frozen=True)
class Lengths:
    """Tokens of the requests of a class."""

    mean: float
    p50: float
    p90: float
    p99: float
    maximum: float

    @classmethod
    def of(cls, tokens: np.ndarray) -> Lengths | None:
        """Lengths of some requests; None without any."""
        if len(tokens) == 0:
            return None
        p50, p90, p99 = np.percentile(tokens, (50, 90, 99)).tolist()
        return cls(float(tokens.mean()), p50, p90, p99, float(tokens.max()))


@dataclass(frozen=True)
class ClassSummary:
    """A class of a trace.

    Attributes:
        name: of the class.
        requests: how many are in the trace.
        rate: arrivals per second, for the whole cluster; None if the trace has no duration.
        gap_cv: coefficient of variation of the gaps between arrivals, 1 for a Poisson process;
            None below three requests.
        prompt_tokens: their lengths; None without requests.
        output_tokens: their lengths; None without requests.
        zero_rows: requests without tokens, whether kept or dropped.
        dropped: how many of them are not in the trace.
    """

    name: str
    requests: int
    rate: float | None
    gap_cv: float | None
    prompt_tokens: Lengths | None
    output_tokens: Lengths | None
    zero_rows: ZeroRows
    dropped: int


@dataclass(frozen=True)
class TraceSummary:
    """Counts, rates and lengths of a trace; ``files`` says what was read."""

    files: tuple[Source, ...]
    requests: int
    duration: float
    rate: float | None
    classes: tuple[ClassSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = asdict(self)
        data["files"] = [source._asdict() for source in self.files]
        for plain, summary in zip(data["classes"], self.classes, strict=True):
            plain["zero_rows"] = summary.zero_rows._asdict()
        return data


def reading_notes(trace: Trace) -> list[str]:
    """What a reader should know, a line each: zero-token rows, how each file was understood."""
    counted = _zero_rows(trace)
    counts = ", ".join(
        f"{name} {zero.either:,} ({zero.prompt:,} prompt, {zero.output:,} output; "
        f"{trace.dropped.get(name, ZeroRows()).either:,} dropped)"
        for name, zero in counted.items()
        if zero.either
    )
    made = "" if trace.sources else " (made here)"
    notes = [f"trace: {len(trace):,} requests in {trace.duration:,.3f} s{made}"]
    notes[0] += f"; zero-token rows: {counts or 'none'}"
    notes += [f"trace {source.path}: {source}" for source in trace.sources]
    notes += [
        f"trace {source.path}: {source.out_of_order:,} rows stood out of order and were sorted"
        for source in trace.sources
        if source.out_of_order
    ]
    return notes


def _zero_rows(trace: Trace) -> dict[str, ZeroRows]:
    """Zero-token requests by class, those dropped among them."""
    return {
        name: ZeroRows(*map(sum, zip(kept, trace.dropped.get(name, ZeroRows()), strict=True)))
        for name, kept in trace.zero_rows().items()
    }


def summarize(trace: Trace) -> TraceSummary:
    """Counts, rates and lengths of a trace."""
    lasts = trace.duration > 0
    zero_rows = _zero_rows(trace)
    return TraceSummary(
        trace.sources,
        len(trace),
        trace.duration,
        trace.rate if lasts else None,
        tuple(
            _class_summary(trace, i, zero_rows[name]) for i, name in enumerate(trace.class_names)
        ),
    )


def _class_summary(trace: Trace, i: int, zero_rows: ZeroRows) -> ClassSummary:
    own = trace.request_class == i
    requests, name = int(own.sum()), trace.class_names[i]
    return ClassSummary(
        name,
        requests,
        requests / trace.duration if trace.duration > 0 else None,
        _gap_cv(trace.arrival_time[own]),
        Lengths.of(trace.prompt_tokens[own]),
        Lengths.of(trace.output_tokens[own]),
        zero_rows,
        trace.dropped.get(name, ZeroRows()).either,
    )


def _gap_cv(arrivals: np.ndarray | Sequence[float]) -> float | None:
    gaps = np.diff(arrivals)
    if len(gaps) < 2 or gaps.mean() == 0:
        return None
    return float(gaps.std() / gaps.mean())
