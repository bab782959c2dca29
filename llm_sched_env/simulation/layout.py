"""The engine's state as flat arrays: what each field holds, its unit, and how it is allocated.

I classes, n GPUs, B batch slots, R request records (R grows on demand). All times are seconds
since the start of the run, token counts are floats, everything else is an integer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from llm_sched_env.simulation.random_streams import STREAMS

# Sets of GPUs kept for O(1) random choice: see availability.py.
SOLO_DECODE, MIXED_DECODE, PREFILL = 0, 1, 2
N_AVAILABLE_SETS = 3

# Decode lines: one over classes (the first), or one per pool under randomized routing.
SOLO_LINE = 0
MIXED_LINE = 1
N_DECODE_LINES = 2

TTFT, TPOT, E2E = 0, 1, 2
N_LATENCIES = 3

SUB_BINS_BITS = 6
LOWEST_EXPONENT, HIGHEST_EXPONENT = -20, 24  # 2^-20 s (1 us) to 2^24 s (194 days)
HISTOGRAM_BINS = (HIGHEST_EXPONENT - LOWEST_EXPONENT) << SUB_BINS_BITS

_f8, _i8, _i4 = np.float64, np.int64, np.int32

SETTINGS = np.dtype(
    [
        ("batch_slots", _i8),
        ("gate", _i8),
        ("router", _i8),
        ("pools", _i8),
        ("prefill_first", _i8),
        ("bill_own_tokens", _i8),  # 1: a request's own counts, 0: its class means
        ("solo_seconds", _f8),  # per iteration without a prefill
        ("mixed_seconds", _f8),  # per iteration with a prefill
        ("chunk_tokens", _f8),
        ("arrival_rate", _f8),  # all classes, whole cluster, 1/s; 0 with a recorded stream
        ("prefill_price", _f8),
        ("decode_price", _f8),
    ]
)

CLASS_PARAMETERS = np.dtype(
    [
        ("prompt_tokens", _f8),  # mean
        ("output_tokens", _f8),  # mean
        ("arrival_rate", _f8),  # whole cluster, 1/s
        ("patience_rate", _f8),  # 1/s
        ("cumulative_share", _f8),  # of arrivals, over classes 0..i
        ("prefill_rate", _f8),  # mu_p, 1/s
    ]
)

CLASS_CONTROL = np.dtype(
    [
        ("prefill_target", _f8),  # n x*, GPUs
        ("queue_target", _f8),  # n q_p*, requests
        ("solo_probability", _f8),
        ("credit_rate", _f8),  # admissions per second, whole cluster
        ("credit", _f8),  # at credit_time
        ("credit_time", _f8),
        ("unlimited", _i8),  # 1: credit is always full
    ]
)

CLASS_STATE = np.dtype(
    [
        ("q_prefill", _i8),
        ("x", _i8),
        ("q_decode", _i8),
        ("y_mixed", _i8),
        ("y_solo", _i8),
    ]
)

OCCUPANCIES = ("q_prefill", "x", "q_decode", "y_mixed", "y_solo")

COUNTS = (
    "initial",
    "arrived",
    "admitted",
    "prefilled",
    "completed",
    "abandoned_prefill",
    "abandoned_decode",
)

# An area is -sum(change * time) since the last reset; with the current count it gives the
# time integral without touching the other classes (metrics.py).
CLASS_TOTALS = np.dtype(
    [(f"{name}_area", _f8) for name in OCCUPANCIES]
    + [(name, _i8) for name in COUNTS]
    + [("prompt_tokens", _f8), ("output_tokens", _f8)]  # of finished prefills and decodes
    + [("bundled_revenue", _f8), ("prefill_revenue", _f8), ("decode_revenue", _f8)]
    + [("ttft_sum", _f8), ("tpot_sum", _f8), ("e2e_sum", _f8)]
)

GPU = np.dtype(
    [
        ("iterations", _f8),  # the GPU's clock at updated_time
        ("updated_time", _f8),  # of the last change of speed
        ("prefill_mark", _f8),  # on the GPU's clock; inf: no prefill
        ("prefill_request", _i4),  # -1: none
        ("decodes", _i4),
    ]
)

REQUEST = np.dtype(
    [
        ("arrival_time", _f8),
        ("first_token_time", _f8),
        ("prompt_tokens", _f8),
        ("output_tokens", _f8),
        ("index", _i8),  # order of arrival; negative: present at the start
        ("request_class", _i4),
        ("next", _i4),
        ("previous", _i4),
        ("queue", _i4),  # where it waits; -1: in service
        ("unused", _i8),  # fills a cache line
    ]
)

QUEUE = np.dtype([("head", _i4), ("tail", _i4)])  # request records; -1: empty

CLOCK = np.dtype(
    [
        ("time", _f8),
        ("metrics_start", _f8),
        ("next_arrival_time", _f8),
        ("credit_time", _f8),  # next credit timer; inf: none
        ("credit_class", _i8),
        ("next_index", _i8),  # of the next arriving request
        ("routing_draws", _i8),
        ("initial_requests", _i8),
        ("waiting_prefills", _i8),  # all classes
        ("waiting_decodes", _i8),  # all lines
        ("patience_size", _i8),
        ("free_size", _i8),
        ("mixed_pool_size", _i8),
        ("events", _i8),
        ("logged", _i8),
    ]
)

EVENT = np.dtype([("time", _f8), ("kind", _i8), ("index", _i8), ("gpu", _i8)])

ARRIVE, PREFILL_START, PREFILL_END, DECODE_START, DECODE_END, LEAVE_PREFILL, LEAVE_DECODE = range(7)


class EngineState(NamedTuple):
    """Everything simulated clusters own; a copy of these arrays is a snapshot.

    Shapes are those of one cluster. N clusters are stored with a leading axis N and run as
    rows of it, each as if alone.
    """

    settings: np.ndarray  # (1,) SETTINGS
    keys: np.ndarray  # (7,) uint64, one per random stream
    clock: np.ndarray  # (1,) CLOCK
    parameters: np.ndarray  # (I,) CLASS_PARAMETERS
    control: np.ndarray  # (I,) CLASS_CONTROL
    classes: np.ndarray  # (I,) CLASS_STATE
    totals: np.ndarray  # (I,) CLASS_TOTALS
    histograms: np.ndarray  # (3, I, HISTOGRAM_BINS) int64
    gpus: np.ndarray  # (n,) GPU
    class_decodes: np.ndarray  # (n, I) decodes of each class on each GPU
    decode_marks: np.ndarray  # (n * B,) per GPU a heap of finish marks on its clock
    decode_requests: np.ndarray  # (n * B,) the request of each mark
    gpu_keys: np.ndarray  # (n,) time of a GPU's next completion, heap order
    gpu_items: np.ndarray  # (n,)
    gpu_positions: np.ndarray  # (n,)
    available: np.ndarray  # (3, n) members of each set of GPUs
    available_positions: np.ndarray  # (n, 3) place of a GPU in a set; -1: not in it
    available_sizes: np.ndarray  # (3,)
    queues: np.ndarray  # (I + 2,) QUEUE: prefill queues by class, then decode lines
    requests: np.ndarray  # (R,) REQUEST
    free_requests: np.ndarray  # (R,) stack of unused records
    patience_keys: np.ndarray  # (R,) deadlines of the waiting, heap order; [0] is inf when empty
    patience_items: np.ndarray  # (R,)
    patience_positions: np.ndarray  # (R,)


class RequestStream(NamedTuple):
    """A recorded stream of requests in order of arrival; empty arrays mean Poisson arrivals."""

    arrival_time: np.ndarray  # (K,) seconds, non-decreasing
    request_class: np.ndarray  # (K,) int32
    prompt_tokens: np.ndarray  # (K,)
    output_tokens: np.ndarray  # (K,)


def poisson_stream() -> RequestStream:
    """The empty stream: arrivals and lengths are drawn from the instance's distributions."""
    return RequestStream(np.empty(0), np.empty(0, np.int32), np.empty(0), np.empty(0))


