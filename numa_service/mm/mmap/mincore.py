"""mincore(): which pages of a range are in memory."""

from __future__ import annotations

import errno

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.entries import HWPOISON, PRESENT, has
from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.fault import numbers_of
from numa_service.mm.mmap.hugetlb import huge_size
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, page_align


def mincore(process: Process, start: int, length: int, found: list[bool]) -> None:
    """Add to `found` whether each page of a range is mapped, or one of a file that is in memory.

    That of pages before a hole is added, too. EINVAL, and ENOMEM for a range of which not all is mapped, or
    that is beyond the addresses of a process. For ranges that are not too large.
    """
    if start & ~PAGE_MASK:
        raise Errno(errno.EINVAL, f"{start:#x} is not the address of a page")
    if start + length > process.mm.layout.task_size:
        raise Errno(errno.ENOMEM, "the range is beyond the addresses of a process")
    end = start + page_align(length)
    while start < end:
        vma = process.mm.tree.lookup(start)
        if vma is None:
            raise Errno(errno.ENOMEM, f"nothing is mapped at {start:#x}")
        part = min(vma.end, end)
        if vma.flags & vf.VM_HUGETLB:
            size, entries = huge_size(vma), process.mm.tree.huge_entries
            found += [at & -size in entries for at in range(start, part, PAGE_SIZE)]
            start = part
            continue
        # what was lost to an error of the memory is not absent either (mincore_pte_range)
        there = has(process.all_entries(start, part), PRESENT | HWPOISON)
        if vma.file is not None and vma.file.pages is not None:
            cached = vma.file.pages.find(numbers_of(vma, start, (part - start) >> PAGE_SHIFT))
            there |= cached != 0
        found += there.tolist()
        start = part
