"""A node's arrays inside kernels: one pointer, to a table of where they are.

Passing a tuple of fifty arrays would pass some three hundred scalars at each call between kernels. Here
Numba is told that a :class:`PgData` is a number, the address of ``PgData.table``; reading an attribute
loads from the table what is used of one array. A table never changes, and the loads say so
(``invariant.load``), so LLVM moves them out of loops and over stores. From Python a kernel takes a PgData,
or its address and :func:`pgdata_at`: Numba looks at a number in a tenth of the time that a tuple takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.imputils import impl_ret_borrowed, lower_getattr_generic
from numba.core.pythonapi import NativeValue
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.core.typing.typeof import typeof_impl
from numba.extending import intrinsic, register_model, unbox
from numba.np.numpy_support import from_dtype

from numa_service.mm.pgdata import LAYOUT, PgData


class PgRefType(types.Type):
    """The type of a :class:`PgData` in a kernel. Cached code names it, so it must be found here."""

    def __init__(self) -> None:
        super().__init__(name="PgRef")


PGREF = PgRefType()
_WORD = ir.IntType(64)


@register_model(PgRefType)
class _PgRefModel(models.PrimitiveModel):  # type: ignore[misc]  # to mypy it is Any, as all of Numba
    """An address is all that is passed."""

    def __init__(self, manager: Any, numba_type: PgRefType) -> None:
        super().__init__(manager, numba_type, _WORD)


@typeof_impl.register(PgData)  # type: ignore[untyped-decorator]  # as above
def _typeof(value: PgData, context: object) -> PgRefType:
    return PGREF


def _array_type(field: str) -> Any:
    dtype, ndim, _ = LAYOUT[field]
    return types.Array(from_dtype(np.dtype(dtype)), ndim, "C")


@infer_getattr
class _PgRefAttributes(AttributeTemplate):  # type: ignore[misc]  # as above
    key = PgRefType

    def generic_resolve(self, numba_type: PgRefType, field: str) -> Any:
        """The type of an attribute; None where there is none."""
        return _array_type(field) if field in LAYOUT else None


@lower_getattr_generic(PgRefType)  # type: ignore[untyped-decorator]  # as above
def _getattr(context: Any, builder: Any, numba_type: PgRefType, address: Any, field: str) -> Any:
    """Load an array's data pointer and shape from the table; the rest follows, as it is C-contiguous."""
    dtype, ndim, at = LAYOUT[field]
    table = builder.inttoptr(address, _WORD.as_pointer())
    invariant = builder.module.add_metadata([])

    def load(word: int) -> Any:
        loaded = builder.load(builder.gep(table, [ir.Constant(_WORD, word)], inbounds=True))
        loaded.set_metadata("invariant.load", invariant)
        return loaded

    array_type = _array_type(field)
    array = context.make_array(array_type)(context, builder)
    shape = [load(at + 1 + axis) for axis in range(ndim)]
    step = ir.Constant(_WORD, np.dtype(dtype).itemsize)
    items: Any = ir.Constant(_WORD, 1)
    strides: list[Any] = []
    for length in reversed(shape):
        strides.insert(0, builder.mul(items, step) if strides else step)
        items = builder.mul(items, length) if strides[1:] else length
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    array.parent = cgutils.get_null_value(array.parent.type)
    array.nitems = items
    array.itemsize = step
    array.data = builder.inttoptr(load(at), array.data.type)
    array.shape = cgutils.pack_array(builder, shape)
    array.strides = cgutils.pack_array(builder, strides)
    return impl_ret_borrowed(context, builder, array_type, array._getvalue())


@unbox(PgRefType)  # type: ignore[untyped-decorator]  # as above
def _unbox(numba_type: PgRefType, pg: Any, c: Any) -> NativeValue:
    """Ask a PgData for its address: once a call, by who keeps the PgData while the kernel runs."""
    address = c.pyapi.object_getattr_string(pg, "address")
    value = cgutils.alloca_once_value(c.builder, ir.Constant(_WORD, 0))
    with c.builder.if_then(cgutils.is_not_null(c.builder, address)):
        c.builder.store(c.pyapi.long_as_longlong(address), value)
        c.pyapi.decref(address)
    return NativeValue(c.builder.load(value), is_error=c.pyapi.c_api_error())


if TYPE_CHECKING:

    def pgdata_at(address: int) -> PgData:
        """In a kernel: the node whose ``PgData.address`` this is."""

else:

    @intrinsic
    def pgdata_at(typingctx, address):
        """In a kernel: the node whose ``PgData.address`` this is."""

        def generate(context, builder, signature, args):
            return args[0]

        return PGREF(types.int64), generate