_CACHE_LINE = 64


def aligned_full(shape: tuple[int, ...], value: float, dtype: DTypeLike) -> np.ndarray:
    """A filled array that starts on a cache line, so that a 64-byte record lies on one line."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    buffer = np.zeros(size + _CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % _CACHE_LINE
    array = buffer[start : start + size].view(kind).reshape(shape)
    if value != 0:
        array[...] = value
    return array


def stacked(states: EngineState, n_states: int) -> EngineState:
    """N copies of a state that has a leading axis of length 1."""
    copies = []
    for array in states:
        copy = aligned_full((n_states, *array.shape[1:]), 0, array.dtype)
        copy[...] = array
        copies.append(copy)
    return EngineState(*copies)


def allocate_state(n_gpus: int, n_classes: int, batch_slots: int, capacity: int) -> EngineState:
    """An idle cluster at time 0 with room for ``capacity`` requests, on a leading axis of length 1.

    Settings, parameters and keys are left zero.
    """

    def full(value: float, shape: tuple[int, ...], dtype: DTypeLike = _f8) -> np.ndarray:
        return aligned_full((1, *shape), value, dtype)

    state = EngineState(
        settings=full(0, (1,), SETTINGS),
        keys=full(0, (len(STREAMS),), np.uint64),
        clock=full(0, (1,), CLOCK),
        parameters=full(0, (n_classes,), CLASS_PARAMETERS),
        control=full(0, (n_classes,), CLASS_CONTROL),
        classes=full(0, (n_classes,), CLASS_STATE),
        totals=full(0, (n_classes,), CLASS_TOTALS),
        histograms=full(0, (N_LATENCIES, n_classes, HISTOGRAM_BINS), _i8),
        gpus=full(0, (n_gpus,), GPU),
        class_decodes=full(0, (n_gpus, n_classes), _i4),
        decode_marks=full(np.inf, (n_gpus * batch_slots,)),
        decode_requests=full(-1, (n_gpus * batch_slots,), _i4),
        gpu_keys=full(np.inf, (n_gpus,)),
        gpu_items=full(0, (n_gpus,), _i4),
        gpu_positions=full(0, (n_gpus,), _i4),
        available=full(0, (N_AVAILABLE_SETS, n_gpus), _i4),
        available_positions=full(-1, (n_gpus, N_AVAILABLE_SETS), _i4),
        available_sizes=full(0, (N_AVAILABLE_SETS,), _i8),
        queues=full(0, (n_classes + N_DECODE_LINES,), QUEUE),
        requests=full(0, (capacity,), REQUEST),
        free_requests=full(0, (capacity,), _i4),
        patience_keys=full(np.inf, (capacity,)),
        patience_items=full(-1, (capacity,), _i4),
        patience_positions=full(-1, (capacity,), _i4),
    )
    state.gpu_items[...] = state.gpu_positions[...] = np.arange(n_gpus)
    state.free_requests[...] = np.arange(capacity - 1, -1, -1)
    state.gpus["prefill_mark"] = np.inf
    state.gpus["prefill_request"] = -1
    state.queues["head"] = state.queues["tail"] = -1
    state.clock["credit_time"] = state.clock["next_arrival_time"] = np.inf
    state.clock["free_size"] = capacity
    return state


def row(states: EngineState, k: int) -> EngineState:
    """Views of cluster k of stacked states."""
    return EngineState(*(array[k] for array in states))


def with_capacity(states: EngineState, capacity: int) -> EngineState:
    """The same clusters with room for more requests each; the old arrays stay as they are."""
    n_states, old = states.requests.shape

    def extended(array: np.ndarray, value: float) -> np.ndarray:
        longer = aligned_full((n_states, capacity), value, array.dtype)
        longer[:, :old] = array
        return longer

    clock = states.clock.copy()
    clock["free_size"] += capacity - old
    free = aligned_full((n_states, capacity), 0, _i4)
    # The new records go under the stack, so that records in the cache are used first.
    free[:, : capacity - old] = np.arange(capacity - 1, old - 1, -1)
    free[:, capacity - old :] = states.free_requests
    return states._replace(
        clock=clock,
        requests=extended(states.requests, 0),
        free_requests=free,
        patience_keys=extended(states.patience_keys, np.inf),
        patience_items=extended(states.patience_items, -1),
        patience_positions=extended(states.patience_positions, -1),
    )
