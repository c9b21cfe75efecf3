"""remap_file_pages(): other pages of a file at addresses where it is mapped already."""

from __future__ import annotations

import errno

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.effects import Effect
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.mmap import MAP_FIXED, MAP_LOCKED, MAP_NONBLOCK, MAP_POPULATE, MAP_SHARED, mmap
from numa_service.mm.mmap.rules import PAGE_MASK, PAGE_SHIFT
from numa_service.mm.mmap.vma import Vma


def remap_file_pages(mm: MmStruct, start: int, size: int, prot: int, pgoff: int, flags: int) -> list[Effect]:
    """Map the pages from `pgoff` on of the file that is mapped at `start`, by mmap().

    Its only error of its own is EINVAL. Before 4.0 a kernel kept one VMA for it, whose pages were out of
    order (c8d78c1823f4 mm: replace remap_file_pages() syscall with emulation); there are none of those here.
    """
    start, size = start & PAGE_MASK, size & PAGE_MASK
    if prot or (start + size) % (1 << 64) <= start or pgoff + (size >> PAGE_SHIFT) >> 64:
        raise Errno(errno.EINVAL, "the protection must be 0, and the range one of addresses and pages")
    vma = mm.tree.lookup(start)
    if vma is None or not vma.flags & vf.VM_SHARED or vma.file is None:
        raise Errno(errno.EINVAL, f"no shared mapping is at {start:#x}")
    if not _alike(mm, vma, start + size):
        raise Errno(errno.EINVAL, "the range is of more than one mapping")
    flags = flags & MAP_NONBLOCK | MAP_SHARED | MAP_FIXED | MAP_POPULATE
    if vma.flags & vf.VM_LOCKED:
        flags |= MAP_LOCKED
    file = vma.file
    # it is open meanwhile (get_file)
    file.mappings += 1
    try:
        return mmap(mm, start, size, vma.flags & vf.VM_ACCESS_FLAGS, flags, file, pgoff << PAGE_SHIFT)[1]
    finally:
        file.mappings -= 1


def _alike(mm: MmStruct, vma: Vma, end: int) -> bool:
    """Whether VMAs of one file and with one set of flags are without a hole up to an address."""
    last = vma
    for following in mm.tree.intersecting(vma.end, end):
        if following.start != last.end or following.file is not vma.file or following.flags != vma.flags:
            return False
        last = following
    return end <= last.end
