"""Huge pages of processes: where they may be, faults that take or write to one, and splits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from numa_service.mm.mmap import vm_flags as vf
from numa_service.mm.mmap.anon_vma import anon_vma_prepare
from numa_service.mm.mmap.entries import ACCESSED, DIRTY, WRITE, Entries, pfns_of
from numa_service.mm.mmap.frames import ANON, Bools, Frames, Pfns
from numa_service.mm.mmap.process import Process
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.mm.mmap.thp import Thp
from numa_service.mm.mmap.thp_rules import (
    REUSE_EXCLUSIVE,
    REUSE_MAPCOUNT,
    REUSE_NEVER_SHARED,
    REUSE_OWNED,
    REUSE_REFERENCE,
)
from numa_service.mm.mmap.vma import Vma


def suitable(vma: Vma, address: int, size: int) -> bool:
    """transhuge_vma_suitable: whether the huge page around an address is all within the VMA."""
    low = address & -size
    return vma.start <= low and low + size <= vma.end


def allowed(thp: Thp, vma: Vma, *, in_fault: bool = False, smaps: bool = False, enforce: bool = True) -> bool:
    """hugepage_vma_check: whether a VMA may have huge pages; of files none may, as by default.

    `in_fault`: a fault asks, which looks at its own address. `smaps`: the file asks, for which it is enough
    that a fault might get one. `enforce`: the file ``enabled`` has a say, which it has not in MADV_COLLAPSE.
    """
    if not vma.is_anonymous or vma.flags & (vf.VM_NOHUGEPAGE | vf.VM_SPECIAL | vf.VM_HUGETLB | vf.VM_SHARED):
        return False
    if not in_fault and not suitable(vma, vma.end - thp.size, thp.size):
        return False
    if enforce and not thp.is_on(vma.flags):
        return False
    return vma.anon_vma is not None or smaps or in_fault


def may_fault_huge(process: Process, vma: Vma) -> bool:
    """Whether faults in a VMA have to look at PMD entries first."""
    thp = process.frames.thp
    if thp is None or not vma.is_anonymous:
        return False
    return bool(process.tables.huge_between(vma.start, vma.end)) or allowed(thp, vma, in_fault=True)


def fault_pmds(
    process: Process, vma: Vma, start: int, end: int, *, write: bool
) -> Iterator[tuple[int, int, int | None]]:
    """Touch a part of a VMA, PMD entry by PMD entry, upwards.

    Yielded are parts with the number of their faults; None of those that the caller has to touch page by
    page, before it asks for the next part.
    """
    shift, waits = process.shift, start
    for index in range(start >> shift, ((end - 1) >> shift) + 1):
        low, high = max(start, index << shift), min(end, (index + 1) << shift)
        if process.tables.is_huge(low):
            mapped = True
        elif process.tables.has_table(low) or not _takes_huge(process, vma, index):
            continue
        else:
            mapped = False
        if waits < low:
            yield waits, low, None
        done = _touch_pmd(process, vma, index, write=write) if mapped else _fault(process, vma, index, write)
        waits = low
        if done is not None:
            yield low, high, done
            waits = high
    if waits < end:
        yield waits, end, None


def _takes_huge(process: Process, vma: Vma, index: int) -> bool:
    thp = _thp(process.frames)
    return allowed(thp, vma, in_fault=True) and suitable(vma, index << process.shift, thp.size)


def huge_faults(process: Process, vma: Vma, start: int, end: int) -> int:
    """How many faults of writes in a part of a VMA are of huge pages, if there are enough of these."""
    return sum(
        not process.tables.has_table(index << process.shift) and _takes_huge(process, vma, index)
        for index in range(start >> process.shift, ((end - 1) >> process.shift) + 1)
    )


def _thp(frames: Frames) -> Thp:
    assert frames.thp is not None
    return frames.thp


def _fault(process: Process, vma: Vma, index: int, write: bool) -> int | None:
    """do_huge_pmd_anonymous_page; None: there is no huge page, so it is small ones (VM_FAULT_FALLBACK)."""
    thp = _thp(process.frames)
    anon_vma_prepare(process.mm.tree, vma)
    thp.scan.enter(process)
    if not write and thp.rules.huge_zero_page and thp.settings.use_zero_page:
        if thp.get_zero_page(process, _nid(process, vma, index)):
            process.map_zero_pmd(index)
            return 1
        thp.count("thp_fault_fallback")
        return None
    pfns = _new_huge(process, vma, index)
    if pfns is None:
        return None
    writable = WRITE if vma.flags & vf.VM_WRITE else 0
    try:
        process.map_pmd(index, pfns, DIRTY | ACCESSED | writable)
    except BaseException:
        # there was no page for a table: whoever finds one begins anew
        thp.free(int(pfns[0]))
        raise
    _taken(process, vma, index, pfns)
    return 1


def _new_huge(process: Process, vma: Vma, index: int) -> Pfns | None:
    """The pages of a new huge page for a fault, if there is one."""
    frames, thp = process.frames, _thp(process.frames)
    pfns = frames.alloc_huge(_nid(process, vma, index), thp.fault_gfp(vma.flags))
    if not len(pfns):
        thp.count("thp_fault_fallback")
        return None
    return pfns


def _taken(process: Process, vma: Vma, index: int, pfns: Pfns) -> None:
    """A fault has mapped a new huge page, which is the process's own."""
    _thp(process.frames).count("thp_fault_alloc")
    belong(process, vma, index, pfns)


