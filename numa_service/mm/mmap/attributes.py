"""Policies and names of parts of an address space: mbind() and prctl(PR_SET_VMA) as far as VMAs go."""

from __future__ import annotations

import errno
from collections.abc import Hashable
from dataclasses import replace

from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.ranges import change_range, set_attributes
from numa_service.mm.mmap.rules import PAGE_MASK, page_align
from numa_service.mm.mmap.vma import Vma
from numa_service.mm.mmap.vma_merge import as_is


def mbind_range(mm: MmStruct, start: int, length: int, policy: Hashable) -> None:
    """Give a range a policy; None is the task's. What is wrong with the policy itself, the caller has said.

    EFAULT if not all of it is mapped, and then nothing is changed; but for policy None holes are passed over.
    """
    if start & ~PAGE_MASK:
        raise Errno(errno.EINVAL, f"{start:#x} is not the address of a page")
    end = start + page_align(length)
    if end >> 64:
        raise Errno(errno.EINVAL, "the range ends behind the last address")
    if end == start:
        return
    if policy is not None and not _whole(mm, start, end):
        raise Errno(errno.EFAULT, "not all of the range is mapped")

    def one(vma: Vma, low: int, high: int) -> Vma:
        return set_attributes(mm, vma, low, high, replace(as_is(vma, low), policy=policy))

    change_range(mm, start, end, one)


def set_anon_name(mm: MmStruct, start: int, length: int, name: str | None) -> None:
    """Name a range of anonymous memory. EBADF for a file's, ENOMEM for holes, which are passed over."""
    if start & ~PAGE_MASK:
        raise Errno(errno.EINVAL, f"{start:#x} is not the address of a page")
    end = start + page_align(length)

    def one(vma: Vma, low: int, high: int) -> Vma:
        if vma.file is not None and not vma.file.shmem:
            raise Errno(errno.EBADF, "a mapping of a file has the file's name")
        return set_attributes(mm, vma, low, high, replace(as_is(vma, low), anon_name=name))

    if end > start and not change_range(mm, start, end, one):
        raise Errno(errno.ENOMEM, "not all of the range is mapped")


def _whole(mm: MmStruct, start: int, end: int) -> bool:
    at = start
    for vma in mm.tree.intersecting(start, end):
        if vma.start > at:
            return False
        at = vma.end
    return at >= end
