"""Errors as a system call returns them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numa_service.mm.mmap.effects import Effect


class Errno(Exception):
    """A system call failed with `number` (errno.h); the text says what was wrong, for people.

    What a call had done before it failed stays done where Linux leaves it so: mprotect of a range with a hole
    has protected what is before the hole.
    """

    def __init__(self, number: int, reason: str) -> None:
        self.number = number
        self.reason = reason
        #: What is to be done although the call failed: of mmap() and mlock(), which return it otherwise.
        self.effects: Sequence[Effect] = ()
        super().__init__(f"{self.name}: {reason}")

    @property
    def name(self) -> str:
        """The error as errno.h spells it: "ENOMEM"."""
        # Python calls it ENOTSUP, which is the same number
        return "EOPNOTSUPP" if self.number == errno.EOPNOTSUPP else errno.errorcode[self.number]


class Sigbus(Errno):
    """A fault ends in SIGBUS (VM_FAULT_SIGBUS), which a call that faults pages in says as EFAULT."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EFAULT, reason)
