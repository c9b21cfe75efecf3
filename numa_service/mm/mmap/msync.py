"""msync(): what is written to shared mappings of files goes to their files."""

from __future__ import annotations

import errno
from typing import Final

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.rules import PAGE_MASK, page_align

MS_ASYNC: Final = 1
MS_INVALIDATE: Final = 2
MS_SYNC: Final = 4
_ALL_BITS: Final = (1 << 64) - 1


def msync(mm: MmStruct, start: int, length: int, flags: int) -> None:
    """Check the call: there is no disk to write to.

    EBUSY for MS_INVALIDATE of locked memory; ENOMEM if not all of the range is mapped, which MS_ASYNC says
    at the first hole, and the others behind all of it.
    """
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC):
        raise Errno(errno.EINVAL, "there are no such flags")
    if start & ~PAGE_MASK:
        raise Errno(errno.EINVAL, f"{start:#x} is not the address of a page")
    if flags & MS_ASYNC and flags & MS_SYNC:
        raise Errno(errno.EINVAL, "writing either waits or does not")
    # the sum wraps, as that of two unsigned longs
    aligned = page_align(length)
    end = start + (aligned & _ALL_BITS)
    if end & _ALL_BITS < start:
        raise Errno(errno.ENOMEM, "the range ends behind the last address")
    whole = True
    while start < end:
        vma = mm.tree.find(start)
        if vma is None:
            raise Errno(errno.ENOMEM, f"nothing is mapped at {start:#x}")
        if vma.start > start:
            whole = False
            if flags == MS_ASYNC or vma.start >= end:
                break
        if flags & MS_INVALIDATE and vma.flags & vf.VM_LOCKED:
            raise Errno(errno.EBUSY, "the memory is locked")
        start = vma.end
    if not whole:
        raise Errno(errno.ENOMEM, "not all of the range is mapped")
