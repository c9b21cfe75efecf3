"""brk(): the heap grows and shrinks."""

from __future__ import annotations

import errno

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.effects import Effect, Populate
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.limits import RLIM_INFINITY
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.munmap import unmap_range
from numa_service.mm.mmap.rules import PAGE_SHIFT, PAGE_SIZE, page_align
from numa_service.mm.mmap.unmapped_area import get_unmapped_area
from numa_service.mm.mmap.vma import Vma
from numa_service.mm.mmap.vma_merge import Wanted, can_merge_after, merge_new


def brk(mm: MmStruct, address: int) -> tuple[int, list[Effect]]:
    """Ask for the heap to end at an address; return where it ends now. An error leaves it where it was."""
    if address < mm.start_brk:
        return mm.brk, []
    data = mm.end_data - mm.start_data
    if mm.limits.data != RLIM_INFINITY and address - mm.start_brk + data > mm.limits.data:
        return mm.brk, []
    new, old = page_align(address), page_align(mm.brk)
    effects: list[Effect] = []
    try:
        if new < old:
            effects = unmap_range(mm, new, old)
        elif new > old:
            effects = _grow(mm, old, new)
    except Errno:
        return mm.brk, []
    mm.brk = address
    return address, effects


def _grow(mm: MmStruct, old: int, new: int) -> list[Effect]:
    """do_brk_flags."""
    length = new - old
    get_unmapped_area(mm, None, old, length, 0, fixed=True, shared=False)
    following = mm.tree.find(old)
    if following is not None and new + PAGE_SIZE > following.start_gap(mm.layout.stack_guard_gap):
        raise Errno(errno.ENOMEM, "there is a mapping behind the heap")
    pages = length >> PAGE_SHIFT
    flags = vf.VM_READ | vf.VM_WRITE | vf.VM_MAY_ACCESS | vf.VM_ACCOUNT | mm.def_flags
    mm.check_mlock(flags, length)
    mm.check_expansion(flags, pages)
    if mm.map_count > mm.limits.max_map_count:
        raise Errno(errno.ENOMEM, "there are more than max_map_count VMAs")
    mm.charge(pages)
    vma = _extend(mm, old, new, Wanted(flags, old >> PAGE_SHIFT))
    if vma is None:
        vma = Vma(old, new, flags, old >> PAGE_SHIFT)
        mm.tree.insert(vma)
    mm.stat_account(flags, pages)
    if flags & vf.VM_LOCKED:
        mm.counters.locked_vm += pages
    vma.flags |= vf.VM_SOFTDIRTY
    return [Populate(old, new)] if mm.def_flags & vf.VM_LOCKED else []


def _extend(mm: MmStruct, old: int, new: int, wanted: Wanted) -> Vma | None:
    """The VMA that the heap's new part becomes a part of, if there is one."""
    if mm.rules.brk_merges_next:
        return merge_new(mm, old, new, wanted)
    prev = mm.tree.before(old)
    if prev is None or prev.end != old or (mm.rules.brk_keeps_bss and prev.end <= mm.start_brk):
        return None
    if not can_merge_after(mm, prev, wanted):
        return None
    mm.tree.resize(prev, prev.start, new)
    return prev
