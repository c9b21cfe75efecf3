"""A kernel's compiled code, called directly.

Numba looks at the type of every argument of every call, to choose among what it has compiled: of the hundred
arrays of a node that is 7 µs, ten times as long as the call itself. The compiled code looks at nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled_code(kernel: Any) -> Callable[..., Any] | None:
    """The one thing that a kernel was compiled to; None when there are several, or none yet.

    Who calls it answers for the types: they must be those of a call that went through `kernel`.
    """
    compiled = list(kernel.overloads.values())
    return compiled[0].entry_point if len(compiled) == 1 else None
