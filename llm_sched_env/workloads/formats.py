"""Trace formats: their columns, units and distinguishing marks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

CALENDAR = "date"
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Units of numeric timestamps, in parts of a second."""
UNIT_NAMES = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    CALENDAR: "calendar time",
}


@dataclass(frozen=True)
class TraceFormat:
    """A public format: which columns hold what, and in which unit time is.

    Args:
        name: as error messages and reports call it.
        time: column of the arrival.
        prompt: column of the prompt tokens.
        output: column of the output tokens.
        unit: of the arrival: ``date`` (calendar time), a key of ``UNITS``, or None if the columns
            do not tell it.
        class_column: column that names the class of a request, if every file has one.
        labels: columns that can name the class instead of the file.
        marks: further columns, one of which a file of this format has.
        foreign: columns that no file of this format has.
        whole_times: whether timestamps are whole numbers (True) or have fractions (False), where
            that distinguishes the format; None where it does not.
        unit_in_name: whether the column's name says the unit, so that nothing may change it.
        optional: further columns that the format knows.
        exact: whether other columns than these are refused.
        json_lines: one JSON object per line; otherwise CSV.
        blocks: column of the blocks of the prompt (model/block_lists.py), if its blocks have the
            tokens of ours.
    """

    name: str
    time: str
    prompt: str
    output: str
    unit: str | None
    class_column: str | None = None
    labels: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    whole_times: bool | None = None
    unit_in_name: bool = False
    optional: tuple[str, ...] = ()
    exact: bool = False
    json_lines: bool = False
    blocks: str | None = None

    @property
    def header(self) -> tuple[str, ...]:
        """The columns without which a file is not of this format, in their usual order."""
        label = [self.class_column] if self.class_column else []
        return (self.time, *label, self.prompt, self.output)

    def fits(self, names: Sequence[str]) -> bool:
        """Whether these are the columns of a file of this format."""
        if self.exact:
            first = len(self.header)
            return tuple(names[:first]) == self.header and set(names[first:]) <= set(self.optional)
        return set(self.header) <= set(names) and self.has_marks(names)

    def has_marks(self, names: Collection[str]) -> bool:
        """Whether these columns distinguish the format from others with the same header."""
        marked = not self.marks or any(mark in names for mark in self.marks)
        return marked and not any(name in names for name in self.foreign)


PATIENCE = "patience_seconds"
"""Optional column: how long a request waits in each queue before it abandons."""
SESSION = "session"
"""Optional column: the conversation that a request belongs to, a name or a number."""
HASH_IDS = "hash_ids"
"""Optional column: the blocks of a request, in CSV with spaces between them."""

CANONICAL = TraceFormat(
    "llm-sched-env",
    "arrival_seconds",
    "prompt_tokens",
    "output_tokens",
    "s",
    class_column="class",
    unit_in_name=True,
    optional=(PATIENCE, SESSION, HASH_IDS),
    exact=True,
    blocks=HASH_IDS,
)
"""The schema that traces are saved in; time 0 is the start of the run, tokens may be fractions."""
END_MARK = "# end_seconds="
"""Begins a line above the header of a saved trace that was recorded beyond its last arrival."""

_SHARED = ("timestamp", "input_length", "output_length")
_MOONCAKE_MARKS = (HASH_IDS,)
_BAILIAN_MARKS = ("chat_id", "parent_chat_id")

FORMATS = (
    TraceFormat("Azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", CALENDAR),
    TraceFormat(
        "BurstGPT",
        "Timestamp",
        "Request tokens",
        "Response tokens",
        "s",
        labels=("Model", "Log Type"),
    ),
    TraceFormat(
        "Mooncake",
        *_SHARED,
        "ms",
        marks=_MOONCAKE_MARKS,
        foreign=_BAILIAN_MARKS,
        whole_times=True,
        json_lines=True,
        blocks=HASH_IDS,
    ),
    TraceFormat(
        "Qwen-Bailian",
        *_SHARED,
        "s",
        labels=("type",),
        marks=_BAILIAN_MARKS,
        whole_times=False,
        json_lines=True,
    ),
    TraceFormat(
        "JSON lines", *_SHARED, None, foreign=(*_MOONCAKE_MARKS, *_BAILIAN_MARKS), json_lines=True
    ),
    TraceFormat("Vidur", "arrived_at", "num_prefill_tokens", "num_decode_tokens", "s"),
    TraceFormat(
        "LLMServingSim",
        "arrival_time_ns",
        "input_toks",
        "output_toks",
        "ns",
        unit_in_name=True,
        json_lines=True,
    ),
    CANONICAL,
)
