"""Faults, a range at a time (``handle_mm_fault``): zero page, anonymous and file pages, copies on write."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Final

import numpy as np

from numa_service.mm.mmap import hugetlb_fault
from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.anon_vma import anon_vma_prepare
from numa_service.mm.mmap.entries import (
    ACCESSED,
    DIRTY,
    HWPOISON,
    PRESENT,
    WRITE,
    ZERO,
    Entries,
    has,
    pfns_of,
)
from numa_service.mm.mmap.errnos import Errno, Hwpoison
from numa_service.mm.mmap.frames import ANON, FILE, SHMEM, Pfns
from numa_service.mm.mmap.huge_memory import fault_pmds, may_fault_huge, reused_parts
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.readahead import hit, missed, reached
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.mm.mmap.stack import expand_stack
from numa_service.mm.mmap.vma import Vma

#: fault_around_bytes, in pages.
FAULT_AROUND: Final = 16

_WRITTEN = WRITE | DIRTY | ACCESSED


def touch(process: Process, start: int, end: int, *, write: bool) -> int:
    """Read or write something in every page of a range, upwards; return how many of the accesses faulted.

    EFAULT stands for SIGSEGV: nothing is mapped there, or not so. What is before it has been touched.
    """
    faults = 0
    while start < end:
        vma = process.mm.tree.lookup(start)
        if vma is None:
            try:
                vma = expand_stack(process.mm, start)
            except Errno as error:
                raise Errno(errno.EFAULT, error.reason) from error
        allowed = vf.VM_WRITE if write else vf.VM_ACCESS_FLAGS
        if not vma.flags & allowed:
            raise Errno(errno.EFAULT, f"{start:#x} may not be {'written' if write else 'read'}")
        part = until_hwpoison(process, vma, start, min(vma.end, end))
        faults += fault_in(process, vma, start, part, write=write)
        start = part
    process.minflt += faults
    return faults


def until_hwpoison(process: Process, vma: Vma, start: int, end: int) -> int:
    """Where a part of a VMA ends before the first page that was lost to an error of the memory.

    Hwpoison if that is the first of the part.
    """
    cache = vma.file.pages if vma.file is not None else None
    if cache is not None and cache.poisoned and cache.kind == SHMEM:
        entries = process.all_entries(start, end)
        lost = np.isin(numbers_of(vma, start, len(entries)), sorted(cache.poisoned)) & (entries == 0)
    elif process.hwpoisons:
        entries = process.all_entries(start, end)
        lost = np.zeros(len(entries), np.bool_)
    else:
        return end
    found = np.flatnonzero(lost | has(entries, HWPOISON))
    if not len(found):
        return end
    if not found[0]:
        raise Hwpoison(start)
    return start + (int(found[0]) << PAGE_SHIFT)


def fault_in(process: Process, vma: Vma, start: int, end: int, *, write: bool) -> int:
    """Touch pages of one VMA. Sigbus where there is no huge page."""
    if vma.flags & vf.VM_HUGETLB:
        return hugetlb_fault.fault_in(process, vma, start, end, write=write)
    if not may_fault_huge(process, vma):
        return _fault_ptes(process, vma, start, end, write=write)
    faults = 0
    for low, high, done in fault_pmds(process, vma, start, end, write=write):
        faults += _fault_ptes(process, vma, low, high, write=write) if done is None else done
    return faults


def _fault_ptes(process: Process, vma: Vma, start: int, end: int, *, write: bool) -> int:
    """Touch them page by page."""
    faults = 0
    for address, part in process.chunks(start, end, make=True):
        if write:
            faults += _write(process, vma, address, part)
        elif vma.is_anonymous:
            none = part == 0
            faults += int(none.sum())
            part[none] = PRESENT | ZERO
        else:
            faults += _read_file(process, vma, address, part)
        part |= ACCESSED * has(part, PRESENT)
    return faults


def numbers_of(vma: Vma, address: int, count: int) -> Pfns:
    """The numbers of pages from an address on: of the file, or of private memory (linear_page_index)."""
    first = vma.pgoff + ((address - vma.start) >> PAGE_SHIFT)
    return np.arange(first, first + count, dtype=np.int64)


def _write(process: Process, vma: Vma, address: int, part: Entries) -> int:
    """Every page that is not writable yet faults."""
    missing = ~has(part, WRITE)
    faults = int(missing.sum())
    if not faults:
        part |= DIRTY
        return 0
    numbers = numbers_of(vma, address, len(part))
    if vma.flags & vf.VM_SHARED:
        _write_shared(process, vma, part, missing, numbers)
    else:
        _write_private(process, vma, part, missing, numbers)
    part |= _WRITTEN
    return faults


def _write_shared(process: Process, vma: Vma, part: Entries, missing: np.ndarray, numbers: Pfns) -> None:
    """do_shared_fault and wp_page_shared: the file's own page, which is dirty then (page_mkwrite)."""
    none = missing & (part == 0)
    if none.any():
        pfns = _cached(process, vma, numbers[none])
        process.map_pages(part, none, pfns, 0)
    process.frames.dirty[pfns_of(part[missing])] = True


