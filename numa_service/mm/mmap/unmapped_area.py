"""Where a mapping comes to lie (``get_unmapped_area``, ``vm_unmapped_area``)."""

from __future__ import annotations

import errno

from numa_service.mm.mmap.errnos import Errno
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.rules import (
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    PMD_SIZE,
    THP_MULTIPLE,
    THP_NONE,
    page_align,
)
from numa_service.mm.mmap.vma import File


def get_unmapped_area(
    mm: MmStruct, file: File | None, hint: int, length: int, pgoff: int, *, fixed: bool, shared: bool
) -> int:
    """The address for `length` bytes; ENOMEM if there is no room, EINVAL or EPERM for an address not allowed.

    `hint` is taken if there is room; `fixed`: it is taken whatever is there.
    """
    task_size = mm.layout.task_size
    if length > task_size:
        raise Errno(errno.ENOMEM, f"{length} bytes are more than a process has")
    address = hint
    if file is not None and file.huge is not None:
        address = _hugetlb_area(mm, 1 << file.huge.pool.shift, hint, length, fixed)
    elif not fixed:
        address = _thp_area(mm, file, hint, length, pgoff, shared) or _area(mm, hint, length)
    if address > task_size - length:
        raise Errno(errno.ENOMEM, f"{address:#x} and {length} bytes are beyond the addresses of a process")
    if address & ~PAGE_MASK:
        raise Errno(errno.EINVAL, f"{address:#x} is not the address of a page")
    if address < mm.layout.mmap_min_addr and not mm.limits.cap_sys_rawio:
        raise Errno(errno.EPERM, f"{address:#x} is below mmap_min_addr")
    return address


def _hugetlb_area(mm: MmStruct, size: int, hint: int, length: int, fixed: bool) -> int:
    """hugetlb_get_unmapped_area of x86: room that begins and ends with a huge page."""
    if length % size or (fixed and hint % size):
        raise Errno(errno.EINVAL, "a mapping of huge pages begins and ends with one")
    if fixed:
        return hint
    hint &= -size
    found = _area(mm, hint, length) if hint else 0
    if hint and found == hint:
        return hint
    found = _area(mm, 0, length + size - PAGE_SIZE) + size - PAGE_SIZE
    return found & -size


def _thp_area(mm: MmStruct, file: File | None, hint: int, length: int, pgoff: int, shared: bool) -> int:
    """__thp_get_unmapped_area: room in which each 2 MiB can be a huge page; 0: none is looked for."""
    rule = mm.rules.thp_alignment
    if not mm.layout.aligns_thp:
        return 0
    if file is not None:
        if not file.thp_aligned:
            return 0
        offset = pgoff << PAGE_SHIFT
    else:
        if shared or rule == THP_NONE or (rule == THP_MULTIPLE and length % PMD_SIZE):
            return 0
        if hint and mm.rules.hint_is_not_aligned:
            return 0
        offset = 0
    end, first = offset + length, -(-offset // PMD_SIZE) * PMD_SIZE
    if end <= first or end - first < PMD_SIZE:
        return 0
    try:
        found = _area(mm, hint, length + PMD_SIZE)
    except Errno:
        return 0
    if found == hint:
        return found
    skipped = (offset - found) % PMD_SIZE
    return found + PMD_SIZE if not mm.legacy and not skipped else found + skipped


def _area(mm: MmStruct, hint: int, length: int) -> int:
    """arch_get_unmapped_area_topdown of x86."""
    layout = mm.layout
    if length > layout.task_size:
        raise Errno(errno.ENOMEM, f"{length} bytes are more than a process has")
    if hint and layout.task_size - length >= hint:
        following = mm.tree.find(hint)
        if following is None or hint + length <= following.start_gap(layout.stack_guard_gap):
            return hint
    found = None
    if not mm.legacy:
        found = _highest(mm, length, max(PAGE_SIZE, layout.mmap_min_addr), mm.mmap_base)
    if found is None:
        # rooms above mmap_base, after all
        found = _lowest(mm, length, page_align(layout.task_size // 3), layout.task_size)
    if found is None:
        raise Errno(errno.ENOMEM, f"there is no room for {length} bytes")
    return found


def _highest(mm: MmStruct, length: int, low: int, high: int) -> int | None:
    """The highest room below `high`."""
    gap = mm.layout.stack_guard_gap
    above = mm.tree.find(high)
    end = high if above is None else min(high, above.start_gap(gap))
    for vma in mm.tree.downwards(high):
        if end - max(vma.end, low) >= length:
            return end - length
        end = min(end, vma.start_gap(gap))
    return end - length if end - low >= length else None


def _lowest(mm: MmStruct, length: int, low: int, high: int) -> int | None:
    """The lowest room above `low`."""
    start = low
    for vma in mm.tree:
        if vma.end <= start:
            continue
        if vma.start_gap(mm.layout.stack_guard_gap) - start >= length:
            return start
        start = vma.end
    return start if high - start >= length else None
