"""mlock(), mlock2(), munlock(), mlockall(), munlockall()."""

from __future__ import annotations

import errno
from typing import Final

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.effects import Effect, Populate
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.ranges import set_flags
from numa_service.mm.mmap.rules import PAGE_MASK, PAGE_SHIFT, page_align
from numa_service.mm.mmap.vma import Vma

MLOCK_ONFAULT: Final = 1
MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2
MCL_ONFAULT: Final = 4
#: A length is an unsigned long: what is more than it wraps, so that the longest one is none at all.
_ALL_BITS: Final = (1 << 64) - 1


def mlock(mm: MmStruct, start: int, length: int, flags: int = 0) -> list[Effect]:
    """Lock a range. mlock2() with `flags`: pages are not faulted in now (MLOCK_ONFAULT).

    ENOMEM also once all of it is locked, if there is something that may not be accessed.
    """
    if flags and not mm.rules.lock_on_fault:
        raise Errno(errno.ENOSYS, "there is no mlock2()")
    if flags & ~MLOCK_ONFAULT:
        raise Errno(errno.EINVAL, "there are no such flags")
    if not mm.limits.can_do_mlock():
        raise Errno(errno.EPERM, "the task may not lock memory")
    length = page_align(length + (start & ~PAGE_MASK)) & _ALL_BITS
    start &= PAGE_MASK
    limit = mm.limits.memlock >> PAGE_SHIFT
    locked = (length >> PAGE_SHIFT) + mm.counters.locked_vm
    if locked > limit and not mm.limits.cap_ipc_lock:
        locked -= _locked_pages(mm, start, start + length)
    if locked > limit and not mm.limits.cap_ipc_lock:
        raise Errno(errno.ENOMEM, "more would be locked than RLIMIT_MEMLOCK allows")
    _apply(mm, start, length, vf.VM_LOCKED | (vf.VM_LOCKONFAULT if flags & MLOCK_ONFAULT else 0))
    for vma in mm.tree.intersecting(start, start + length):
        if not vma.flags & (vf.VM_ACCESS_FLAGS | vf.VM_LOCKONFAULT | vf.VM_SPECIAL):
            # __mm_populate: its pages cannot be had, and those behind it are not tried
            error = Errno(errno.ENOMEM, f"what is mapped at {vma.start:#x} may not be accessed")
            error.effects = [Populate(start, max(start, vma.start))]
            raise error
    return [Populate(start, start + length)] if length else []


def munlock(mm: MmStruct, start: int, length: int) -> None:
    """Unlock a range."""
    length = page_align(length + (start & ~PAGE_MASK)) & _ALL_BITS
    _apply(mm, start & PAGE_MASK, length, 0)


def mlockall(mm: MmStruct, flags: int) -> list[Effect]:
    """Lock all that is mapped (MCL_CURRENT), or all that will be (MCL_FUTURE)."""
    known = MCL_CURRENT | MCL_FUTURE | (MCL_ONFAULT if mm.rules.lock_on_fault else 0)
    if not flags or flags & ~known or flags == MCL_ONFAULT:
        raise Errno(errno.EINVAL, "there are no such flags")
    if not mm.limits.can_do_mlock():
        raise Errno(errno.EPERM, "the task may not lock memory")
    limits = mm.limits
    within = mm.counters.total_vm <= limits.memlock >> PAGE_SHIFT
    if flags & MCL_CURRENT and not within and not limits.cap_ipc_lock:
        raise Errno(errno.ENOMEM, "more would be locked than RLIMIT_MEMLOCK allows")
    to_add = vf.VM_LOCKED | (vf.VM_LOCKONFAULT if flags & MCL_ONFAULT else 0)
    mm.def_flags &= ~vf.VM_LOCKED_MASK
    if flags & MCL_FUTURE:
        mm.def_flags |= to_add
    if not flags & MCL_CURRENT:
        return []
    _apply_all(mm, to_add)
    return [Populate(0, mm.layout.task_size)]


def munlockall(mm: MmStruct) -> None:
    """Unlock all that is mapped and will be."""
    mm.def_flags &= ~vf.VM_LOCKED_MASK
    _apply_all(mm, 0)


def _apply_all(mm: MmStruct, locked: int) -> None:
    """apply_mlockall_flags: a VMA that cannot be changed is passed over."""
    address = 0
    while (vma := mm.tree.find(address)) is not None:
        address = vma.end
        _fix_up(mm, vma, vma.start, vma.end, locked)


def _apply(mm: MmStruct, start: int, length: int, locked: int) -> None:
    """apply_vma_lock_flags."""
    end = start + length
    if end >> 64:
        raise Errno(errno.EINVAL, "the range ends behind the last address")
    while start < end:
        vma = mm.tree.lookup(start)
        if vma is None:
            raise Errno(errno.ENOMEM, f"nothing is mapped at {start:#x}")
        part = min(vma.end, end)
        _fix_up(mm, vma, start, part, locked)
        start = part


def _fix_up(mm: MmStruct, vma: Vma, start: int, end: int, locked: int) -> None:
    """mlock_fixup: VMAs of devices and of the kernel's own are left alone."""
    old = vma.flags
    flags = old & ~vf.VM_LOCKED_MASK | locked
    if flags == old or old & (vf.VM_SPECIAL | vf.VM_HUGETLB | vf.VM_DROPPABLE):
        return
    set_flags(mm, vma, start, end, flags)
    pages = (end - start) >> PAGE_SHIFT
    mm.counters.locked_vm += pages * (bool(locked) - bool(old & vf.VM_LOCKED))


def _locked_pages(mm: MmStruct, start: int, end: int) -> int:
    """count_mm_mlocked_page_nr: pages of a range that are locked already."""
    return sum(
        (min(vma.end, end) - max(vma.start, start)) >> PAGE_SHIFT
        for vma in mm.tree.intersecting(start, end)
        if vma.flags & vf.VM_LOCKED
    )
