"""Recognise the format of a file by its columns, never by its name."""

from __future__ import annotations

import math
from pathlib import Path

from llm_sched_env.errors import TraceError, is_finite_number
from llm_sched_env.workloads.formats import END_MARK, FORMATS, TraceFormat
from llm_sched_env.workloads.header_faults import refusal
from llm_sched_env.workloads.header_texts import header_names, is_json


def recognized(path: Path, first_line: str) -> tuple[TraceFormat, list[str]]:
    """The format of a file and the names of its columns, from the first line.

    Raises:
        TraceError: for a header of no format or of two, or with a column twice.
    """
    text = first_line.strip()
    names = header_names(text)
    # A column without a name is an index that pandas wrote.
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise TraceError(f"trace {path} line 1: got the column {twice[0]!r} twice; leave one out")
    fitting = [f for f in FORMATS if f.json_lines == is_json(text) and f.fits(names)]
    if len(fitting) == 1:
        return fitting[0], names
    if fitting:
        raise TraceError(
            f"trace {path}: got the columns of {' and of '.join(f.name for f in fitting)}; leave "
            "those of one format"
        )
    raise refusal(path, text, names)


def recorded_end(path: Path, first_line: str) -> float | None:
    """The end of the recording, seconds, if the first line is the one that tells it."""
    text = first_line.strip()
    if not text.startswith(END_MARK):
        return None
    try:
        end = float(text.removeprefix(END_MARK))
    except ValueError:
        end = math.nan
    if not is_finite_number(end):
        raise TraceError(f"trace {path} line 1: got {text!r}, expected {END_MARK}SECONDS")
    return end


def unit_refusal(path: Path, kind: TraceFormat) -> TraceError:
    """The error for a file whose timestamps could be in two units."""
    seen = {
        True: "Mooncake's are whole milliseconds, but some here have fractions",
        False: "Qwen-Bailian's are seconds with fractions, but all here are whole numbers",
        None: "Mooncake's milliseconds come with 'hash_ids', Qwen-Bailian's seconds with 'chat_id'",
    }[kind.whole_times]
    return TraceError(
        f"trace {path}: the unit of {kind.time!r} is unclear ({seen}); give --time-unit s or ms "
        "(Python: time_unit), once and for all with `llmsched trace FILE --time-unit s --save`"
    )