def _write_private(process: Process, vma: Vma, part: Entries, missing: np.ndarray, numbers: Pfns) -> None:
    """do_anonymous_page, do_cow_fault and do_wp_page: a page of the process's own."""
    anon_vma_prepare(process.mm.tree, vma)
    frames = process.frames
    old = pfns_of(part)
    mapped = missing & (old != 0)
    if vma.file is not None:
        # what is copied comes into memory
        none = missing & (old == 0)
        _cached(process, vma, numbers[none])
    # alone with an anonymous page: it is written to as it is (wp_page_reuse)
    reused = mapped & (frames.kind[old] == ANON) & (frames.mapcount[old] == 1)
    if frames.thp is not None and frames.thp.huge:
        reused = reused_parts(process, part, mapped, reused)
    assert vma.anon_vma is not None
    if reused.any():
        # page_move_anon_rmap: what was a parent's is the process's own from now on
        frames.belong(old[reused], vma.anon_vma, numbers[reused])
    copied = missing & ~reused
    if not copied.any():
        return
    gone = old[copied & mapped]
    pfns = frames.alloc(process.place(vma, numbers[copied]), ANON)
    frames.belong(pfns, vma.anon_vma, numbers[copied])
    process.map_pages(part, copied, pfns, 0)
    if len(gone):
        process.count(gone, -1)
        frames.unmap(gone)


def _read_file(process: Process, vma: Vma, address: int, part: Entries) -> int:
    """do_read_fault: pages around the one that faults are mapped with it, if they are in memory."""
    faults = 0
    size = FAULT_AROUND << PAGE_SHIFT
    for nth in np.flatnonzero(part == 0).tolist():
        if part[nth]:
            continue  # it came around the fault of another one
        at = address + (nth << PAGE_SHIFT)
        faults += 1
        low = max(at // size * size, vma.start)
        table_end = ((at >> process.shift) + 1) << process.shift
        high = min(low + size, vma.end, table_end)
        _map_around(process, vma, low, high)
        if part[nth]:
            continue
        pfns = _cached(process, vma, numbers_of(vma, at, 1))
        if process.cache_of(vma).kind == FILE:
            # while it was read the locks were dropped: the fault is begun anew (VM_FAULT_RETRY)
            _map_around(process, vma, low, high)
        if not part[nth]:
            process.map_pages(part[nth : nth + 1], np.ones(1, np.bool_), pfns, ACCESSED)
    return faults


def _map_around(process: Process, vma: Vma, low: int, high: int) -> None:
    """filemap_map_pages."""
    for address, around in process.chunks(low, high, make=True):
        pfns = process.cache_of(vma).find(numbers_of(vma, address, len(around)))
        # a page with the mark of readahead has to be seen by a fault of its own
        where = (around == 0) & (pfns != 0) & ~process.frames.marked[pfns]
        process.map_pages(around, where, pfns[where], ACCESSED)


def _cached(process: Process, vma: Vma, numbers: Pfns) -> Pfns:
    """Pages of a file, which come into memory if they are not there yet (filemap_fault, shmem_fault)."""
    cache = process.cache_of(vma)
    if cache.kind == FILE:
        for number in numbers.tolist():
            _read_ahead(process, vma, number)
    pfns = cache.find(numbers)
    missing = pfns == 0
    if missing.any():
        count = int(missing.sum()) if cache.kind == SHMEM and vma.flags & vf.VM_NORESERVE else 0
        if count:
            process.mm.charge(count)
        try:
            fresh = process.frames.alloc(process.place(vma, numbers[missing]), cache.kind)
        except BaseException:
            process.mm.committed.uncharge(count)
            raise
        if count and vma.file is not None:
            vma.file.promised += count
        cache.add(numbers[missing], fresh)
        process.frames.belong(fresh, cache, numbers[missing])
        pfns[missing] = fresh
    return pfns


def _read_ahead(process: Process, vma: Vma, number: int) -> None:
    """filemap_fault: a page of a file is looked up; what readahead reads with it is in memory then."""
    assert vma.file is not None
    cache, frames, file = process.cache_of(vma), process.frames, vma.file
    pfn = int(cache.find(np.array([number]))[0])
    if vma.flags & (vf.VM_RAND_READ | vf.VM_SEQ_READ) or not file.size:
        return
    window, before = None, replace(file.readahead)
    if not pfn:
        window = missed(file.readahead, number)
    else:
        hit(file.readahead)
        if frames.marked[pfn]:
            frames.marked[pfn] = False
            window = reached(file.readahead, number)
    if window is None:
        return
    wanted = np.arange(window.start, min(window.start + window.size, file.size), dtype=np.int64)
    wanted = wanted[cache.find(wanted) == 0]
    try:
        fresh = frames.alloc(process.place(vma, wanted), FILE)
    except BaseException:
        # whoever finds memory for them begins anew
        file.readahead = before
        frames.marked[pfn] |= window.marked >= 0 and pfn != 0
        raise
    cache.add(wanted, fresh)
    frames.belong(fresh, cache, wanted)
    frames.marked[fresh[wanted == window.marked]] = True
