"""How kernels get a node's arrays: as one pointer to the table of their addresses.

Numba would pass a tuple of fifty arrays as some three hundred scalars at each call between kernels. Here
Numba is told that a :class:`PgData` is one number, the address of ``PgData.table``. Reading an attribute in a
kernel loads that array's address and shape from the table. A table never changes, and the loads say so
(``invariant.load``), so that LLVM moves them out of loops and past stores. Python passes a kernel a PgData,
or its address, of which the kernel makes a PgData by :func:`pgdata_at`: Numba unboxes a number in a tenth of
the time that a tuple takes.
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

from numa_service.mm.array_table import Layout
from numa_service.mm.pgdata import LAYOUT, PgData

_WORD = ir.IntType(64)


def array_ref(numba_type: types.Type, arrays: type, layout: Layout) -> None:
    """Tell Numba that a tuple of arrays with `table` and `address` is a pointer, of type `numba_type`.

    The type's class is for these arrays alone, and importable: cached code refers to it by module and name.
    """
    ref = type(numba_type)

    @register_model(ref)
    class _Model(models.PrimitiveModel):  # type: ignore[misc]  # to mypy it is Any, as all of Numba
        """The value in compiled code: a 64-bit address."""

        def __init__(self, manager: Any, numba_type: types.Type) -> None:
            super().__init__(manager, numba_type, _WORD)

    @typeof_impl.register(arrays)  # type: ignore[untyped-decorator]  # as above
    def _typeof(value: object, context: object) -> types.Type:
        return numba_type

    def array_type(field: str) -> Any:
        dtype, ndim, _ = layout[field]
        return types.Array(from_dtype(np.dtype(dtype)), ndim, "C")

    @infer_getattr
    class _Attributes(AttributeTemplate):  # type: ignore[misc]  # as above
        key = ref

        def generic_resolve(self, numba_type: types.Type, field: str) -> Any:
            """Numba's type of an attribute; None if the tuple has no such field."""
            return array_type(field) if field in layout else None

    @lower_getattr_generic(ref)  # type: ignore[untyped-decorator]  # as above
    def _getattr(context: Any, builder: Any, numba_type: types.Type, address: Any, field: str) -> Any:
        """Build an array from the data pointer and shape in the table; strides follow from C order."""
        dtype, ndim, at = layout[field]
        table = builder.inttoptr(address, _WORD.as_pointer())
        invariant = builder.module.add_metadata([])

        def load(word: int) -> Any:
            loaded = builder.load(builder.gep(table, [ir.Constant(_WORD, word)], inbounds=True))
            loaded.set_metadata("invariant.load", invariant)
            return loaded

        array = context.make_array(array_type(field))(context, builder)
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
        return impl_ret_borrowed(context, builder, array_type(field), array._getvalue())

    @unbox(ref)  # type: ignore[untyped-decorator]  # as above
    def _unbox(numba_type: types.Type, value: Any, c: Any) -> NativeValue:
        """Get the address at a call from Python; the caller keeps the arrays alive meanwhile."""
        address = c.pyapi.object_getattr_string(value, "address")
        word = cgutils.alloca_once_value(c.builder, ir.Constant(_WORD, 0))
        with c.builder.if_then(cgutils.is_not_null(c.builder, address)):
            c.builder.store(c.pyapi.long_as_longlong(address), word)
            c.pyapi.decref(address)
        return NativeValue(c.builder.load(word), is_error=c.pyapi.c_api_error())


class PgRefType(types.Type):
    """Numba's type of a :class:`PgData`."""

    def __init__(self) -> None:
        super().__init__(name="PgRef")


PGREF = PgRefType()
array_ref(PGREF, PgData, LAYOUT)


if TYPE_CHECKING:

    def pgdata_at(address: int) -> PgData:
        """Inside a kernel: the PgData whose ``PgData.address`` this is."""

else:

    @intrinsic
    def pgdata_at(typingctx, address):
        """Inside a kernel: the PgData whose ``PgData.address`` this is."""

        def generate(context, builder, signature, args):
            return args[0]

        return PGREF(types.int64), generate
