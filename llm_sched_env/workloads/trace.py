"""The trace: recorded requests, with slicing, scaling and saving."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llm_sched_env.errors import ConfigurationError, TraceError, is_finite_number
from llm_sched_env.model.block_lists import BLOCK_TOKENS, BlockLists
from llm_sched_env.simulation.state.layout import RequestStream


class Source(NamedTuple):
    """A file that a trace was read from.

    Attributes:
        path: as it was given.
        format: name of its format.
        rows: requests in it.
        out_of_order: rows that stood below a later arrival; they were sorted, ties as they stood.
        time_unit: what its timestamps were understood to count in.
        not_read: names of its other columns.
    """

    path: str
    format: str
    rows: int
    out_of_order: int
    time_unit: str
    not_read: tuple[str, ...] = ()

    def __str__(self) -> str:
        understood = f"{self.format}, {self.time_unit}"
        unread = [name or "a column without a name" for name in self.not_read]
        return f"{understood}; not read: {', '.join(unread)}" if unread else understood


class ZeroRows(NamedTuple):
    """Requests of a class without tokens: failures in most data sets.

    Attributes:
        prompt: without prompt tokens.
        output: without output tokens.
        either: without one or the other.
    """

    prompt: int = 0
    output: int = 0
    either: int = 0


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in order of arrival: what every format is read into.

    Attributes:
        class_names: one per file, or as the files name them.
        arrival_time: seconds since time 0, for recorded files the first arrival; shape (K,),
            non-decreasing.
        request_class: index into ``class_names``; shape (K,).
        prompt_tokens: shape (K,); may be fractions.
        output_tokens: shape (K,); may be fractions.
        sources: the files that it was read from.
        dropped: zero-token requests that were left out, by class name.
        end: seconds until which arrivals were recorded, so that quiet time after the last of
            them counts; None: until the last arrival.
        patience_seconds: how long each request waits in a queue before it abandons, shape (K,);
            None: drawn at the patience rates of the instance.
        session: number of the conversation of each request, shape (K,); None: each stands alone.
        blocks: of the prompt of each request and, where they are known, of its answer, which a
            prefix cache may have; None: nothing can be reused.

    Raises:
        TraceError: for arrays that are no stream of requests.

    Example:
        >>> trace = Trace(("chat",), [0.0, 1.5, 2.0], [0, 0, 0], [300, 80, 120], [50, 400, 20])
        >>> trace.window(1.0, 4.0).duration
        3.0
    """

    class_names: tuple[str, ...]
    arrival_time: np.ndarray
    request_class: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    sources: tuple[Source, ...] = ()
    dropped: Mapping[str, ZeroRows] = field(default_factory=dict)
    end: float | None = None
    patience_seconds: np.ndarray | None = None
    session: np.ndarray | None = None
    blocks: BlockLists | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(self.class_names))
        types = {"request_class": np.int32}
        for name in ("arrival_time", "request_class", "prompt_tokens", "output_tokens"):
            array = np.ascontiguousarray(getattr(self, name), types.get(name, np.float64))
            object.__setattr__(self, name, array)
        if self.patience_seconds is not None:
            patience = np.ascontiguousarray(self.patience_seconds, np.float64)
            object.__setattr__(self, "patience_seconds", patience)
        if self.session is not None:
            session = np.ascontiguousarray(self.session, np.int64)
            object.__setattr__(self, "session", session)
        _check_names(self.class_names)
        _check_arrays(self)
        _check_shared(self)
        if self.end is not None:
            object.__setattr__(self, "end", float(self.end))

    def __len__(self) -> int:
        return len(self.arrival_time)

    @property
    def stream(self) -> RequestStream:
        """What the engine replays."""
        given = self.patience_seconds
        return RequestStream(
            self.arrival_time,
            self.request_class,
            self.prompt_tokens,
            self.output_tokens,
            np.empty(0) if given is None else given,
            np.empty(0, np.int64) if self.session is None else self.session,
            *((np.empty(0, np.int64),) * 2 if self.blocks is None else self.blocks.arrays),
        )

    @property
    def reused_tokens(self) -> np.ndarray:
        """Prompt tokens that one infinite cache would have of each request, shape (K,)."""
        if self.blocks is None:
            return np.zeros(len(self))
        return self.blocks.reused_tokens(self.prompt_tokens, BLOCK_TOKENS)

    @property
    def duration(self) -> float:
        """Seconds from time 0 to the end, by default the last arrival."""
        return float(self.arrival_time[-1]) if self.end is None else self.end

    @property
    def rate(self) -> float:
        """Mean arrivals per second, all classes, for the whole cluster."""
        return len(self) / self.positive_duration()

    def positive_duration(self) -> float:
        """The duration; TraceError if it is 0, so that there is no rate."""
        if self.duration <= 0:
            raise TraceError(
                "trace: got requests that arrive all at one instant, so they have no rate; say "
                "over how many seconds to count them with a horizon or a window"
            )
        return self.duration

    def at_speed(self, speed: float) -> Trace:
        """The same requests arriving ``speed`` times as fast."""
        if not is_finite_number(speed, positive=True):
            raise ConfigurationError("speed", speed, "a finite number > 0")
        end = None if self.end is None else self.end / speed
        return dataclasses.replace(self, arrival_time=self.arrival_time / speed, end=end)

    def at_rate(self, rate: float) -> Trace:
        """The same requests at a mean of ``rate`` arrivals per second for the whole cluster."""
        if not is_finite_number(rate, positive=True):
            raise ConfigurationError("rate", rate, "a finite number of requests per second > 0")
        return self.at_speed(rate / self.rate)

    def window(self, start: float, end: float = np.inf) -> Trace:
        """The requests that arrive in [start, end) seconds; ``start`` is their time 0.

        A finite end is kept, with the quiet time before it; ``inf`` keeps the trace's own.
        """
        if not is_finite_number(start) or not (end == np.inf or is_finite_number(end)):
            raise ConfigurationError(
                "window", (start, end), "start, end in seconds >= 0; the end may be inf"
            )
        inside = slice(*np.searchsorted(self.arrival_time, (start, end)))
        if len(self.arrival_time[inside]) == 0:
            raise ConfigurationError(
                "window",
                (start, end),
                "seconds in which a request arrives",
                f"the trace lasts {self.duration:g} s",
            )
        kept = self.end if end == np.inf else end
        return dataclasses.replace(
            self._picked(inside),
            arrival_time=self.arrival_time[inside] - start,
            end=None if kept is None else kept - start,
        )

    def arrives_in(self, start: float, end: float) -> np.ndarray:
        """Which requests arrive in [start, end) seconds; bool, shape (K,).

        An end that no arrival is after belongs to it: the last request of a whole trace counts.
        """
        arrivals = self.arrival_time
        before = arrivals <= end if arrivals[-1] <= end else arrivals < end
        inside: np.ndarray = (start <= arrivals) & before
        return inside

    def until(self, end: float) -> Trace:
        """The requests that arrive before ``end`` seconds, as :meth:`arrives_in` has it."""
        arrived = self.arrives_in(0.0, end)
        return self if arrived.all() else self._picked(arrived)

    def without_zero_rows(self) -> Trace:
        """The requests with prompt and output tokens; the others stay counted in ``dropped``."""
        kept = (self.prompt_tokens > 0) & (self.output_tokens > 0)
        if not kept.any():
            raise TraceError(
                "trace: got requests that all have a zero token count, expected one without "
                "when they are dropped; keep them"
            )
        zero = self.zero_rows()
        return dataclasses.replace(self._picked(kept), dropped=_added(self.dropped, zero))

    def zero_rows(self) -> dict[str, ZeroRows]:
        """Zero-token requests that are in the trace, by class name."""
        no_prompt, no_output = self.prompt_tokens == 0, self.output_tokens == 0
        counted = [
            np.bincount(self.request_class[rows], minlength=len(self.class_names)).tolist()
            for rows in (no_prompt, no_output, no_prompt | no_output)
        ]
        rows = map(ZeroRows._make, zip(*counted, strict=True))
        return dict(zip(self.class_names, rows, strict=True))

    def with_classes(self, names: Sequence[str]) -> Trace:
        """The same requests with classes in the order of ``names``, which may have more."""
        missing = sorted(set(self.class_names) - set(names))
        if missing:
            raise TraceError(
                f"trace: got the classes {missing}, expected {', '.join(names)}; "
                "rename one or the other"
            )
        position = np.array([list(names).index(name) for name in self.class_names], np.int32)
        return dataclasses.replace(
            self, class_names=tuple(names), request_class=position[self.request_class]
        )

    def save(self, path: str | Path) -> None:
        """Write it in the canonical schema, compressed if the name ends in .gz; exact on loading.

        The file names the classes by request: their order on loading is that of their first
        requests, and :meth:`with_classes` gives any other.
        """
        from llm_sched_env.workloads.writing import write_trace

        write_trace(self, Path(path))

    def _picked(self, rows: slice | np.ndarray) -> Trace:
        return dataclasses.replace(
            self,
            arrival_time=self.arrival_time[rows],
            request_class=self.request_class[rows],
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            patience_seconds=(
                None if self.patience_seconds is None else self.patience_seconds[rows]
            ),
            session=None if self.session is None else self.session[rows],
            blocks=None if self.blocks is None else self.blocks.picked(rows),
        )


