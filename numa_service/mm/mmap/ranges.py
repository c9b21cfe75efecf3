"""Going through the VMAs of a range that is to be changed, each part by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.vma import Vma
from numa_service.mm.mmap.vma_merge import Wanted, as_is, modify

#: Called with a VMA and the part of the range in it; returns the VMA that has the part afterwards.
Change = Callable[[Vma, int, int], Vma]


def change_range(mm: MmStruct, start: int, end: int, change: Change) -> bool:
    """Change every mapped part of a range, upwards; return whether all of it is mapped.

    An error of `change` ends it, and leaves what was changed before.
    """
    whole = True
    while start < end:
        vma = mm.tree.find(start)
        if vma is None:
            return False
        if vma.start > start:
            whole = False
            start = vma.start
            if start >= end:
                return False
        part = min(vma.end, end)
        change(vma, start, part)
        start = part
    return whole


def set_flags(mm: MmStruct, vma: Vma, start: int, end: int, flags: int) -> Vma:
    """Give a part of a VMA other flags, if they are others."""
    if flags == vma.flags:
        return vma
    return modify(mm, vma, start, end, replace(as_is(vma, start), flags=flags))


def set_attributes(mm: MmStruct, vma: Vma, start: int, end: int, wanted: Wanted) -> Vma:
    """Give a part of a VMA what `wanted` says, if that is something else."""
    if wanted == as_is(vma, start):
        return vma
    return modify(mm, vma, start, end, wanted)
