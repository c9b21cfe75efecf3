"""madvise(): the advices that change VMAs, and the checks of those that change pages."""

from __future__ import annotations

import errno
from typing import Final

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.effects import Advise, Effect, Populate, Zap
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.hugetlb import huge_size
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.ranges import change_range, set_flags
from numa_service.mm.mmap.rules import PAGE_MASK, PMD_SIZE, page_align
from numa_service.mm.mmap.vma import Vma

MADV_NORMAL: Final = 0
MADV_RANDOM: Final = 1
MADV_SEQUENTIAL: Final = 2
MADV_WILLNEED: Final = 3
MADV_DONTNEED: Final = 4
MADV_FREE: Final = 8
MADV_REMOVE: Final = 9
MADV_DONTFORK: Final = 10
MADV_DOFORK: Final = 11
MADV_MERGEABLE: Final = 12
MADV_UNMERGEABLE: Final = 13
MADV_HUGEPAGE: Final = 14
MADV_NOHUGEPAGE: Final = 15
MADV_DONTDUMP: Final = 16
MADV_DODUMP: Final = 17
MADV_WIPEONFORK: Final = 18
MADV_KEEPONFORK: Final = 19
MADV_COLD: Final = 20
MADV_PAGEOUT: Final = 21
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
MADV_DONTNEED_LOCKED: Final = 24
MADV_COLLAPSE: Final = 25

_DONTNEED: Final = (MADV_DONTNEED, MADV_DONTNEED_LOCKED)
#: Mappings of which pages are not merged (vma_ksm_compatible), and which have no huge pages (VM_NO_THP).
_NOT_MERGED: Final = vf.VM_SHARED | vf.VM_MAYSHARE | vf.VM_SPECIAL | vf.VM_HUGETLB | vf.VM_DROPPABLE
_NO_THP: Final = vf.VM_SPECIAL | vf.VM_HUGETLB | vf.VM_SHARED | vf.VM_MAYSHARE

#: Flags that an advice takes away and gives.
_FLAGS: Final = {
    MADV_NORMAL: (vf.VM_RAND_READ | vf.VM_SEQ_READ, 0),
    MADV_SEQUENTIAL: (vf.VM_RAND_READ, vf.VM_SEQ_READ),
    MADV_RANDOM: (vf.VM_SEQ_READ, vf.VM_RAND_READ),
    MADV_DONTFORK: (0, vf.VM_DONTCOPY),
    MADV_DOFORK: (vf.VM_DONTCOPY, 0),
    MADV_WIPEONFORK: (0, vf.VM_WIPEONFORK),
    MADV_KEEPONFORK: (vf.VM_WIPEONFORK, 0),
    MADV_DONTDUMP: (0, vf.VM_DONTDUMP),
    MADV_DODUMP: (vf.VM_DONTDUMP, 0),
    MADV_MERGEABLE: (0, vf.VM_MERGEABLE),
    MADV_UNMERGEABLE: (vf.VM_MERGEABLE, 0),
    MADV_HUGEPAGE: (vf.VM_NOHUGEPAGE, vf.VM_HUGEPAGE),
    MADV_NOHUGEPAGE: (vf.VM_HUGEPAGE, vf.VM_NOHUGEPAGE),
}


def madvise(mm: MmStruct, start: int, length: int, advice: int, effects: list[Effect]) -> None:
    """Follow an advice for a range. Holes in it are passed over, and are ENOMEM at the end.

    What is to be done is added to `effects`, also before an error.
    """
    if advice not in mm.rules.advices:
        raise Errno(errno.EINVAL, f"there is no advice {advice}")
    if start & ~PAGE_MASK:
        raise Errno(errno.EINVAL, f"{start:#x} is not the address of a page")
    aligned = page_align(length)
    if (length and not aligned) or start + aligned >> 64:
        raise Errno(errno.EINVAL, "the range ends behind the last address")
    if not aligned:
        return

    def one(vma: Vma, low: int, high: int) -> Vma:
        if advice == MADV_MERGEABLE and vma.flags & _NOT_MERGED:
            return vma  # ksm_madvise: just ignored
        if advice not in _FLAGS:
            if vma.flags & vf.VM_HUGETLB and advice in _DONTNEED:
                high = _whole_huge_pages(mm, vma, low, high)
            effects.append(_of_pages(vma, low, high, advice))
            return vma
        _check(mm, vma, advice)
        gone, new = _FLAGS[advice]
        try:
            changed = set_flags(mm, vma, low, high, vma.flags & ~gone | new)
        except Errno as error:
            if error.number != errno.ENOMEM:
                raise
            # madvise() has ENOMEM for holes alone
            raise Errno(errno.EAGAIN, error.reason) from error
        if advice == MADV_HUGEPAGE:
            effects.append(Advise(changed, low, high, advice))
        return changed

    if advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE) and mm.rules.populate_ends_at_hole:
        whole = _up_to_hole(mm, start, start + aligned)
        if change_range(mm, start, whole, one) and whole == start + aligned:
            return
    elif change_range(mm, start, start + aligned, one):
        return
    raise Errno(errno.ENOMEM, "not all of the range is mapped")