def merged(traces: Sequence[Trace]) -> Trace:
    """One trace of several with the same time 0; ties in their order, classes joined by name."""
    if len(traces) == 1:
        return traces[0]
    names = tuple(dict.fromkeys(name for trace in traces for name in trace.class_names))
    traces = [trace.with_classes(names) for trace in traces]
    arrivals = np.concatenate([trace.arrival_time for trace in traces])
    order = np.argsort(arrivals, kind="stable")
    dropped: Mapping[str, ZeroRows] = {}
    for trace in traces:
        dropped = _added(dropped, trace.dropped)
    return Trace(
        names,
        arrivals[order],
        np.concatenate([trace.request_class for trace in traces])[order],
        np.concatenate([trace.prompt_tokens for trace in traces])[order],
        np.concatenate([trace.output_tokens for trace in traces])[order],
        tuple(source for trace in traces for source in trace.sources),
        dropped,
        _latest_end(traces),
        _joined_patience(traces, order),
        _joined_sessions(traces, order),
        _joined_blocks(traces, order),
    )


def _joined_sessions(traces: Sequence[Trace], order: np.ndarray) -> np.ndarray | None:
    """Sessions of several traces, which have none in common; alone where a trace has none."""
    if all(trace.session is None for trace in traces):
        return None
    first, numbers = 0, []
    for trace in traces:
        own = np.arange(len(trace)) if trace.session is None else trace.session
        numbers.append(own + first)
        first += int(own.max()) + 1
    joined: np.ndarray = np.concatenate(numbers)[order]
    return joined


