"""Prefetch memory before it is needed; this affects nothing but speed.

With 10,000 GPUs the state is several times the cache, and an event touches half a dozen places
of it that nothing else has touched for long. In a batch of small clusters the same is true of
the cluster whose turn is next.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from llm_sched_env.simulation.runtime.compiled import COMPILED, compiled
from llm_sched_env.simulation.state.layout import EngineState

# Below this many GPUs a running cluster is in the cache anyway.
_LARGE_CLUSTER = 512
_MARKS_PER_LINE = 8
_TIMES_PER_LINE = 8


def _prefetch_code(_typing_context: Any, array: Any, index: Any) -> Any:  # noqa: ARG001 - its type is fixed
    """Numba intrinsic: LLVM's prefetch (read, keep in all caches) of ``array[index, 0, ...]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        view = context.make_array(kind)(context, builder, arguments[0])
        places = [arguments[1]] + [ir.Constant(arguments[1].type, 0)] * (kind.ndim - 1)
        item = cgutils.get_item_pointer(context, builder, kind, view, places, wraparound=False)
        address = builder.bitcast(item, ir.IntType(8).as_pointer())
        integer = ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [address.type, integer, integer, integer])
        function = builder.module.declare_intrinsic("llvm.prefetch", [address.type], function_type)
        builder.call(function, [address, integer(0), integer(3), integer(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _no_prefetch(array: Any, index: int) -> None:
    """What runs when compilation is switched off."""


_prefetch: Any = intrinsic(_prefetch_code) if COMPILED else _no_prefetch


@compiled
def is_large(state: EngineState) -> bool:
    """Whether prefetching pays."""
    return len(state.gpus) >= _LARGE_CLUSTER


@compiled
def prefetch_gpu(state: EngineState, gpu: int) -> None:
    """A GPU that will soon be worked on: its clock, marks and requests."""
    first = gpu * state.settings[0].heap_slots
    _prefetch(state.gpus, gpu)
    if state.settings[0].quadratic_clock:
        _prefetch(state.loads, gpu)
    _prefetch(state.class_decodes, gpu)
    _prefetch(state.decode_requests, first)
    _prefetch(state.decode_marks, first)
    _prefetch(state.decode_marks, first + min(_MARKS_PER_LINE, state.settings[0].heap_slots - 1))


@compiled
def prefetch_next_requests(state: EngineState, gpu: int) -> None:
    """The requests of a GPU that may end next there, once the GPU itself is in the cache."""
    request = state.decode_requests[gpu * state.settings[0].heap_slots]
    _prefetch(state.requests, max(0, request))
    _prefetch(state.requests, max(0, state.gpus[gpu].prefill_request))


@compiled
def prefetch_cluster(state: EngineState) -> None:
    """A small cluster whose turn is next: everything but its requests."""
    if is_large(state):
        return
    _prefetch(state.clock, 0)
    _prefetch(state.settings, 0)
    _prefetch(state.queues, 0)
    _prefetch(state.waiting, 0)
    _prefetch(state.patience_keys, 0)
    _prefetch(state.patience_items, 0)
    for pair in range(len(state.classes)):
        _prefetch(state.control, pair)
        _prefetch(state.classes, pair)
        _prefetch(state.totals, pair)
    for i in range(len(state.parameters)):
        _prefetch(state.parameters, i)
    for place in range(0, len(state.completion_times), _TIMES_PER_LINE):
        _prefetch(state.completion_times, place)
        _prefetch(state.completion_gpus, place)
    for gpu in range(len(state.gpus)):
        prefetch_gpu(state, gpu)


@compiled
def prefetch_requests(state: EngineState) -> None:
    """The requests that may end first on each GPU of a small cluster that starts to run."""
    if is_large(state):
        return
    for gpu in range(len(state.gpus)):
        prefetch_next_requests(state, gpu)
