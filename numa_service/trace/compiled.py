"""The decorator of this package's compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Without Numba's runtime, as the kernels of mm/: no array is allocated, so none needs counting.

    Without the interpreter's lock, too: a trace is read while another part of it is replayed.
    """
    return cast("F", numba.njit(cache=True, nogil=True, _nrt=False, error_model="numpy")(function))
