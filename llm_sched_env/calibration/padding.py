"""Whether an engine pads its chunks: does the time of a short chunk follow its tokens, or C?"""

from __future__ import annotations

import numpy as np

from llm_sched_env.calibration.iteration_log import IterationLog
from llm_sched_env.calibration.relative_fit import unidentified_columns

_FEWEST = 8
_SHORT = 0.75  # of a whole chunk
_FOLLOWS = 0.05  # of an iteration's time, that the shortest chunks save at least


def chunks_are_padded(log: IterationLog, chunk_tokens: int) -> bool | None:
    """Whether chunks take the time of whole ones; None if the log has too few short ones.

    A line in c, b, K and h C is fitted to the iterations with a prefill, its terms of either
    sign. Chunks are padded if its slope in c makes less than 5% of the time between the shortest
    chunks seen and whole ones.
    """
    mixed = log.picked(log.mixed)
    chunk = mixed.prefill_tokens
    short = chunk < _SHORT * chunk_tokens
    if short.sum() < _FEWEST:
        return None
    columns = {
        "seconds": np.ones(len(mixed)),
        "prompt": chunk,
        "decodes": mixed.decodes,
        "kv": mixed.kv_tokens,
        "cached": mixed.prefill_context,
    }
    faults = unidentified_columns(columns)
    if "prompt" in faults:
        return None
    rows = np.column_stack([columns[name] for name in columns if name not in faults])
    weighted = rows / mixed.seconds[:, None]
    size = np.linalg.norm(weighted, axis=0)
    slope = np.linalg.lstsq(weighted / size, np.ones(len(mixed)), rcond=None)[0][1] / size[1]
    saved = slope * (chunk_tokens - float(np.median(chunk[short])))
    return bool(saved < _FOLLOWS * float(np.median(mixed.seconds)))
