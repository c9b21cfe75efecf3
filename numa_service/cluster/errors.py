"""What can go wrong between the command line and Ray."""

from __future__ import annotations

from typing import Any


class ClusterError(Exception):
    """A machine could not be placed, found or taken down; one line: what, why, and what to do about it."""


def reason(error: BaseException) -> str:
    """One line of what went wrong; what an actor raised, without Ray's traceback."""
    cause: Any = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if not lines:
        return type(cause).__name__
    # a constructor's exception is at the end of its traceback
    return lines[-1] if "creation task" in lines[0] else lines[0]
