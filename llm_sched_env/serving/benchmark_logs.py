"""Measured runs from what the benchmark clients of vLLM and SGLang write.

``vllm bench serve --save-result --save-detailed`` writes a JSON object, and ``sglang.bench_serving
--output-file ... --output-details`` a line of JSON a run; both have arrays with an entry a request:
``input_lens``, ``output_lens``, ``ttfts``, ``itls`` (seconds), ``start_times`` (of a clock with any
origin) and ``errors``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.errors import TraceError
from llm_sched_env.validation.served_run import COMPLETED, ServedRun

ARRAYS = ("input_lens", "output_lens", "ttfts", "itls", "start_times")
_PATIENT = 1e9
_DETAILS = "write it with --save-detailed (vLLM) or --output-details (SGLang, a newer version)"


@dataclass(frozen=True, eq=False)
class ImportedRun:
    """A run as its client saw it.

    Attributes:
        run: requests that completed.
        failed: requests that did not, which are left out.
    """

    run: ServedRun
    failed: int


def read_benchmark_log(path: str | Path, class_name: str = "all") -> ImportedRun:
    """Read the detailed result of a benchmark client.

    These clients count the token that a prefill yields as the first output, which the model does
    not: a request of D of their tokens has D - 1 decode iterations, and D - 1 output tokens here
    (at least 1). When a prefill began they do not know; its place takes the arrival.

    Args:
        path: of a file with one run.
        class_name: of all requests.

    Raises:
        TraceError: for a file that is no such result, naming what is missing.
    """
    path = Path(path)
    values = _only_run(path)
    missing = [name for name in ARRAYS if not isinstance(values.get(name), list)]
    if missing:
        raise TraceError(f"{path}: no {', '.join(missing)}; {_DETAILS}")
    count = len(values["input_lens"])
    for name in ARRAYS:
        if len(values[name]) != count:
            raise TraceError(
                f"{path}: {name} has {len(values[name])} entries, expected {count}, one a request"
            )
    if not isinstance(values.get("errors", []), list):
        raise TraceError(f"{path}: errors is no list; expected one text a request")
    prompts, outputs, ttft, start = (
        _numbers(path, values, name)
        for name in ("input_lens", "output_lens", "ttfts", "start_times")
    )
    gaps = _sums(path, values["itls"])
    errors = values.get("errors") or [""] * count
    done = (
        np.array([not error for error in errors]) if len(errors) == count else np.ones(count, bool)
    )
    done &= (outputs >= 1) & (prompts >= 1) & (ttft > 0)
    if not done.any():
        raise TraceError(f"{path}: none of {count} requests completed; expected at least one")
    if np.isnan(start[done]).any():
        lacking = int(np.flatnonzero(done & np.isnan(start))[0])
        raise TraceError(
            f"{path}: start_times has no number for request {lacking}, which completed; expected "
            "seconds, by the clock of the others"
        )
    order = np.flatnonzero(done)[np.argsort(start[done], kind="stable")]
    arrival = start[order] - start[order[0]]
    first = arrival + ttft[order]
    size = len(order)
    run = ServedRun(
        (class_name,),
        arrival,
        np.zeros(size, np.int32),
        prompts[order],
        np.maximum(1.0, outputs[order] - 1.0),
        np.full(size, _PATIENT),
        np.full(size, COMPLETED, np.int32),
        arrival,
        first,
        first + gaps[order],
    )
    return ImportedRun(run, count - size)


def _only_run(path: Path) -> dict[str, Any]:
    """The one object of a JSON file, or of one with a line a run."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TraceError(f"{path}: cannot be read ({error}); check the path") from error
    try:
        runs = [json.loads(text)]
    except ValueError:
        runs = _lines(path, text)
    if len(runs) != 1:
        raise TraceError(f"{path}: {len(runs)} runs; expected one, give each a file of its own")
    if not isinstance(runs[0], dict):
        raise TraceError(f"{path}: got {type(runs[0]).__name__}, expected an object; {_DETAILS}")
    return runs[0]


def _lines(path: Path, text: str) -> list[Any]:
    runs = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            runs.append(json.loads(line))
        except ValueError as error:
            raise TraceError(f"{path}, line {number}: no JSON ({error}); {_DETAILS}") from error
    return runs


def _numbers(path: Path, values: dict[str, Any], name: str) -> np.ndarray:
    """An array of the file; NaN where there is no number."""
    for value in values[name]:
        if value is not None and not _is_number(value):
            raise TraceError(f"{path}: {name} has entries that are no numbers (got {value!r:.60})")
    found = np.array([np.nan if v is None else v for v in values[name]], np.float64)
    if not np.isfinite(found[~np.isnan(found)]).all() or (found < 0).any():
        raise TraceError(f"{path}: {name} has infinite or negative entries; expected numbers >= 0")
    return found


def _sums(path: Path, lists: list[Any]) -> np.ndarray:
    """Seconds from the first token of each request to its last."""
    for own in lists:
        if own is not None and not (isinstance(own, list) and all(map(_is_number, own))):
            raise TraceError(
                f"{path}: itls has entries that are no lists of seconds (got {own!r:.60})"
            )
    sums = np.array([sum(own or []) for own in lists], np.float64)
    if not np.isfinite(sums).all() or (sums < 0).any():
        raise TraceError(f"{path}: itls has infinite or negative entries; expected seconds >= 0")
    return sums


def _is_number(value: Any) -> bool:
    """Whether it is a number of JSON that a float can hold; infinity and NaN are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) or abs(value) <= sys.float_info.max
