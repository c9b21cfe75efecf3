"""The memory of a program that waits for the answer to a call: what its pointers point to."""

from __future__ import annotations

import errno
import os
import struct

from numa_service.mm.mempolicy.calls import PAGE_SIZE, UserMask
from numa_service.mm.mempolicy.policy import CallError

#: Longest path of a call (PATH_MAX).
_PATH_MAX = 4096


class ProgramMemory:
    """The memory of a thread, through /proc/TID/mem; CallError(EFAULT) where there is none.

    Whoever uses it has to ask before (read) or after (write) whether the caller still waits: a thread of this
    number may be another one otherwise.
    """

    def __init__(self, tid: int) -> None:
        self._file = os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Close it."""
        os.close(self._file)

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes, all of them."""
        found = self.read_up_to(address, size)
        if len(found) < size:
            raise CallError(errno.EFAULT)
        return found

    def read_up_to(self, address: int, size: int) -> bytes:
        """At most `size` bytes, fewer where the memory ends."""
        try:
            return os.pread(self._file, size, address)
        except (OSError, OverflowError):
            return b""

    def write(self, address: int, data: bytes) -> None:
        """Write all of the bytes."""
        try:
            written = os.pwrite(self._file, data, address)
        except (OSError, OverflowError):
            written = 0
        if written < len(data):
            raise CallError(errno.EFAULT)

    def path(self, address: int) -> str:
        """A string that ends with a NUL, as the paths of calls do."""
        found = b""
        while b"\0" not in found and len(found) < _PATH_MAX:
            at = address + len(found)
            found += self.read(at, min(256, PAGE_SIZE - at % PAGE_SIZE))
        return os.fsdecode(found.split(b"\0")[0])

    def integers(self, address: int, count: int) -> tuple[int, ...]:
        """An array of C ints."""
        return struct.unpack(f"{count}i", self.read(address, 4 * count))

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """An array of longs without sign, as of pointers."""
        return struct.unpack(f"{count}Q", self.read(address, 8 * count))

    def mask(self, address: int, maxnode: int) -> UserMask | None:
        """The nodemask of a call, None for a null pointer; as much of it as the kernel may look at."""
        if not address:
            return None
        bits = (maxnode - 1) & ((1 << 64) - 1)
        size = -(-min(bits, PAGE_SIZE * 8) // 64) * 8
        found = self.read_up_to(address, size)
        whole = len(found) // 8
        return UserMask(struct.unpack(f"{whole}Q", found[: 8 * whole]), ends=len(found) < size)
