"""What calls do to pages: their effects carried out, fork with its copies, and the end of a process."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from numa_service.mm.mmap import hugetlb, hugetlb_fault
from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.effects import Advise, Effect, Move, Populate, Protect, Unmap, Zap
from numa_service.mm.mmap.entries import ACCESSED, DIRTY, HWPOISON, PRESENT, WRITE, ZERO, has, pfns_of
from numa_service.mm.mmap.errnos import Hwpoison, Sigbus
from numa_service.mm.mmap.fault import fault_in, until_hwpoison
from numa_service.mm.mmap.fork import dup_mm, vma_needs_copy
from numa_service.mm.mmap.frames import ANON, SHMEM
from numa_service.mm.mmap.huge_memory import copy_pmds, split_in_range
from numa_service.mm.mmap.khugepaged import khugepaged_enter, madvise_collapse
from numa_service.mm.mmap.madvise import (
    MADV_COLD,
    MADV_COLLAPSE,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_PAGEOUT,
    MADV_REMOVE,
)
from numa_service.mm.mmap.munmap import exit_mmap
from numa_service.mm.mmap.pgtables import PageTables, TablePages
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import PAGE_SHIFT, PAGE_SIZE
from numa_service.mm.mmap.vma import Vma


def carry_out(process: Process, effects: Iterable[Effect], sharers: Iterable[Process] = ()) -> None:
    """Do to pages and page tables what calls left to be done, in order.

    `sharers`: the processes that may map the same files, this one among them; MADV_REMOVE takes pages from
    all of them.
    """
    for effect in effects:
        if isinstance(effect, Unmap):
            for vma in effect.vmas:
                _zap(process, vma, vma.start, vma.end)
            process.tables.apply([effect])
            process.forget_tables()
            for vma in effect.vmas:
                hugetlb.close(vma)
            _drop_unmapped(process, effect.vmas)
        elif isinstance(effect, Zap):
            for vma in process.mm.tree.intersecting(effect.start, effect.end):
                _zap(process, vma, max(vma.start, effect.start), min(vma.end, effect.end))
        elif isinstance(effect, Move):
            moved = process.mm.tree.lookup(effect.new)
            if moved is not None and moved.flags & vf.VM_HUGETLB:
                hugetlb_fault.move(process, moved, effect.old, effect.new, effect.length)
            else:
                process.move(effect)
        elif isinstance(effect, Protect):
            for vma in process.mm.tree.intersecting(effect.start, effect.end):
                low, high = max(vma.start, effect.start), min(vma.end, effect.end)
                if vma.flags & vf.VM_HUGETLB and not vma.flags & vf.VM_WRITE:
                    hugetlb_fault.protect(process, vma, low, high)
                elif not vma.flags & vf.VM_WRITE:
                    process.protect(low, high)
        elif isinstance(effect, Populate):
            populate(process, effect.start, effect.end, effect.write)
        else:
            _advise(process, effect, sharers)


def _zap(process: Process, vma: Vma, start: int, end: int) -> None:
    if vma.flags & vf.VM_HUGETLB:
        tree, restores = process.mm.tree, process.mm.rules.zap_restores_huge
        hugetlb_fault.zap(process.frames, tree, vma, start, end, restores=restores)
    else:
        process.zap(vma, start, end)


def populate(process: Process, start: int, end: int, written: bool | None = None) -> None:
    """mm_populate: private memory that may be written to is written to, so that it is the process's own."""
    for vma in process.mm.tree.intersecting(start, end):
        if written is None and vma.flags & vf.VM_LOCKONFAULT:
            continue
        if not vma.flags & vf.VM_ACCESS_FLAGS or vma.special is not None:
            continue
        write = vma.flags & (vf.VM_WRITE | vf.VM_SHARED) == vf.VM_WRITE if written is None else written
        low, high = max(vma.start, start), min(vma.end, end)
        try:
            while low < high:
                part = until_hwpoison(process, vma, low, high)
                process.minflt += fault_in(process, vma, low, part, write=write)
                low = part
        except (Sigbus, Hwpoison):
            if written is not None:
                raise
            continue  # populate_vma_page_range of the next one


def fork(parent: Process, tables: TablePages) -> Process:
    """A child with the same pages: who writes to an anonymous one first gets a copy (copy_page_range)."""
    mm = dup_mm(parent.mm)
    child = Process(mm, PageTables(mm.layout, tables), parent.frames, parent.place)
    for vma in parent.mm.tree:
        if not vma_needs_copy(vma) or vma.flags & (vf.VM_DONTCOPY | vf.VM_WIPEONFORK):
            continue
        parent.tables.copy_to(child.tables, vma.start, vma.end)
        if vma.flags & vf.VM_HUGETLB:
            hugetlb_fault.copy(parent, child, vma)
            continue
        copied_on_write = vma.flags & (vf.VM_SHARED | vf.VM_MAYWRITE) == vf.VM_MAYWRITE
        for address, part in parent.chunks(vma.start, vma.end):
            if copied_on_write:
                part &= ~WRITE
            for _, its in child.chunks(address, address + (len(part) << PAGE_SHIFT), make=True):
                its[:] = part & ~ACCESSED
                if vma.flags & vf.VM_SHARED:
                    its &= ~DIRTY
                pfns = pfns_of(its[has(its, PRESENT) & ~has(its, ZERO)])
                child.frames.map(pfns)
                child.count(pfns, 1)
                if parent.hwpoisons:
                    child.hwpoisons += int(has(its, HWPOISON).sum())
        copy_pmds(parent, child, vma)
    return child


