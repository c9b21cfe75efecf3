"""Pages of hugetlb mappings: faults, copies on write, and how they go (``mm/hugetlb.c``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.anon_vma import anon_vma_prepare
from numa_service.mm.mmap.entries import ACCESSED, DIRTY, PRESENT, WRITE
from numa_service.mm.mmap.errnos import Sigbus
from numa_service.mm.mmap.frames import HUGETLB, AddressSpace, Frames
from numa_service.mm.mmap.hugetlb import ResvMap, has_reserves, huge_number, huge_size, of_vma, unreserve
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.mm.mmap.vma import File, Vma
from numa_service.mm.mmap.vma_tree import VmaTree

_BITS = 8


def fault_in(process: Process, vma: Vma, start: int, end: int, *, write: bool) -> int:
    """Touch pages of one VMA; return how many huge pages faulted. Sigbus if there is none for one."""
    size, faults = huge_size(vma), 0
    for address in range(start & -size, end, size):
        faults += _fault(process, vma, address, write)
    return faults


def _fault(process: Process, vma: Vma, address: int, write: bool) -> bool:
    """hugetlb_fault."""
    entries = process.mm.tree.huge_entries
    missing = address not in entries
    if missing:
        process.tables.make_above(address)
        _no_page(process, vma, address)
    faulted = missing
    if write and not entries[address] & WRITE:
        faulted = True
        _write_protected(process, vma, address)
    entries[address] |= ACCESSED | (DIRTY if write else 0)
    return faulted


def _no_page(process: Process, vma: Vma, address: int) -> None:
    """hugetlb_no_page."""
    if vma.resv_unmapped:
        raise Sigbus("a parent has taken its page back, as the pool of huge pages was too small")
    number, cache, frames = huge_number(vma, address), _cache(vma.file), process.frames
    pfn = _cached(cache, number)
    if not pfn:
        if number >= of_vma(vma).size:
            raise Sigbus("the page is behind the end of the file")
        pfn = _alloc_huge_page(process, vma, address, avoid_reserve=False)
        if not pfn:
            raise Sigbus("the pool of huge pages is empty")
        if vma.flags & vf.VM_MAYSHARE:
            cache.add(np.array([number]), np.array([pfn]))
            frames.belong(np.array([pfn]), cache, np.array([number]))
        else:
            _belongs_to(process, vma, pfn, number)
    may_write = vma.flags & (vf.VM_WRITE | vf.VM_SHARED) == vf.VM_WRITE | vf.VM_SHARED
    process.mm.tree.huge_entries[address] = pfn << _BITS | PRESENT | (WRITE if may_write else 0)
    frames.mapcount[pfn] += 1


def _write_protected(process: Process, vma: Vma, address: int) -> None:
    """hugetlb_wp: the page is written to as it is if nobody else maps it, else copied.

    Where there is no page for the copy, whoever made the mapping takes the page from its children.
    """
    entries, frames = process.mm.tree.huge_entries, process.frames
    if vma.flags & vf.VM_MAYSHARE:
        entries[address] |= WRITE
        return
    number, old = huge_number(vma, address), entries[address] >> _BITS
    of_file = _cached(_cache(vma.file), number) == old
    if frames.mapcount[old] > 1 or of_file:
        outside_reserve = vma.resv is not None and not of_file
        pfn = _alloc_huge_page(process, vma, address, avoid_reserve=outside_reserve)
        if not pfn and not outside_reserve:
            raise Sigbus("there is no huge page for a copy")
        if pfn:
            _belongs_to(process, vma, pfn, number)
            entries[address] = pfn << _BITS | PRESENT | WRITE
            frames.mapcount[pfn] += 1
            _unmap_one(frames, vma, old, number)
            return
        _unmap_ref_private(frames, vma, old, address)
    entries[address] |= WRITE


def _alloc_huge_page(process: Process, vma: Vma, address: int, *, avoid_reserve: bool) -> int:
    """alloc_hugetlb_folio; 0 if there is none."""
    huge, number = of_vma(vma), huge_number(vma, address)
    reserved = has_reserves(vma, number) and not avoid_reserve
    page = vma.pgoff + ((address - vma.start) >> PAGE_SHIFT)
    nid = int(process.place(vma, np.array([page]))[0])
    pfn = huge.pool.alloc(nid, reserved)
    if not pfn:
        return 0
    # vma_commit_reservation
    if vma.flags & vf.VM_MAYSHARE:
        huge.reserved.add(number)
    elif vma.resv is not None:
        cast(ResvMap, vma.resv).consumed.add(number)
    process.frames.begin(np.array([pfn]), HUGETLB)
    return pfn


def _belongs_to(process: Process, vma: Vma, pfn: int, number: int) -> None:
    anon_vma_prepare(process.mm.tree, vma)
    assert vma.anon_vma is not None
    process.frames.belong(np.array([pfn]), vma.anon_vma, np.array([number]))


def _unmap_ref_private(frames: Frames, mine: Vma, pfn: int, address: int) -> None:
    """A page is taken from other processes that have no promise, and whose next fault there ends badly."""
    for vma in list(_cache(mine.file).vmas):
        if vma is mine or vma.flags & vf.VM_MAYSHARE or vma.resv is not None:
            continue
        entries = cast(VmaTree, vma.space).huge_entries
        if vma.start <= address < vma.end and entries.get(address, 0) >> _BITS == pfn:
            del entries[address]
            _unmap_one(frames, vma, pfn, huge_number(vma, address))
            vma.resv_unmapped = True


def _unmap_one(frames: Frames, vma: Vma, pfn: int, number: int) -> None:
    """One mapping less of a page; an anonymous one that has none goes back."""
    frames.mapcount[pfn] -= 1
    if not frames.mapcount[pfn] and _cached(_cache(vma.file), number) != pfn:
        _free(vma.file, pfn)


def _free(file: File | None, pfn: int) -> None:
    """free_huge_folio."""
    assert file is not None
    huge = file.huge
    huge.pool.free(pfn, pfn in huge.restored)
    huge.restored.discard(pfn)


def zap(frames: Frames, tree: VmaTree, vma: Vma, start: int, end: int, *, restores: bool) -> None:
    """__unmap_hugepage_range: entries of a part of a VMA go.

    `restores`: the promise of a private page comes back with it, so that it can be had again.
    """
    huge = of_vma(vma)
    for address in within(tree, vma, start, end):
        pfn, number = tree.huge_entries.pop(address) >> _BITS, huge_number(vma, address)
        private = vma.resv is not None and _cached(_cache(vma.file), number) != pfn
        if restores and private and not huge.pool.surplus:
            huge.restored.add(pfn)
            cast(ResvMap, vma.resv).consumed.discard(number)
        _unmap_one(frames, vma, pfn, number)


def within(tree: VmaTree, vma: Vma, start: int, end: int) -> Iterator[int]:
    """The addresses of huge pages that are mapped in a part of a VMA, ascending."""
    entries, size = tree.huge_entries, huge_size(vma)
    if (end - start) // size <= len(entries):
        return iter([address for address in range(start, end, size) if address in entries])
    return iter(sorted(address for address in entries if start <= address < end))


def copy(parent: Process, child: Process, vma: Vma) -> None:
    """copy_hugetlb_page_range: a child maps the same pages; who writes to a private one gets a copy."""
    entries, its = parent.mm.tree.huge_entries, child.mm.tree.huge_entries
    cow = vma.flags & (vf.VM_SHARED | vf.VM_MAYWRITE) == vf.VM_MAYWRITE
    for address in within(parent.mm.tree, vma, vma.start, vma.end):
        if cow:
            entries[address] &= ~WRITE
        its[address] = entries[address]
        parent.frames.mapcount[entries[address] >> _BITS] += 1


def move(process: Process, vma: Vma, old: int, new: int, length: int) -> None:
    """move_hugetlb_page_tables: entries move to `vma`, which has the new addresses."""
    entries = process.mm.tree.huge_entries
    for address in within(process.mm.tree, vma, old, old + length):
        process.tables.make_above(address - old + new)
        entries[address - old + new] = entries.pop(address)


def protect(process: Process, vma: Vma, start: int, end: int) -> None:
    """hugetlb_change_protection: entries lose the right to write."""
    for address in within(process.mm.tree, vma, start, end):
        process.mm.tree.huge_entries[address] &= ~WRITE


def punch_hole(frames: Frames, file: File, first: int, end: int, *, restores: bool) -> None:
    """hugetlbfs_punch_hole: pages of a file go, also from those who map them; promises of others stay."""
    _remove(frames, file, first, end, restores)


def truncate(frames: Frames, file: File, size: int, *, restores: bool) -> None:
    """hugetlb_vmtruncate: a file ends after `size` huge pages, and nothing more is promised of it."""
    file.huge.size = size
    unreserve(file.huge, size, _remove(frames, file, size, 1 << 63, restores))


def _remove(frames: Frames, file: File, first: int, end: int, restores: bool) -> int:
    """hugetlb_vmdelete_list and remove_inode_hugepages; return how many pages went."""
    cache, shift = _cache(file), file.huge.pool.shift
    for vma in list(cache.vmas):
        bottom, top = huge_number(vma, vma.start), huge_number(vma, vma.end)
        low, high = max(first, bottom), min(end, top)
        if low < high:
            start = vma.start + ((low - bottom) << shift)
            stop = vma.start + ((high - bottom) << shift)
            zap(frames, cast(VmaTree, vma.space), vma, start, stop, restores=restores)
    numbers = np.arange(first, min(end, cache.size), dtype=np.int64)
    numbers = numbers[cache.find(numbers) != 0]
    for pfn in cache.remove(numbers).tolist():
        _free(file, pfn)
    if end < 1 << 63:
        # a hole: the promises of its pages are used up
        file.huge.reserved.difference_update(numbers.tolist())
    return len(numbers)


def _cache(file: File | None) -> AddressSpace:
    assert file is not None
    assert file.pages is not None
    return file.pages


def _cached(cache: AddressSpace, number: int) -> int:
    return int(cache.find(np.array([number]))[0])