def belong(process: Process, vma: Vma, index: int, pfns: Pfns) -> None:
    """A huge page is of the anon_vma of a VMA (page_add_new_anon_rmap, page_move_anon_rmap)."""
    assert vma.anon_vma is not None
    first = vma.pgoff + (((index << process.shift) - vma.start) >> PAGE_SHIFT)
    process.frames.belong(pfns, vma.anon_vma, np.arange(first, first + len(pfns), dtype=np.int64))


def _nid(process: Process, vma: Vma, index: int) -> int:
    """The node of a huge page: policies that go by its number count in huge pages (interleave_nid)."""
    order = process.shift - PAGE_SHIFT
    number = (vma.pgoff >> order) + (((index << process.shift) - vma.start) >> process.shift)
    return int(process.place(vma, np.array([number], np.int64))[0])


def _touch_pmd(process: Process, vma: Vma, index: int, *, write: bool) -> int | None:
    """An access to a huge page that is mapped: its PMD entry is accessed and dirty as a whole."""
    row = process.row(index)
    if not write:
        row |= ACCESSED
        return 0
    if row[0] & WRITE:
        row |= DIRTY | ACCESSED
        return 0
    return _write_pmd(process, vma, index, row)


def _write_pmd(process: Process, vma: Vma, index: int, row: Entries) -> int | None:
    """do_huge_pmd_wp_page: a write to what is not writable. None: it is mapped page by page now."""
    thp, frames = _thp(process.frames), process.frames
    anon_vma_prepare(process.mm.tree, vma)
    old = pfns_of(row)
    if old[0]:
        if _alone(frames, int(old[0])):
            belong(process, vma, index, old)
            thp.own(old)
            row |= WRITE | DIRTY | ACCESSED
            return 1
        wanted = thp.rules.copies_huge
    else:
        wanted = thp.rules.zero_becomes_huge
    if wanted and allowed(thp, vma, in_fault=True):
        pfns = _new_huge(process, vma, index)
        if pfns is not None:
            process.forget_pmd(index)
            process.map_pmd(index, pfns, WRITE | DIRTY | ACCESSED)
            _taken(process, vma, index, pfns)
            return 1
        if old[0]:
            _copy_by_pages(process, vma, index)
            return 1
    process.split_pmd(index)
    return None


def _copy_by_pages(process: Process, vma: Vma, index: int) -> None:
    """do_huge_pmd_wp_page_fallback: all of a shared huge page is copied, but into single pages."""
    first = vma.pgoff + (((index << process.shift) - vma.start) >> PAGE_SHIFT)
    numbers = np.arange(first, first + _thp(process.frames).nr, dtype=np.int64)
    pfns = process.frames.alloc(process.place(vma, numbers), ANON)
    process.forget_pmd(index)
    process.tables.split_pmd(index)
    row = process.row(index)
    process.map_pages(row, np.ones(len(row), np.bool_), pfns, WRITE | DIRTY | ACCESSED)
    assert vma.anon_vma is not None
    process.frames.belong(pfns, vma.anon_vma, numbers)


