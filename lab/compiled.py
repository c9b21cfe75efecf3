"""The decorator of the lab's compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from numa_service import trace
from numa_service.mm import jit

F = TypeVar("F", bound=Callable[..., Any])

#: Cache folder, named after the text of this package and of the packages whose code is compiled into it.
CACHE_DIR = jit.cache_dir("traces", jit.PACKAGE, *map(Path, trace.__path__), Path(__file__).parent)


def compiled(function: F) -> F:
    """Have Numba compile a function at its first call, with the options of the model's kernels.

    It runs without the interpreter's lock, so that a thread can read the trace ahead meanwhile.
    """
    return jit.compiled_into(CACHE_DIR, function, nogil=True)
