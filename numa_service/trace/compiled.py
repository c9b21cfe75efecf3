"""The decorator of this package's compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from numa_service.mm import jit

F = TypeVar("F", bound=Callable[..., Any])

#: Numba's cache. Its name depends also on the text of the kernels in mm/, whose constants are compiled in.
CACHE_DIR = jit.cache_dir("traces", jit.PACKAGE, Path(__file__).parent)


def compiled(function: F) -> F:
    """Compile a function as the kernels of mm/, but not inlined, and not part of the warm-up.

    It runs without the interpreter's lock, so that a trace is read while another part of it is replayed.
    """
    return jit.compiled_into(CACHE_DIR, function, nogil=True)
