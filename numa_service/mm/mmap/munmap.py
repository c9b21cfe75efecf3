"""munmap(), and taking VMAs out on behalf of other calls (``do_vmi_align_munmap``)."""

from __future__ import annotations

import errno

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.anon_vma import unlink_anon_vmas
from numa_service.mm.mmap.effects import Effect, Unmap
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.rules import PAGE_MASK, page_align
from numa_service.mm.mmap.vma import Vma
from numa_service.mm.mmap.vma_merge import split


def munmap(mm: MmStruct, start: int, length: int) -> list[Effect]:
    """Unmap what is mapped in a range; holes in it are no error."""
    if start & ~PAGE_MASK or start > mm.layout.task_size or length > mm.layout.task_size - start:
        raise Errno(errno.EINVAL, f"{start:#x} and {length} bytes are no range of a process's pages")
    end = start + page_align(length)
    if end == start:
        raise Errno(errno.EINVAL, "the length is 0")
    return unmap_range(mm, start, end)


def gather(mm: MmStruct, start: int, end: int) -> list[Vma]:
    """Cut VMAs where a range begins and ends, and return those in it (the beginning of do_vmi_align_munmap).

    ENOMEM if it would cut a VMA in three and there are max_map_count, EINVAL within a huge page: where the
    range begins it may be cut already.
    """
    vma = mm.tree.lookup(start)
    cut = vma is not None and vma.start < start and end < vma.end
    if cut and mm.map_count >= mm.limits.max_map_count:
        raise Errno(errno.ENOMEM, "there are max_map_count VMAs")
    found = mm.tree.intersecting(start, end)
    if found and found[0].start < start:
        found[0] = split(mm, found[0], start, checked=False)
    if found and found[-1].end > end:
        split(mm, found[-1], end, checked=False)
    return found


def accounted(mm: MmStruct, start: int, end: int) -> int:
    """Pages of a range that memory was promised for."""
    return sum(
        (min(vma.end, end) - max(vma.start, start)) >> 12
        for vma in mm.tree.intersecting(start, end)
        if vma.flags & vf.VM_ACCOUNT
    )


def unmap_range(mm: MmStruct, start: int, end: int) -> list[Effect]:
    """Take all VMAs out of a range of whole pages."""
    found = gather(mm, start, end)
    if not found:
        return []
    mm.note_peak()
    start, end = found[0].start, found[-1].end
    for vma in found:
        _remove(mm, vma)
    before, behind = mm.tree.around(start, end)
    floor = before.end if before is not None else 0
    ceiling = behind.start if behind is not None else 0
    return [Unmap(start, end, floor, ceiling, tuple(found))]


def _remove(mm: MmStruct, vma: Vma) -> None:
    mm.tree.remove(vma)
    unlink_anon_vmas(vma)
    if vma.flags & vf.VM_LOCKED:
        mm.counters.locked_vm -= vma.pages
    mm.stat_account(vma.flags, -vma.pages)
    if vma.flags & vf.VM_ACCOUNT:
        mm.committed.uncharge(vma.pages)
    if vma.file is not None and not vma.file.mappings:
        mm.committed.uncharge(vma.file.promised)
        vma.file.promised = 0


def exit_mmap(mm: MmStruct) -> list[Effect]:
    """A process ends: everything goes."""
    return unmap_range(mm, 0, mm.layout.task_size)