def exit_process(process: Process) -> None:
    """Everything that a process has goes."""
    carry_out(process, exit_mmap(process.mm))
    assert not any(process.rss)
    if process.frames.thp is not None:
        process.frames.thp.exit(process)
    process.tables.release()


def _drop_unmapped(process: Process, vmas: Iterable[Vma]) -> None:
    """Shared anonymous memory goes with the last mapping of it: nothing else has its file."""
    for vma in vmas:
        file = vma.file
        if file is None or file.pages is None or file.mappings or not file.unlinked:
            continue
        if file.huge is not None:
            hugetlb_fault.truncate(process.frames, file, 0, restores=False)
            continue
        pfns = file.pages.all()
        file.pages.remove(np.arange(file.pages.size, dtype=np.int64))
        if len(pfns):
            process.frames.source.free(pfns)


def _advise(process: Process, effect: Advise, sharers: Iterable[Process]) -> None:
    """Advices about pages that are in memory; those about the future change nothing here."""
    frames = process.frames
    if effect.advice == MADV_REMOVE:
        _remove(process, effect, sharers)
    elif effect.advice == MADV_COLLAPSE and frames.thp is not None:
        madvise_collapse(process, effect.vma, effect.start, effect.end)
    elif effect.advice == MADV_HUGEPAGE:
        khugepaged_enter(process, effect.vma)
    elif effect.advice in (MADV_FREE, MADV_COLD):
        split_in_range(process, effect.start, effect.end)
        for _, part in process.chunks(effect.start, effect.end):
            mapped = has(part, PRESENT) & ~has(part, ZERO)
            pfns = pfns_of(part)
            # a page that others map, too, is left alone
            mapped &= frames.mapcount[pfns] == 1
            if effect.advice == MADV_FREE:
                mapped &= frames.kind[pfns] == ANON
                part[mapped] &= ~(DIRTY | ACCESSED)
                frames.dirty[pfns[mapped]] = False
                frames.lazyfree[pfns[mapped]] = True
            else:
                part[mapped] &= ~ACCESSED
            frames.referenced[pfns[mapped]] = False
    elif effect.advice == MADV_PAGEOUT and effect.vma.file is not None:
        _page_out(process, effect)


def _page_out(process: Process, effect: Advise) -> None:
    """Pages of shmem are unmapped; they stay in memory, as there is no swap (shrink_folio_list)."""
    for address, part in process.chunks(effect.start, effect.end):
        pfns = pfns_of(part)
        alone = (
            has(part, PRESENT) & (process.frames.kind[pfns] == SHMEM) & (process.frames.mapcount[pfns] == 1)
        )
        for nth in np.flatnonzero(alone).tolist():
            at = address + (nth << PAGE_SHIFT)
            process.zap(effect.vma, at, at + PAGE_SIZE)


def _remove(process: Process, effect: Advise, sharers: Iterable[Process]) -> None:
    """MADV_REMOVE: a hole in a file of shmem, and nobody maps it any more (shmem_fallocate)."""
    vma = effect.vma
    assert vma.file is not None
    if vma.flags & vf.VM_HUGETLB:
        size, restores = hugetlb.huge_size(vma), process.mm.rules.zap_restores_huge
        low, high = -(-effect.start // size) * size, effect.end // size * size
        numbers = (hugetlb.huge_number(vma, at) for at in (low, max(low, high)))
        hugetlb_fault.punch_hole(process.frames, vma.file, *numbers, restores=restores)
        return
    first = vma.pgoff + ((effect.start - vma.start) >> PAGE_SHIFT)
    count = (effect.end - effect.start) >> PAGE_SHIFT
    for sharer in sharers:
        for other in sharer.mm.tree:
            if other.file is vma.file:
                low = other.start + ((first - other.pgoff) << PAGE_SHIFT)
                high = low + (count << PAGE_SHIFT)
                sharer.zap(other, max(low, other.start), min(high, other.end))
    if vma.file.pages is None or vma.file.pages.kind != SHMEM:
        return
    gone = vma.file.pages.remove(np.arange(first, first + count, dtype=np.int64))
    vma.file.pages.poisoned -= set(range(first, first + count))
    if len(gone):
        process.frames.source.free(gone)
