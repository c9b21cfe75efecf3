"""The memory of a program that waits for the answer to a call: what its pointers point to."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable

from numa_service.mm.mempolicy.calls import PAGE_SIZE, UserMask
from numa_service.mm.mempolicy.policy import CallError

#: Longest path of a call (PATH_MAX).
_PATH_MAX = 4096

_libc = ctypes.CDLL(None, use_errno=True)
for _copy in (_libc.process_vm_readv, _libc.process_vm_writev):
    _copy.restype = ctypes.c_ssize_t
    _copy.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    ]


class ProgramMemory:
    """The memory of a thread, as it may use it itself; CallError(EFAULT) where it may not.

    Whoever uses it has to ask before whether the caller still waits: a thread of this number may be another
    one otherwise.
    """

    def __init__(self, tid: int) -> None:
        self._tid = tid

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes, all of them."""
        found = self.read_up_to(address, size)
        if len(found) < size:
            raise CallError(errno.EFAULT)
        return found

    def read_up_to(self, address: int, size: int) -> bytes:
        """At most `size` bytes, fewer where the memory ends."""
        into = ctypes.create_string_buffer(size)
        copied = self._copied(_libc.process_vm_readv, address, into, size)
        if copied == size:
            return into.raw
        # a range that begins well is read up to the page where it ends
        found = b""
        while len(found) < size:
            at = address + len(found)
            part = min(size - len(found), PAGE_SIZE - at % PAGE_SIZE)
            if self._copied(_libc.process_vm_readv, at, into, part) != part:
                break
            found += into.raw[:part]
        return found

    def write(self, address: int, data: bytes) -> None:
        """Write all of the bytes."""
        kept = ctypes.create_string_buffer(data, len(data))
        if self._copied(_libc.process_vm_writev, address, kept, len(data)) != len(data):
            raise CallError(errno.EFAULT)

    def _copied(
        self, copy: Callable[..., int], address: int, here: ctypes.Array[ctypes.c_char], size: int
    ) -> int:
        """Bytes that process_vm_readv() or process_vm_writev() copied; -1 for none."""
        if not size:
            return 0
        ours = struct.pack("2Q", ctypes.addressof(here), size)
        theirs = struct.pack("2Q", address, size)
        return copy(self._tid, ours, 1, theirs, 1, 0)

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
