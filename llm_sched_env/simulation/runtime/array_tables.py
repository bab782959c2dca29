"""Tuples of arrays as compiled functions see them: a pointer to a row of addresses.

The state of a cluster is a tuple of some fifty arrays. Numba passes a tuple by value, 350 arguments
in each call, and most of the time of a compilation went into those. So Python writes the address
and the shape of each array into a row of integers, and compiled functions get a pointer to the row.
They read ``state.clock`` as from the tuple, in a few loads. A row does not change while compiled
code runs, and the compiler is told so (``invariant.load``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    infer_getattr,
    intrinsic,
    lower_getattr_generic,
    models,
    register_model,
)
from numba.np.arrayobj import populate_array


class Field(NamedTuple):
    """An array of a tuple, or a tuple in it.

    Attributes:
        kind: Numba's type of the array, or of the pointer to the tuple.
        first: of its words in the row.
    """

    kind: Any
    first: int


class ArraysPointer(types.Type):
    """Numba's type of a pointer to the row of a tuple of arrays.

    Args:
        name: of the tuple's class.
        dtypes: type and number of dimensions of each array, or the type of a tuple in it, by name.
    """

    def __init__(self, name: str, dtypes: Mapping[str, Any]) -> None:
        self.fields: dict[str, Field] = {}
        self.words = 0
        for field, dtype in dtypes.items():
            if isinstance(dtype, ArraysPointer):
                self.fields[field] = Field(dtype, self.words)
                self.words += dtype.words
            else:
                kind, ndim = dtype
                example = np.empty((1,) * ndim, kind)
                self.fields[field] = Field(numba.typeof(example), self.words)
                self.words += 1 + ndim
        super().__init__(name=f"{name} by pointer")


register_model(ArraysPointer)(models.OpaqueModel)


@infer_getattr
class _Attributes(AttributeTemplate):
    key = ArraysPointer

    def generic_resolve(self, value: Any, attr: Any) -> Any:  # type: ignore[override]
        """The type of an attribute, None if there is none."""
        return value.fields[attr].kind if attr in value.fields else None


@lower_getattr_generic(ArraysPointer)
def _attribute(context: Any, builder: Any, kind: ArraysPointer, row: Any, name: str) -> Any:
    """Code for an attribute: an array from its address and shape, or a pointer into the row."""
    field = kind.fields[name]
    word = ir.IntType(64)
    words = builder.bitcast(row, word.as_pointer())
    first = builder.gep(words, [word(field.first)])
    if isinstance(field.kind, ArraysPointer):
        return builder.bitcast(first, row.type)
    view = context.make_array(field.kind)(context, builder)
    never_written = builder.module.add_metadata([])

    def load(place: Any) -> Any:
        loaded = builder.load(place)
        loaded.set_metadata("invariant.load", never_written)
        return loaded

    data = load(builder.bitcast(first, view.data.type.as_pointer()))
    shape = [load(builder.gep(first, [word(1 + d)])) for d in range(field.kind.ndim)]
    itemsize = context.get_abi_sizeof(context.get_data_type(field.kind.dtype))
    strides = [word(itemsize)]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    populate_array(view, data=data, shape=shape, strides=strides, itemsize=itemsize, meminfo=None)
    return view._getvalue()  # noqa: SLF001 - as Numba's own code reads it


def pointer_to_row(kind: ArraysPointer) -> Any:
    """An intrinsic that points to row k of a table of addresses."""

    def code(_typing_context: Any, table: Any, k: Any) -> Any:  # noqa: ARG001 - its type is fixed
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            view = context.make_array(signature.args[0])(context, builder, arguments[0])
            words = builder.mul(arguments[1], arguments[1].type(kind.words))
            row = builder.gep(view.data, [words])
            return builder.bitcast(row, context.get_value_type(kind))

        return kind(table, types.intp), generate

    return intrinsic(code)


def address_table(kind: ArraysPointer, arrays: tuple[Any, ...]) -> np.ndarray:
    """Addresses and shapes of the arrays of N tuples; valid as long as the arrays are.

    Args:
        kind: of a pointer to a row.
        arrays: those of all tuples, stacked on a leading axis of length N; tuples of them in the
            places of tuples.

    Returns:
        int64, shape (N, W).

    Raises:
        TypeError: for an array that compiled code would misread.
    """
    columns = [
        address_table(field.kind, array)
        if isinstance(field.kind, ArraysPointer)
        else _columns(name, field.kind, array)
        for (name, field), array in zip(kind.fields.items(), arrays, strict=True)
    ]
    return np.concatenate(columns, axis=1)


def _columns(name: str, kind: Any, array: np.ndarray) -> np.ndarray:
    """Address and shape of a row of an array, for each of its rows."""
    if numba.typeof(array[0]) != kind or not array.flags.c_contiguous:
        raise TypeError(f"{name}: got {numba.typeof(array[0])}, compiled code reads {kind}")
    columns = np.empty((len(array), array.ndim), np.int64)
    columns[:, 0] = array.__array_interface__["data"][0]
    columns[:, 0] += np.arange(len(array)) * array.strides[0]
    columns[:, 1:] = array.shape[1:]
    return columns
