"""The error of operations on machines on Ray, and the text of other errors."""

from __future__ import annotations

from typing import Any


class ClusterError(Exception):
    """A machine could not be placed, found or taken down. One line says what failed, why, and what to do."""


def reason(error: BaseException) -> str:
    """One line about an error. Of an error that an actor raised, its own text without Ray's traceback."""
    cause: Any = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if not lines:
        return type(cause).__name__
    # if the actor's constructor raised, Ray's text is a traceback with the exception in its last line
    return lines[-1] if "creation task" in lines[0] else lines[0]
