"""Errors as a system call returns them."""

from __future__ import annotations

import errno


class Errno(Exception):
    """A system call failed with `number` (errno.h); the text says what was wrong, for people.

    What a call had done before it failed stays done where Linux leaves it so: mprotect of a range with a hole
    has protected what is before the hole.
    """

    def __init__(self, number: int, reason: str) -> None:
        self.number = number
        self.reason = reason
        super().__init__(f"{self.name}: {reason}")

    @property
    def name(self) -> str:
        """The error as errno.h spells it: "ENOMEM"."""
        # Python calls it ENOTSUP, which is the same number
        return "EOPNOTSUPP" if self.number == errno.EOPNOTSUPP else errno.errorcode[self.number]
