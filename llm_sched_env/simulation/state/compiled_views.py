"""A cluster and what arrives there, as compiled functions see them.

Entry points take tables of addresses (:func:`clusters_of`, :func:`arrivals_of`) and read rows of
them by :func:`cluster_row` and :func:`workload_of`. Without compilation the tables are the tuples
of arrays themselves.
"""

from __future__ import annotations

from typing import Any

from llm_sched_env.simulation.runtime.array_tables import (
    ArraysPointer,
    address_table,
    pointer_to_row,
)
from llm_sched_env.simulation.runtime.compiled import COMPILED
from llm_sched_env.simulation.state import layout
from llm_sched_env.simulation.state.allocation import CacheShapes, state_shapes
from llm_sched_env.simulation.state.layout import EngineState, RequestStream, Workload


def _state_pointer() -> ArraysPointer:
    shapes = state_shapes(
        1,
        1,
        1,
        1,
        1,
        links=True,
        decode_lines=1,
        queues_at_gpus=True,
        latencies=True,
        kv_limited=True,
        quadratic_clock=True,
        hidden_units=1,
        caches=CacheShapes(),
    )
    return ArraysPointer(
        EngineState.__name__,
        {name: (shapes[name][1], len(shapes[name][0]) - 1) for name in EngineState._fields},
    )


def _workload_pointer() -> ArraysPointer:
    stream = {name: layout.STREAM_TYPES[name] for name in RequestStream._fields}
    recorded = ArraysPointer(RequestStream.__name__, stream)
    types = {"recorded": recorded} | layout.WORKLOAD_TYPES
    return ArraysPointer(Workload.__name__, {name: types[name] for name in Workload._fields})


_STATE, _WORKLOAD = _state_pointer(), _workload_pointer()


def clusters_of(states: EngineState) -> Any:
    """What entry points take for stacked clusters; valid as long as their arrays are."""
    return address_table(_STATE, states) if COMPILED else states


def arrivals_of(workload: Workload) -> Any:
    """What entry points take for what arrives; valid as long as its arrays are."""
    if not COMPILED:
        return workload
    recorded = tuple(array[None] for array in workload.recorded)
    return address_table(_WORKLOAD, (recorded, *(array[None] for array in workload[1:])))


def _row(clusters: EngineState, k: int) -> EngineState:
    return EngineState(*(array[k] for array in clusters))


def _itself(arrivals: Workload, k: int) -> Workload:  # noqa: ARG001 - there is one
    return arrivals


cluster_row: Any = pointer_to_row(_STATE) if COMPILED else _row
"""Cluster k of what entry points take."""
workload_of: Any = pointer_to_row(_WORKLOAD) if COMPILED else _itself
"""Workload k, 0, of what entry points take."""