def _alone(frames: Frames, head: int) -> bool:
    """Whether who maps a huge page by a PMD entry may write to it without a copy."""
    thp = _thp(frames)
    if thp.rules.reuse < REUSE_EXCLUSIVE:
        return int(frames.mapcount[head : head + thp.nr].max()) == 1
    if thp.references(frames.mapcount, head) == 1:
        return True
    exclusive: bool = not thp.was_shared(np.array([head]))[0]
    return exclusive


def reused_parts(process: Process, row: Entries, mapped: Bools, reused: Bools) -> Bools:
    """do_wp_page: which of the pages that are written to need no copy, those of huge pages by their rules.

    `row`: entries next to each other, of which `mapped` are written to; `reused`: what is so of single pages.
    """
    thp, frames = process.frames.thp, process.frames
    if thp is None:
        return reused
    old = pfns_of(row)
    parts = mapped & thp.compound(old) & (frames.kind[old] == ANON)
    if not parts.any():
        return reused
    reused = reused.copy()
    heads = old & -thp.nr
    for head in np.unique(heads[parts]).tolist():
        mine = np.flatnonzero(parts & (heads == head))
        own = int(((heads == head) & (row != 0)).sum())
        reused[mine] = _reused_of(frames, thp, head, old[mine], own)
    thp.own(old[reused])
    return reused


def _reused_of(frames: Frames, thp: Thp, head: int, pfns: Pfns, own: int) -> Bools:
    """Decide the same for several pages of one huge page, in the order in which they are written to.

    `own`: how many of its parts the process maps here.
    """
    rule = thp.rules.reuse
    if rule == REUSE_MAPCOUNT:
        alone = int(frames.mapcount[head : head + thp.nr].max()) == 1
        return np.full(len(pfns), alone)
    references = thp.references(frames.mapcount, head)
    if rule == REUSE_REFERENCE:
        exclusive = np.zeros(len(pfns), np.bool_)
    else:
        exclusive = ~thp.was_shared(pfns) & (frames.mapcount[pfns] == 1)
    if rule == REUSE_OWNED:
        return exclusive | (references == own and references > 1)
    if rule != REUSE_NEVER_SHARED:
        # each copy gives a reference back, until the last one is left
        copies = np.flatnonzero(~exclusive)
        if 0 < references <= len(copies):
            exclusive[copies[references - 1]] = True
    return exclusive


def copy_pmds(parent: Process, child: Process, vma: Vma) -> None:
    """copy_huge_pmd: entries of a VMA have been copied to a child; PMD entries among them are noted.

    Nobody has the pages of huge ones for himself any longer.
    """
    thp = parent.frames.thp
    if thp is None:
        return
    for _, part in child.chunks(vma.start, vma.end):
        thp.share(pfns_of(part))
    for index in child.tables.huge_between(vma.start, vma.end):
        if head := int(pfns_of(child.row(index)[:1])[0]):
            thp.map_pmd(head, child, index)
        else:
            thp.zero_users[child] = None


def split_huge_page(frames: Frames, head: int) -> None:
    """split_huge_page: single pages instead of a huge one, in all processes; what nobody maps goes back."""
    thp = _thp(frames)
    unmapped = thp.split_page(frames.mapcount, head)
    if len(unmapped):
        frames.source.free(unmapped)


def deferred_split_scan(frames: Frames, most: int) -> int:
    """Memory is short: split up to `most` huge pages of which a part is not mapped; return how many were."""
    heads = list(_thp(frames).deferred)[:most]
    for head in heads:
        split_huge_page(frames, head)
    return len(heads)


def split_in_range(process: Process, start: int, end: int) -> None:
    """madvise_free_huge_pmd: huge pages of which a part is meant are split, if nobody shares them.

    So are those that are mapped page by page.
    """
    frames, thp = process.frames, process.frames.thp
    if thp is None or not thp.huge:
        return
    whole = set(process.tables.huge_between(start, end))
    for _, part in process.chunks(start, end):
        pfns = pfns_of(part)
        pfns = pfns[thp.compound(pfns) & (frames.mapcount[pfns] == 1)]
        for head in np.unique(pfns & -thp.nr).tolist():
            entries = [index for who, index in thp.huge[head].pmds if who is process]
            inside = all(
                index in whole and start <= index << process.shift and (index + 1) << process.shift <= end
                for index in entries
            )
            if not entries or not inside:
                split_huge_page(frames, head)
