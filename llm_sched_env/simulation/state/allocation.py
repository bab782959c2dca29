"""Allocate the engine's state: one block for all arrays, aligned to cache lines.

The system backs one large block with large pages, where many small ones would not have them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.priority_network import CORRECTIONS, STATE_FEATURES
from llm_sched_env.simulation.events.completion_tree import tree_entries
from llm_sched_env.simulation.events.random_streams import STREAMS
from llm_sched_env.simulation.state.layout import (
    BACKLOG,
    CACHE,
    CACHE_NODE,
    CLASS_CONTROL,
    CLASS_PARAMETERS,
    CLASS_STATE,
    CLASS_TOTALS,
    CLOCK,
    GPU,
    GROUP,
    HISTOGRAM_BINS,
    LINK,
    LOAD,
    N_AVAILABLE_SETS,
    N_LATENCIES,
    QUEUE,
    REQUEST,
    REUSE,
    REUSE_TOTALS,
    SETTINGS,
    SIGNAL,
    WAITING,
    EngineState,
)
from llm_sched_env.simulation.state.memory import require_memory

Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype]]
"""Shape and type of each array of a state, by name."""

_CACHE_LINE = 64
_f8, _i8, _i4 = np.float64, np.int64, np.int32

# Their numbers are 32-bit integers.
_MOST_RECORDS = 2**31 - 1
# Arrays with one entry per request record: what grows.
_PER_REQUEST = (
    *("requests", "free_requests", "waiting", "patience_keys", "patience_items"),
    "reuse",
)


class CacheShapes(NamedTuple):
    """What caches of blocks need room for.

    Attributes:
        capacities: blocks of each cache.
        stale: whether others see them as of the last refresh: block_cache.py.
        recorded_blocks: of all requests of the stream together.
        signals: whether a router looks at GPUs.
        scorers: how many weights it has.
    """

    capacities: tuple[int, ...] = ()
    stale: bool = False
    recorded_blocks: int = 0
    signals: bool = False
    scorers: int = 0

    def nodes(self, capacity: int) -> int:
        """Of a cache."""
        return 2 * capacity if self.stale else capacity


def buckets_of(capacity: int) -> int:
    """Buckets of a cache: a power of two, more than it has blocks."""
    return 1 << max(1, capacity).bit_length()


def block_bytes(shapes: Shapes) -> int:
    """Bytes of the block that holds arrays of these shapes and types."""
    return sum(map(_lines_of, shapes.values())) + _CACHE_LINE


def _lines_of(array: tuple[tuple[int, ...], np.dtype]) -> int:
    """Bytes of the cache lines that an array of this shape and type takes."""
    shape, dtype = array
    # In Python's integers: what cannot be allocated must not overflow here.
    return -(-math.prod(shape) * dtype.itemsize // _CACHE_LINE) * _CACHE_LINE


def _block(shapes: Shapes) -> EngineState:
    """Zeroed arrays of these shapes and types in one block, each aligned to a cache line.

    Raises:
        InsufficientMemoryError: where the system has less memory than that.
    """
    size = block_bytes(shapes)
    n_clusters, n_gpus = shapes["gpus"][0]
    require_memory(size, f"{n_clusters:,} x {n_gpus:,} GPUs")
    records = shapes["requests"][0][-1]
    if records > _MOST_RECORDS:
        raise ConfigurationError("requests in a cluster", records, f"at most {_MOST_RECORDS:,}")
    buffer = np.zeros(size, np.uint8)
    first = -buffer.ctypes.data % _CACHE_LINE
    arrays = {}
    for name, (shape, dtype) in shapes.items():
        end = first + math.prod(shape) * dtype.itemsize
        arrays[name] = buffer[first:end].view(dtype).reshape(shape)
        first += _lines_of((shape, dtype))
    return EngineState(**arrays)


def stacked(states: EngineState, n_states: int) -> EngineState:
    """N copies of a state that has a leading axis of length 1."""
    copies = _block(
        {
            name: ((n_states, *array.shape[1:]), array.dtype)
            for name, array in states._asdict().items()
        }
    )
    for copy, array in zip(copies, states, strict=True):
        copy[...] = array
    return copies


def state_shapes(
    n_gpus: int,
    n_classes: int,
    n_groups: int,
    heap_slots: int,
    capacity: int,
    *,
    links: bool,
    decode_lines: int,
    queues_at_gpus: bool,
    latencies: bool,
    kv_limited: bool,
    quadratic_clock: bool,
    hidden_units: int,
    caches: CacheShapes,
) -> Shapes:
    """The arrays of one cluster, on a leading axis of length 1.

    Args:
        n_gpus: n.
        n_classes: I.
        n_groups: G.
        heap_slots: the most slots that a GPU has.
        capacity: R.
        links: whether moves between GPUs take time.
        decode_lines: where prefilled requests wait.
        queues_at_gpus: whether each GPU has prefill queues of its own.
        latencies: whether latency histograms are kept.
        kv_limited: whether GPUs count reserved KV tokens.
        quadratic_clock: whether GPUs keep what their quadratic clock follows from.
        hidden_units: H of the network that corrects ranks, 0 for none.
        caches: of blocks.
    """
    tree = tree_entries(n_gpus)
    moves = n_gpus * heap_slots if links else 0  # each has a slot
    n_features = len(STATE_FEATURES) if hidden_units else 0
    n_corrections = len(CORRECTIONS) if hidden_units else 0
    n_pairs = n_classes * n_groups
    shapes: dict[str, tuple[tuple[int, ...], DTypeLike]] = {
        "settings": ((1,), SETTINGS),
        "keys": ((len(STREAMS),), np.uint64),
        "clock": ((1,), CLOCK),
        "groups": ((n_groups,), GROUP),
        "parameters": ((n_classes,), CLASS_PARAMETERS),
        "control": ((n_pairs,), CLASS_CONTROL),
        "classes": ((n_pairs,), CLASS_STATE),
        "totals": ((n_pairs,), CLASS_TOTALS),
        "histograms": ((N_LATENCIES, n_classes, HISTOGRAM_BINS if latencies else 0), _i8),
        "gpus": ((n_gpus,), GPU),
        "loads": ((n_gpus if quadratic_clock else 0,), LOAD),
        "class_bias": ((n_classes, hidden_units), _f8),
        "state_weights": ((n_features, hidden_units), _f8),
        "output_weights": (
            (n_classes, hidden_units + 1 if hidden_units else 0, n_corrections),
            _f8,
        ),
        "features": ((n_features,), _f8),
        "hidden": ((hidden_units,), _f8),
        "corrections": ((n_classes, n_corrections), _f8),
        "class_decodes": ((n_gpus, n_classes), _i4),
        "decode_marks": ((n_gpus * heap_slots,), _f8),
        "decode_requests": ((n_gpus * heap_slots,), _i4),
        "kv_reserved": ((n_gpus if kv_limited else 0,), _f8),
        "completion_times": ((tree,), _f8),
        "completion_gpus": ((tree,), _i4),
        "rescheduled": ((n_gpus,), _i4),
        "available": ((N_AVAILABLE_SETS, n_gpus), _i4),
        "available_positions": ((n_gpus, N_AVAILABLE_SETS), _i4),
        "available_sizes": ((N_AVAILABLE_SETS,), _i8),
        "group_available_sizes": ((n_groups, N_AVAILABLE_SETS), _i8),
        "backlogs": ((n_gpus if queues_at_gpus else 0,), BACKLOG),
        "links": ((n_gpus if links else 0,), LINK),
        "move_times": ((moves + 1,), _f8),
        "move_requests": ((moves,), _i4),
        "move_gpus": ((moves,), _i4),
        "queues": (((n_gpus if queues_at_gpus else 1) * n_classes + decode_lines,), QUEUE),
        "requests": ((capacity,), REQUEST),
        "free_requests": ((capacity,), _i4),
        "waiting": ((capacity,), WAITING),
        "patience_keys": ((capacity,), _f8),
        "patience_items": ((capacity,), _i4),
        "reuse": ((capacity if caches.capacities else 0,), REUSE),
        "reuse_totals": ((n_pairs if caches.capacities else 0,), REUSE_TOTALS),
        "caches": ((len(caches.capacities),), CACHE),
        "cache_nodes": ((sum(map(caches.nodes, caches.capacities)),), CACHE_NODE),
        "cache_buckets": ((sum(map(buckets_of, caches.capacities)),), _i4),
        "block_ids": ((caches.recorded_blocks,), _i4),
        "signals": ((n_gpus if caches.signals else 0,), SIGNAL),
        "scorer_weights": ((caches.scorers,), _f8),
    }
    return {name: ((1, *shape), np.dtype(kind)) for name, (shape, kind) in shapes.items()}


def allocate_state(shapes: Shapes) -> EngineState:
    """An idle cluster at time 0, its arrays as :func:`state_shapes` says.

    Settings, parameters and keys are left zero.
    """
    state = _block(shapes)
    n_gpus = state.gpus.shape[1]
    for name, value in (
        ("decode_marks", np.inf),
        ("completion_times", np.inf),
        ("move_times", np.inf),
    ):
        getattr(state, name)[...] = value
    state.completion_gpus[:, :n_gpus] = np.arange(n_gpus)
    _free_requests(state, 0)
    state.gpus["prefill_mark"] = np.inf
    state.loads["last_chunk_mark"] = np.inf
    state.gpus["prefill_request"] = -1
    state.cache_buckets[...] = -1
    for name in ("oldest", "newest", "changes"):
        state.caches[name] = -1
    state.queues["head"] = state.queues["tail"] = -1
    state.clock["unsent"] = -1
    state.clock["credit_time"] = state.clock["next_arrival_time"] = np.inf
    return state


def _free_requests(states: EngineState, k: int) -> None:
    """Make the zeroed request records and waiting entries of cluster k unused."""
    capacity = states.requests.shape[1]
    states.free_requests[k] = np.arange(capacity - 1, -1, -1)
    states.clock["free_size"][k] = capacity
    states.patience_keys[k] = np.inf
    _chain(states.waiting[k : k + 1], 0)


def _chain(waiting: np.ndarray, first: int) -> None:
    """Link the entries from ``first`` on as unused, in their order; shape (N, R)."""
    waiting["next"][:, first:] = np.arange(first + 1, waiting.shape[1] + 1)
    waiting["queue"][:, first:] = -1
    waiting["patience_place"][:, first:] = -1


def row(states: EngineState, k: int) -> EngineState:
    """Views of cluster k of stacked states."""
    return EngineState(*(array[k] for array in states))


def reset_row(states: EngineState, k: int, fresh: EngineState) -> None:
    """Make cluster k what ``fresh`` is, at whatever capacity the states have grown to."""
    for name, array in fresh._asdict().items():
        if name not in _PER_REQUEST:
            _as_bytes(getattr(states, name)[k])[...] = _as_bytes(array[0])
        else:
            _as_bytes(getattr(states, name)[k])[...] = 0
    _free_requests(states, k)


def _as_bytes(array: np.ndarray) -> np.ndarray:
    """The memory of an array: copying records field by field takes ten times as long."""
    return array.reshape(-1).view(np.uint8)


def with_capacity(states: EngineState, capacity: int) -> EngineState:
    """The same clusters with room for more requests each; the old arrays stay as they are."""
    old = states.requests.shape[1]
    longer = _block(
        {
            name: (
                (len(array), capacity)
                if name in _PER_REQUEST and array.shape[1] > 0
                else array.shape,
                array.dtype,
            )
            for name, array in states._asdict().items()
        }
    )
    for name, array in states._asdict().items():
        target = getattr(longer, name)
        if name in _PER_REQUEST:
            target[:, :old] = array
        else:
            target[...] = array
    longer.patience_keys[:, old:] = np.inf
    longer.clock["free_size"] += capacity - old
    # The new records go under the stack, so that records in the cache are used first. The last
    # old waiting entry of the chain points to ``old``, where the new ones start.
    longer.free_requests[:, : capacity - old] = np.arange(capacity - 1, old - 1, -1)
    longer.free_requests[:, capacity - old :] = states.free_requests
    _chain(longer.waiting, old)
    return longer


def with_blocks(states: EngineState, count: int) -> EngineState:
    """The same clusters with room for the blocks of more recorded requests each."""
    shapes = {name: (array.shape, array.dtype) for name, array in states._asdict().items()}
    shapes["block_ids"] = ((len(states.block_ids), count), states.block_ids.dtype)
    longer = _block(shapes)
    for target, array in zip(longer, states, strict=True):
        if target.shape == array.shape:
            target[...] = array
    longer.block_ids[:, : states.block_ids.shape[1]] = states.block_ids
    return longer
