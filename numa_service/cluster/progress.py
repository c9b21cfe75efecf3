"""The callback by which a long operation reports its progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called when a step begins, and as it goes on."""

    def __call__(self, text: str, share: float | None = None) -> None:
        """Report the step that `text` names; `share` is the part of it that is done, from 0 to 1.

        A step without a share ends when the next step without one begins; a step with a share ends at 1.
        """


def silent(text: str, share: float | None = None) -> None:
    """A Progress that shows nothing."""
