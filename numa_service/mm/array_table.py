"""Tuples of arrays as kernels find them: one table with the address and the shape of each array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

#: dtype and number of dimensions of each array by its name, and where its words begin in the table.
Layout = dict[str, tuple[np.dtype[Any], int, int]]


def layout_of(arrays: Mapping[str, npt.NDArray[Any]]) -> Layout:
    """The layout of the table for arrays of these dtypes and dimensions, in their order."""
    layout: Layout = {}
    at = 0
    for name, array in arrays.items():
        layout[name] = array.dtype, array.ndim, at
        at += 1 + array.ndim
    return layout


def table_of(what: str, arrays: Mapping[str, npt.NDArray[Any]], layout: Layout) -> npt.NDArray[np.int64]:
    """The address of each array's data followed by its shape, array after array in the order of the layout.

    TypeError names an array of `what` that kernels would misread: one of another dtype, or not C-contiguous.
    """
    words: list[int] = []
    for name, array in arrays.items():
        dtype, ndim, _ = layout[name]
        if array.dtype != dtype or array.ndim != ndim:
            raise TypeError(f"{what}.{name}: {array.dtype}[{array.ndim}] instead of {dtype}[{ndim}]")
        if not (array.flags.carray and array.flags.writeable):
            raise TypeError(f"{what}.{name}: not C-contiguous, aligned and writeable")
        words += [array.ctypes.data, *array.shape]
    return np.array(words, dtype=np.int64)
