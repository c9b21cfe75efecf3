"""What a long step says of itself."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told what is being done."""

    def __call__(self, text: str, share: float | None = None) -> None:
        """A step begins, in a few words; with a share, 0 to 1, how far that step is.

        A step without a share ends when the next one without begins; one with a share ends at 1.
        """


def silent(text: str, share: float | None = None) -> None:
    """Say nothing."""
