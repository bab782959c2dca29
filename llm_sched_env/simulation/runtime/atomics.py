"""Atomic reads and writes of shared int64 arrays, in compiled code.

Numba has none for processors. Without compilation these are plain: one thread only.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from llm_sched_env.simulation.runtime.compiled import COMPILED

_BYTES = 8


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    view = context.make_array(kind)(context, builder, array)
    return cgutils.get_item_pointer(context, builder, kind, view, [index], wraparound=False)


def _load_code(_typing_context: Any, array: Any, index: Any) -> Any:  # noqa: ARG001 - as Numba calls it
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], *arguments)
        return builder.load_atomic(address, "acquire", _BYTES)

    return types.int64(array, types.intp), generate


def _add_code(_typing_context: Any, array: Any, index: Any, amount: Any) -> Any:  # noqa: ARG001
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], *arguments[:2])
        return builder.atomic_rmw("add", address, arguments[2], "acq_rel")

    return types.int64(array, types.intp, types.int64), generate


def _swap_code(
    _typing_context: Any,
    array: Any,
    index: Any,  # noqa: ARG001
    old: Any,  # noqa: ARG001
    new: Any,  # noqa: ARG001
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], *arguments[:2])
        result = builder.cmpxchg(address, arguments[2], arguments[3], "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(array, types.intp, types.int64, types.int64), generate


def _plain_load(array: Any, index: int) -> int:
    return int(array[index])


def _plain_add(array: Any, index: int, amount: int) -> int:
    array[index] += amount
    return int(array[index]) - amount


def _plain_swap(array: Any, index: int, old: int, new: int) -> bool:
    if array[index] != old:
        return False
    array[index] = new
    return True


atomic_load: Any = intrinsic(_load_code) if COMPILED else _plain_load
"""``atomic_load(array, index)``: the value, with everything written before it."""

atomic_add: Any = intrinsic(_add_code) if COMPILED else _plain_add
"""``atomic_add(array, index, amount)``: the value before; publishes everything written before."""

compare_and_swap: Any = intrinsic(_swap_code) if COMPILED else _plain_swap
"""``compare_and_swap(array, index, old, new)``: True if ``old`` was there and ``new`` is now."""
