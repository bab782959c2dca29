"""How is a trace written, so that it is read back bit for bit?"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from llm_sched_env.errors import TraceError
from llm_sched_env.workloads.formats import CANONICAL, END_MARK

if TYPE_CHECKING:
    from llm_sched_env.workloads.trace import Trace


def write_trace(trace: Trace, path: Path) -> None:
    """Write the canonical schema; the file appears under its name when it is whole."""
    part = path.with_name(path.name + ".part")
    names = np.array(trace.class_names, dtype=object)
    try:
        with _open(part, compressed=path.suffix == ".gz") as file:
            writer = csv.writer(file, lineterminator="\n")
            if trace.end is not None:
                file.write(f"{END_MARK}{_shortest(trace.end)}\n")
            writer.writerow(CANONICAL.header)
            writer.writerows(
                zip(
                    map(_shortest, trace.arrival_time.tolist()),
                    names[trace.request_class],
                    map(_shortest, trace.prompt_tokens.tolist()),
                    map(_shortest, trace.output_tokens.tolist()),
                    strict=True,
                )
            )
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise TraceError(
            f"trace {path}: got a path that cannot be written ({error.strerror}), allowed is one "
            "in a folder that exists"
        ) from None


@contextmanager
def _open(path: Path, *, compressed: bool) -> Iterator[TextIO]:
    with path.open("wb") as raw:
        # Without the time of writing: the same trace is the same file.
        binary = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if compressed else raw
        with io.TextIOWrapper(binary, "utf-8", newline="") as text:
            yield text


def _shortest(value: float) -> str:
    """The shortest decimal that reads back as the same float."""
    return repr(value).removesuffix(".0")
