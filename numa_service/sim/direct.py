"""Direct calls of a kernel's compiled code.

At every call Numba inspects the types of all arguments, to choose among the versions that it has compiled.
For the hundred arrays of a node this takes 7 µs, ten times as long as the call itself. The compiled code can
be called without that, but does not check anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled_code(kernel: Any) -> Callable[..., Any] | None:
    """Return the compiled code of a kernel; None unless the kernel is compiled for exactly one signature.

    The caller must pass arguments of the same types as in a call that went through `kernel`.
    """
    compiled = list(kernel.overloads.values())
    return compiled[0].entry_point if len(compiled) == 1 else None
