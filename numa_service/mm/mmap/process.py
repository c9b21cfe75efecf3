"""A process: its VMAs, its page tables with their entries, and its resident set."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from numa_service.mm.mmap.effects import Move
from numa_service.mm.mmap.entries import (
    ACCESSED,
    DIRTY,
    HUGE,
    HWPOISON,
    PRESENT,
    WRITE,
    ZERO,
    Entries,
    has,
    pfns_of,
)
from numa_service.mm.mmap.frames import ANON, KINDS, AddressSpace, Bools, Frames, Nids, Pfns
from numa_service.mm.mmap.mm_struct import MmStruct
from numa_service.mm.mmap.pgtables import PageTables
from numa_service.mm.mmap.rules import PAGE_SHIFT
from numa_service.mm.mmap.thp import Thp
from numa_service.mm.mmap.vm_flags import VM_SEQ_READ
from numa_service.mm.mmap.vma import Vma

#: Pages of PTEs that are worked on together at most: their arrays stay in a CPU's cache.
_TOGETHER: Final = 64
#: The node for each of these pages of a VMA, by their numbers (its pgoff is the first one's).
Place = Callable[[Vma, Pfns], Nids]


class Process:
    """A process's memory, which faults, forks and unmaps change. A row of entries is a page of PTEs."""

    def __init__(self, mm: MmStruct, tables: PageTables, frames: Frames, place: Place) -> None:
        self.mm = mm
        self.tables = tables
        self.frames = frames
        #: Where its new pages come from (the policy of the VMA or of the task).
        self.place = place
        #: Pages mapped by kind (mm->rss_stat).
        self.rss = [0] * KINDS
        #: The most that was resident, noted when it becomes less (update_hiwater_rss).
        self.hiwater_rss = 0
        self.minflt = 0
        #: Entries of pages that were lost to errors of the memory.
        self.hwpoisons = 0
        self.shift = mm.layout.level_shifts[0]
        self._width = 1 << (self.shift - PAGE_SHIFT)
        #: Pages of PTEs, a row each; where the one for an index (address >> shift) is; all indices in order.
        self._pool = np.zeros((1, self._width), np.int64)
        self._slots: dict[int, int] = {}
        self._order: list[int] = []
        self._free = [0]
        mm.on_boundary = self.split_at

    def chunks(self, start: int, end: int, *, make: bool = False) -> Iterator[tuple[int, Entries]]:
        """The entries of a range in parts, each with the address of its first.

        Only those are there of which there is a page of PTEs; `make`: they are made, all of them at once.
        Pages of PTEs that lie behind each other, in addresses and here, are one part.
        """
        if start >= end:
            return
        bottom, top = start >> self.shift, ((end - 1) >> self.shift) + 1
        if make:
            for index in range(bottom, top):
                self._make(index)
        indices = self._order[bisect_left(self._order, bottom) : bisect_left(self._order, top)]
        flat, at = self._pool.reshape(-1), 0
        while at < len(indices):
            first, slot, many = indices[at], self._slots[indices[at]], 1
            while (
                many < _TOGETHER
                and at + many < len(indices)
                and indices[at + many] == first + many
                and self._slots[first + many] == slot + many
            ):
                many += 1
            at += many
            low, high = max(start, first << self.shift), min(end, (first + many) << self.shift)
            begins = slot * self._width + ((low - (first << self.shift)) >> PAGE_SHIFT)
            yield low, flat[begins : begins + ((high - low) >> PAGE_SHIFT)]

    def _make(self, index: int) -> None:
        """A page of PTEs, and those above it."""
        if index in self._slots:
            return
        self.tables.fault(index << self.shift)
        if not self._free:
            more = np.zeros_like(self._pool)
            self._free = list(range(2 * len(self._pool) - 1, len(self._pool) - 1, -1))
            self._pool = np.concatenate([self._pool, more])
        self._slots[index] = self._free.pop()
        insort(self._order, index)

    def _drop(self, index: int) -> None:
        """A page of PTEs is gone, and had no entry any more."""
        slot = self._slots.pop(index)
        assert not self._pool[slot].any()
        self._free.append(slot)
        del self._order[bisect_left(self._order, index)]

    def row(self, index: int) -> Entries:
        """The entries of one page of PTEs, which is made if there is none; `index`: address >> shift."""
        self._make(index)
        row: Entries = self._pool[self._slots[index]]
        return row

    def leaves(self) -> list[tuple[int, int]]:
        """Start and end of the addresses of each page of PTEs that has had an entry."""
        return [(index << self.shift, (index + 1) << self.shift) for index in self._order]

    def mapped_entries(self, start: int, end: int) -> Entries:
        """The entries of a range that are of a page, which the page of zeros is not."""
        parts = [part[(part & (PRESENT | ZERO)) == PRESENT] for _, part in self.chunks(start, end)]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def all_entries(self, start: int, end: int) -> Entries:
        """A copy of all entries of a range, also those of none: for ranges that are not too large."""
        whole = np.zeros((end - start) >> PAGE_SHIFT, np.int64)
        for address, part in self.chunks(start, end):
            first = (address - start) >> PAGE_SHIFT
            whole[first : first + len(part)] = part
        return whole

    def count(self, pfns: Pfns, by: int) -> None:
        """Pages are mapped (`by` 1) or not any more (`by` -1): the resident set."""
        for kind, pages in enumerate(np.bincount(self.frames.kind[pfns], minlength=KINDS).tolist()):
            self.rss[kind] += by * pages

    def map_pages(self, part: Entries, where: Bools, pfns: Pfns, bits: int) -> None:
        """Make entries of pages, and count them."""
        part[where] = (pfns << 8) | (bits | PRESENT)
        self.frames.map(pfns)
        self.count(pfns, 1)

    def zap(self, vma: Vma, start: int, end: int) -> None:
        """zap_pte_range: entries of a part of a VMA go; what they said of their pages is noted in these."""
        for index in self.tables.huge_between(start, end):
            if start <= index << self.shift and (index + 1) << self.shift <= end:
                self._zap_pmd(index)
            else:
                self.split_pmd(index)
        for _, part in self.chunks(start, end):
            mapped = part[(part & (PRESENT | ZERO)) == PRESENT]
            pfns = pfns_of(mapped)
            if len(pfns):
                self.hiwater_rss = max(self.hiwater_rss, sum(self.rss))
                if vma.file is not None:
                    of_file = self.frames.kind[pfns] != ANON
                    self.frames.dirty[pfns[of_file & has(mapped, DIRTY)]] = True
                    if not vma.flags & VM_SEQ_READ:
                        self.frames.referenced[pfns[of_file & has(mapped, ACCESSED)]] = True
                self.count(pfns, -1)
                self.frames.unmap(pfns)
            if self.hwpoisons:
                self.hwpoisons -= int(has(part, HWPOISON).sum())
            part[:] = 0

    def forget_tables(self) -> None:
        """Entries of pages of PTEs that are gone are none."""
        gone = [index for index in self._order if not self.tables.has_table(index << self.shift)]
        for index in gone:
            slot = self._slots.pop(index)
            assert not self._pool[slot].any()
            self._free.append(slot)
        if gone:
            self._order = sorted(self._slots)

    def move(self, effect: Move) -> None:
        """move_page_tables: entries move, dirty as they are."""
        moved = []
        self._move_pmds(effect)
        for address, part in self.chunks(effect.old, effect.old + effect.length):
            moved.append((address - effect.old + effect.new, part.copy()))
            part[:] = 0
        self.tables.apply([effect])
        self.forget_tables()
        for address, entries in moved:
            for at, part in self.chunks(address, address + (len(entries) << PAGE_SHIFT), make=True):
                first = (at - address) >> PAGE_SHIFT
                part[:] = entries[first : first + len(part)]

    def protect(self, start: int, end: int) -> None:
        """change_protection: entries lose the right to write. Where it is given again, a fault finds out."""
        self.split_ends(start, end)
        for _, part in self.chunks(start, end):
            part &= ~WRITE

    # PMD entries of huge pages

    def map_pmd(self, index: int, pfns: Pfns, bits: int) -> None:
        """set_pmd_at: a huge page is mapped where nothing is; a page of PTEs waits behind it."""
        self.tables.fault(index << self.shift, huge=True)
        self.row(index)[:] = (pfns << 8) | (bits | PRESENT | HUGE)
        self.frames.map(pfns)
        self.rss[ANON] += len(pfns)
        self._thp.map_pmd(int(pfns[0]), self, index)

    def map_zero_pmd(self, index: int) -> None:
        """set_huge_zero_page: the huge page of zeros is mapped, which counts for nothing."""
        self.tables.fault(index << self.shift, huge=True)
        self.row(index)[:] = PRESENT | ZERO | HUGE | ACCESSED

    def split_pmd(self, index: int) -> None:
        """__split_huge_pmd: a huge page is mapped page by page from now on."""
        row = self.row(index)
        row &= ~HUGE
        self.tables.split_pmd(index)
        thp, head = self._thp, int(pfns_of(row[:1])[0])
        if not head:
            thp.count_pmd_split()
        elif thp.split_pmd(head, self, index):
            thp.split_page(self.frames.mapcount, head)

    def split_at(self, address: int) -> None:
        """vma_adjust_trans_huge: VMAs meet at an address, over which no huge page is mapped from now on."""
        if address & ((1 << self.shift) - 1) and self.tables.is_huge(address):
            self.split_pmd(address >> self.shift)

    def split_ends(self, start: int, end: int) -> None:
        """Huge pages of which only a part is in a range are mapped page by page from now on."""
        self.split_at(start)
        self.split_at(end)

    @property
    def _thp(self) -> Thp:
        assert self.frames.thp is not None
        return self.frames.thp

    def _zap_pmd(self, index: int) -> None:
        """zap_huge_pmd: all of a huge page goes, and the page of PTEs behind it."""
        self.forget_pmd(index)
        self.tables.zap_pmd(index)
        self._drop(index)

    def forget_pmd(self, index: int) -> None:
        """A PMD entry maps its huge page no more; the page of PTEs behind it stays, for another one."""
        row = self.row(index)
        pfns = pfns_of(row)
        row[:] = 0
        if not pfns[0]:
            return
        self.hiwater_rss = max(self.hiwater_rss, sum(self.rss))
        self.rss[ANON] -= len(pfns)
        self.frames.mapcount[pfns] -= 1
        self._thp.unmap_pmd(self.frames.mapcount, int(pfns[0]), self, index)

    def _move_pmds(self, effect: Move) -> None:
        """move_huge_pmd: what cannot be moved as it is, is mapped page by page."""
        for index in self.tables.huge_between(effect.old, effect.old + effect.length):
            low, size = index << self.shift, 1 << self.shift
            target = low - effect.old + effect.new
            inside = effect.old <= low and low + size <= effect.old + effect.length
            if not inside or target % size or self.tables.has_table(target):
                self.split_pmd(index)
            elif head := int(pfns_of(self.row(index)[:1])[0]):
                self._thp.move_pmd(head, self, index, target >> self.shift)

    def cache_of(self, vma: Vma) -> AddressSpace:
        """The pages of the file that a VMA maps."""
        assert vma.file is not None
        assert vma.file.pages is not None
        return vma.file.pages
