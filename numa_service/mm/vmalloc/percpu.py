"""Areas of the percpu allocator (pcpu_get_vm_areas): congruent ones, from the highest address down.

A chunk has an area for each group of CPUs, at the distances that the groups of the first chunk have. They are
kept at the other end of the address space than all others, which are found from the lowest address up.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from numa_service.mm.vmalloc.free_tree import FreeArea
from numa_service.mm.vmalloc.rules import PAGE_SIZE
from numa_service.mm.vmalloc.vm_struct import VM_ALLOC, VM_NO_GUARD, VmStruct
from numa_service.mm.vmalloc.vmalloc import Vmalloc
from numa_service.mm.vmalloc.vmap_area import VmallocError

#: Of the areas in /proc/vmallocinfo, which have no other caller.
CALLER = "pcpu_get_vm_areas"


def pcpu_get_vm_areas(
    vmalloc: Vmalloc, offsets: Sequence[int], sizes: Sequence[int], align: int, caller: str = CALLER
) -> list[VmStruct]:
    """Areas of `sizes` bytes at `offsets` from one base, the highest that has room for all of them.

    They have no guard page and no pages of their own. ValueError if a size or an offset is not aligned, or
    two areas overlap, which stop a kernel (BUG_ON); VmallocError if there is no such base after a purge.
    """
    _check(offsets, sizes, align)
    base = _highest_base(vmalloc, offsets, sizes, align)
    if base is None:
        vmalloc.areas.reclaim_and_purge_vmap_areas()
        base = _highest_base(vmalloc, offsets, sizes, align)
    if base is None:
        raise VmallocError(f"no room for {len(sizes)} percpu areas of {sum(sizes)} bytes")
    areas = []
    for offset, size in zip(offsets, sizes, strict=True):
        va = vmalloc.areas.take(base + offset, base + offset + size)
        va.vm = VmStruct(va.va_start, size, VM_ALLOC | VM_NO_GUARD, caller)
        areas.append(va.vm)
    return areas


def _check(offsets: Sequence[int], sizes: Sequence[int], align: int) -> None:
    if align < PAGE_SIZE or align & (align - 1):
        raise ValueError(f"percpu areas cannot be aligned to {align} bytes")
    if not sizes or len(offsets) != len(sizes) or min(sizes) <= 0 or min(offsets) < 0:
        raise ValueError("percpu areas have an offset and a size each")
    if any(number % align for number in (*offsets, *sizes)):
        raise ValueError(f"an offset or a size of percpu areas is not aligned to {align}")
    spans = sorted(zip(offsets, sizes, strict=True))
    if any(low + size > high for (low, size), (high, _) in pairwise(spans)):
        raise ValueError("percpu areas overlap")


def _highest_base(vmalloc: Vmalloc, offsets: Sequence[int], sizes: Sequence[int], align: int) -> int | None:
    """The highest base at which every area is free; it is pulled down until all of them fit."""
    tree = vmalloc.areas.free
    lowest = -(-vmalloc.layout.vmalloc_start // align) * align
    highest = vmalloc.layout.vmalloc_end // align * align
    base = highest - max(offset + size for offset, size in zip(offsets, sizes, strict=True))
    fitting, nth = 0, 0
    while fitting < len(sizes):
        start, end = base + offsets[nth], base + offsets[nth] + sizes[nth]
        if base < lowest:
            return None
        area: FreeArea | None = tree.highest_to(end - 1)
        if area is not None and area.va_start <= start and end <= area.va_end:
            fitting += 1
            nth = (nth + 1) % len(sizes)
            continue
        # Down to the end of the free area that is next below, or of the one below that if it is too small.
        while area is not None and min(area.va_end, end) // align * align - sizes[nth] < area.va_start:
            area = tree.before(area)
        if area is None:
            return None
        base = min(area.va_end, end) // align * align - sizes[nth] - offsets[nth]
        fitting = 0
    return base