def _check(mm: MmStruct, vma: Vma, advice: int) -> None:
    flags = vma.flags
    wrong = {
        MADV_DOFORK: flags & vf.VM_IO,
        MADV_WIPEONFORK: vma.file is not None or flags & vf.VM_SHARED,
        MADV_DODUMP: (not flags & vf.VM_HUGETLB and flags & vf.VM_SPECIAL) or flags & vf.VM_DROPPABLE,
        MADV_KEEPONFORK: flags & vf.VM_DROPPABLE,
    }
    if mm.rules.huge_advice_is_private:
        wrong[MADV_HUGEPAGE] = wrong[MADV_NOHUGEPAGE] = flags & _NO_THP
    if wrong.get(advice, 0):
        raise Errno(errno.EINVAL, f"advice {advice} is not for this mapping")


def _up_to_hole(mm: MmStruct, start: int, end: int) -> int:
    """Where a range is not mapped any more, or its end."""
    while start < end:
        vma = mm.tree.lookup(start)
        if vma is None:
            break
        start = min(vma.end, end)
    return start


def _whole_huge_pages(mm: MmStruct, vma: Vma, low: int, high: int) -> int:
    """Where the last huge page ends that is wholly in a range (madvise_dontneed_free_valid_vma)."""
    size = huge_size(vma)
    if not mm.rules.dontneed_huge or low % size:
        raise Errno(errno.EINVAL, f"advice {MADV_DONTNEED} is not for this mapping")
    return high // size * size


def _of_pages(vma: Vma, low: int, high: int, advice: int) -> Effect:
    """An advice about pages, if the VMA may have it."""
    flags = vma.flags
    fixed = vf.VM_HUGETLB | vf.VM_PFNMAP | vf.VM_LOCKED
    refused = 0
    if advice in _DONTNEED:
        kept = vf.VM_PFNMAP | (vf.VM_LOCKED if advice == MADV_DONTNEED and not flags & vf.VM_HUGETLB else 0)
        refused = errno.EINVAL if flags & kept else 0
    elif advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE):
        wanted = vf.VM_WRITE if advice == MADV_POPULATE_WRITE else vf.VM_READ
        refused = errno.EINVAL if not flags & wanted or flags & (vf.VM_IO | vf.VM_PFNMAP) else 0
    elif advice == MADV_COLLAPSE:
        first, last = -(-vma.start // PMD_SIZE), vma.end // PMD_SIZE
        refused = errno.EINVAL if first >= last or flags & (vf.VM_SPECIAL | vf.VM_HUGETLB) else 0
    elif advice in (MADV_COLD, MADV_PAGEOUT):
        refused = errno.EINVAL if flags & fixed else 0
    elif advice == MADV_FREE:
        refused = 0 if vma.is_anonymous and not flags & fixed else errno.EINVAL
    elif advice == MADV_WILLNEED and vma.is_anonymous:
        refused = 0
    elif advice == MADV_REMOVE:
        if flags & vf.VM_LOCKED or vma.file is None:
            refused = errno.EINVAL
        elif flags & (vf.VM_SHARED | vf.VM_WRITE) != vf.VM_SHARED | vf.VM_WRITE:
            refused = errno.EACCES
    if refused:
        raise Errno(refused, f"advice {advice} is not for this mapping")
    if advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE):
        return Populate(low, high, write=advice == MADV_POPULATE_WRITE)
    return Zap(low, high) if advice in _DONTNEED else Advise(vma, low, high, advice)
