"""A node's arrays by their address: what Python passes to the kernels that it calls most.

Numba unpacks a tuple of arrays whenever Python calls a kernel: 3.5 µs for a PgData, more than the work for
a few hundred pages. Here the unpacked form is written down once (:func:`address_of`), and such a kernel reads
of it what it uses (:func:`pgdata_at`).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from numa_service.mm.jit import kernel
from numa_service.mm.pgdata import I64, PgData, alloc_pgdata


@cache
def _type() -> Any:
    """PgData as Numba sees it; the same for every node."""
    return numba.typeof(alloc_pgdata(0, 1, 1, 1))


def _copy(builder: Any, pointer: Any, value: Any, at: tuple[int, ...], llvm_type: Any, store: bool) -> Any:
    """Load or store a value of nested structs scalar by scalar, so that what is not used costs nothing."""
    if isinstance(llvm_type, ir.LiteralStructType):
        members = list(llvm_type.elements)
    elif isinstance(llvm_type, ir.ArrayType):
        members = [llvm_type.element] * llvm_type.count
    else:
        index = [ir.Constant(ir.IntType(32), i) for i in (0, *at)]
        place = builder.gep(pointer, index, inbounds=True)
        if store:
            builder.store(builder.extract_value(value, at), place)
            return value
        return builder.insert_value(value, builder.load(place), at)
    for i, member in enumerate(members):
        value = _copy(builder, pointer, value, (*at, i), member, store)
    return value


if TYPE_CHECKING:

    def pgdata_at(address: int) -> PgData:
        """In a kernel: the arrays that :func:`address_of` wrote down."""

    def _write(pg: PgData, address: int) -> None: ...

else:

    @intrinsic
    def pgdata_at(typingctx, address):
        """In a kernel: the arrays that :func:`address_of` wrote down."""

        def generate(context, builder, signature, args):
            llvm_type = context.get_value_type(_type())
            pointer = builder.inttoptr(args[0], llvm_type.as_pointer())
            return _copy(builder, pointer, ir.Constant(llvm_type, ir.Undefined), (), llvm_type, False)

        return _type()(types.int64), generate

    @intrinsic
    def _write_at(typingctx, pg, address):
        def generate(context, builder, signature, args):
            llvm_type = context.get_value_type(_type())
            pointer = builder.inttoptr(args[1], llvm_type.as_pointer())
            _copy(builder, pointer, args[0], (), llvm_type, True)
            return context.get_dummy_value()

        return types.void(_type(), types.int64), generate

    @kernel
    def _write(pg, address):
        _write_at(pg, address)


def address_of(pg: PgData) -> tuple[int, I64]:
    """Where the arrays' unpacked form is, and the memory that it is in: to be kept as long as the address."""
    # struct { meminfo, parent, nitems, itemsize, data, shape[ndim], strides[ndim] } for each array
    memory = np.zeros(sum(5 + 2 * array.ndim for array in pg), dtype=np.int64)
    address = memory.ctypes.data
    _write(pg, address)
    return address, memory
