"""Write a trace so that it reads back bit for bit."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

import numpy as np

from llm_sched_env.errors import TraceError
from llm_sched_env.files.atomic import whole_file
from llm_sched_env.model.block_lists import BlockLists
from llm_sched_env.workloads.formats import CANONICAL, END_MARK, HASH_IDS, PATIENCE, SESSION

if TYPE_CHECKING:
    from llm_sched_env.workloads.trace import Trace


def write_trace(trace: Trace, path: Path) -> None:
    """Write the canonical schema; the file appears under its name when it is whole.

    Raises:
        TraceError: if the file cannot be written.
    """
    names = np.array(trace.class_names, dtype=object)
    compressed = path.suffix == ".gz"
    with whole_file(path, TraceError) as raw, _text(raw, compressed=compressed) as file:
        writer = csv.writer(file, lineterminator="\n")
        if trace.end is not None:
            file.write(f"{END_MARK}{_shortest(trace.end)}\n")
        columns = [
            map(_shortest, trace.arrival_time.tolist()),
            names[trace.request_class],
            map(_shortest, trace.prompt_tokens.tolist()),
            map(_shortest, trace.output_tokens.tolist()),
        ]
        header = list(CANONICAL.header)
        if trace.patience_seconds is not None:
            header.append(PATIENCE)
            columns.append(map(_shortest, trace.patience_seconds.tolist()))
        if trace.session is not None:
            header.append(SESSION)
            columns.append(map(str, trace.session.tolist()))
        if trace.blocks is not None:
            header.append(HASH_IDS)
            columns.append(_block_texts(trace.blocks))
        writer.writerow(header)
        writer.writerows(zip(*columns, strict=True))


@contextmanager
def _text(raw: BinaryIO, *, compressed: bool) -> Iterator[TextIO]:
    # Without the time of writing: the same trace is the same file.
    binary = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if compressed else raw
    with io.TextIOWrapper(cast("BinaryIO", binary), "utf-8", newline="") as text:
        yield text


def _block_texts(blocks: BlockLists) -> Iterator[str]:
    ids, starts = list(map(str, blocks.ids.tolist())), blocks.starts.tolist()
    return (" ".join(ids[first:last]) for first, last in pairwise(starts))


def _shortest(value: float) -> str:
    """The shortest decimal that reads back as the same float."""
    return repr(value).removesuffix(".0")
