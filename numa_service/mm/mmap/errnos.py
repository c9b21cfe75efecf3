"""Errors as a system call returns them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from numa_service.mm.mmap.effects import Effect

#: "Memory page has hardware error" (asm-generic/errno.h), of which Python has no name.
EHWPOISON: Final = 133


def errno_name(number: int) -> str:
    """A number as errno.h spells it: "ENOMEM"."""
    if number == EHWPOISON:
        return "EHWPOISON"
    # Python calls it ENOTSUP, which is the same number
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode[number]


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
        return errno_name(self.number)


class Sigbus(Errno):
    """A fault ends in SIGBUS (VM_FAULT_SIGBUS), which a call that faults pages in says as EFAULT."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EFAULT, reason)


class Hwpoison(Errno):
    """A fault ends in SIGBUS (VM_FAULT_HWPOISON): the memory of the page had an error, and it is lost."""

    def __init__(self, address: int) -> None:
        super().__init__(EHWPOISON, f"the page at {address:#x} was lost to an error of its memory")
        self.address = address
