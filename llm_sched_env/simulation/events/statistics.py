"""Statistics kept during a run: log-linear latency histograms, and the event log."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.simulation.runtime.compiled import compiled
from llm_sched_env.simulation.state.layout import (
    HISTOGRAM_BINS,
    LOWEST_EXPONENT,
    SUB_BINS_BITS,
    EngineState,
)

_FRACTION_BITS = 52
_EXPONENT_BIAS = 1023
_SHIFT = _FRACTION_BITS - SUB_BINS_BITS
_FIRST_BIN = (LOWEST_EXPONENT + _EXPONENT_BIAS) << SUB_BINS_BITS


@compiled
def histogram_bin(seconds: float) -> Any:
    """The bin of a latency: 64 equal steps per power of two, so at most 1.6% wide."""
    place = (np.float64(seconds).view(np.int64) >> _SHIFT) - _FIRST_BIN
    return min(max(place, 0), HISTOGRAM_BINS - 1)


@compiled
def count_latency(state: EngineState, which: int, i: int, seconds: float) -> None:
    """Add one latency of class i to its histogram, if histograms are kept."""
    if state.histograms.shape[2] == 0:
        return
    state.histograms[which, i, histogram_bin(seconds)] += 1


@compiled
def log_event(
    state: EngineState, log: np.ndarray, time: float, kind: int, index: int, gpu: int
) -> None:
    """Append to the event log; beyond its length events are only counted."""
    if len(log) == 0:
        return
    clock = state.clock[0]
    if clock.logged < len(log):
        entry = log[clock.logged]
        entry.time = time
        entry.kind = kind
        entry.index = index
        entry.gpu = gpu
    clock.logged += 1
