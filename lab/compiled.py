"""The decorator of the lab's compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from numa_service import trace
from numa_service.mm import jit

F = TypeVar("F", bound=Callable[..., Any])

#: Named after the text of the packages whose functions and constants they take over, too.
CACHE_DIR = jit.cache_dir("traces", jit.PACKAGE, *map(Path, trace.__path__), Path(__file__).parent)


def compiled(function: F) -> F:
    """As the kernels of the model, but compiled when it is first called, not before a machine starts.

    Without the interpreter's lock: a thread reads the trace ahead meanwhile.
    """
    return jit.compiled_into(CACHE_DIR, function, nogil=True)
