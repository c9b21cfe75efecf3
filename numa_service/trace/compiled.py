"""The decorator of this package's compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from numa_service.mm import jit

F = TypeVar("F", bound=Callable[..., Any])

#: Of the kernels' text too: they take over its constants.
CACHE_DIR = jit.cache_dir("traces", jit.PACKAGE, Path(__file__).parent)


def compiled(function: F) -> F:
    """As the kernels of mm/, but called rather than inlined, and not part of the warm-up.

    Without the interpreter's lock, too: a trace is read while another part of it is replayed.
    """
    return jit.compiled_into(CACHE_DIR, function, nogil=True)