def _joined_blocks(traces: Sequence[Trace], order: np.ndarray) -> BlockLists | None:
    """Blocks of several traces, which have none in common."""
    if all(trace.blocks is None for trace in traces):
        return None
    nothing = [BlockLists(np.empty(0, int), np.zeros(len(trace) + 1, int)) for trace in traces]
    own = [trace.blocks or none for trace, none in zip(traces, nothing, strict=True)]
    return BlockLists.joined(own).picked(order)


def _joined_patience(traces: Sequence[Trace], order: np.ndarray) -> np.ndarray | None:
    """The patience of all requests of several traces in an order; None if none gives it."""
    given = [trace.patience_seconds for trace in traces if trace.patience_seconds is not None]
    if not given:
        return None
    if len(given) < len(traces):
        raise TraceError(
            f"trace: {len(given)} of {len(traces)} files give patience_seconds; give it in all "
            "that are replayed together, or in none"
        )
    joined: np.ndarray = np.concatenate(given)[order]
    return joined


def _latest_end(traces: Sequence[Trace]) -> float | None:
    """The end of traces that are merged; None if it is the last arrival of them all."""
    if all(trace.end is None for trace in traces):
        return None
    return max(trace.duration for trace in traces)


def _added(one: Mapping[str, ZeroRows], two: Mapping[str, ZeroRows]) -> dict[str, ZeroRows]:
    """Counts of both, by class."""
    nothing = ZeroRows()
    return {
        name: ZeroRows(*map(sum, zip(one.get(name, nothing), two.get(name, nothing), strict=True)))
        for name in {**one, **two}
    }


def _check_names(names: tuple[str, ...]) -> None:
    if len(set(names)) < len(names):
        raise TraceError(f"trace: got the classes {list(names)}, expected each name once")
    for name in names:
        if not name or name != name.strip() or not name.isprintable():
            raise TraceError(
                f"trace: got the class name {name!r}, expected printable text without spaces "
                "around it"
            )


def _check_arrays(trace: Trace) -> None:
    arrivals, classes = trace.arrival_time, trace.request_class
    if not len(arrivals) == len(classes) == len(trace.prompt_tokens) == len(trace.output_tokens):
        raise TraceError("trace: got arrays of different lengths, expected one entry per request")
    if len(arrivals) == 0:
        raise TraceError("trace: got no request, expected at least one")
    if not np.isfinite(arrivals).all() or arrivals[0] < 0 or (np.diff(arrivals) < 0).any():
        raise TraceError(
            "trace: got arrival times that go back or are not finite, expected non-decreasing "
            "seconds >= 0; sort the requests"
        )
    if classes.min() < 0 or classes.max() >= len(trace.class_names):
        raise TraceError(
            f"trace: got the classes {classes.min()} to {classes.max()}, expected 0 to "
            f"{len(trace.class_names) - 1}"
        )
    if trace.end is not None and not (is_finite_number(trace.end) and trace.end >= arrivals[-1]):
        raise TraceError(
            f"trace: got the end {trace.end!r}, expected seconds not before the last arrival at "
            f"{arrivals[-1]:g}"
        )
    given = trace.patience_seconds
    if given is not None and not (
        given.shape == arrivals.shape and (np.isfinite(given) & (given >= 0)).all()
    ):
        raise TraceError("trace: patience_seconds must be a finite number >= 0 for each request")
    for tokens in (trace.prompt_tokens, trace.output_tokens):
        if not (np.isfinite(tokens) & (tokens >= 0)).all():
            raise TraceError("trace: got token counts that are not finite numbers >= 0")


def _check_shared(trace: Trace) -> None:
    """What requests have in common."""
    session, blocks = trace.session, trace.blocks
    if session is not None and (session.shape != (len(trace),) or session.min() < 0):
        raise TraceError("trace: session must be a whole number >= 0 for each request")
    if blocks is not None and len(blocks) != len(trace):
        raise TraceError(
            f"trace: got blocks of {len(blocks)} requests, expected {len(trace)} lists"
        )
