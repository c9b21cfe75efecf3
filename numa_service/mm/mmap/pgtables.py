"""Page tables of an address space, level by level: when their pages come and go (``mm/memory.c``).

What the entries are of is not here, but for huge pages, whose page of PTEs waits until it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from numa_service.mm.mmap.effects import Effect, Move, Unmap, Zap
from numa_service.mm.mmap.rules import UserLayout


class TablePages(Protocol):
    """Where pages of tables come from: those of the node of the CPU that faults or forks."""

    def alloc(self, order: int) -> int:
        """A page frame number."""
        ...

    def free(self, pfn: int, order: int) -> None:
        """The page goes back."""
        ...


class Unlimited:
    """Pages without end, numbered from 0; counts how many are out."""

    def __init__(self) -> None:
        self.out = 0
        self._next = 0

    def alloc(self, order: int) -> int:
        """A number that was not given before."""
        self.out += 1 << order
        self._next += 1 << order
        return self._next - (1 << order)

    def free(self, pfn: int, order: int) -> None:
        """Count a block as freed; its number is not given again."""
        self.out -= 1 << order


class PageTables:
    """The tables below one PGD. Level 0 are pages of PTEs; the PGD is above the last level."""

    def __init__(self, layout: UserLayout, pages: TablePages) -> None:
        self._layout = layout
        self._pages = pages
        self._shifts = layout.level_shifts
        #: By level: index (address >> shift) to page frame number.
        self._levels: list[dict[int, int]] = [{} for _ in self._shifts]
        #: Pages of PTEs that wait behind a huge page (pgtable_trans_huge_deposit), by their index.
        self._huge: set[int] = set()
        self.pgd = pages.alloc(layout.pgd_order)
        for index in range(layout.preallocated_pmds):
            self._levels[-1][index] = pages.alloc(0)

    def counts(self) -> tuple[int, ...]:
        """Pages by level, PTEs first, without the PGD."""
        return tuple(map(len, self._levels))

    def pgtables_bytes(self) -> int:
        """mm_pgtables_bytes: VmPTE, in bytes, and what the OOM killer counts. The PGD is not in it."""
        return sum(self.counts()) << 12

    def nr_page_table_pages(self, *, counts_pud: bool) -> int:
        """Return the pages that the machine counts: of PTEs and PMDs, with `counts_pud` also of PUDs."""
        return sum(self.counts()[: 3 if counts_pud else 2])

    def counted_pages(self, *, counts_pud: bool) -> Iterator[int]:
        """The pages that are counted so, as they were given."""
        for level in self._levels[: 3 if counts_pud else 2]:
            yield from level.values()

    def has_table(self, address: int) -> bool:
        """Whether there is a page of PTEs for an address."""
        return address >> self._shifts[0] in self._levels[0]

    def fault(self, address: int, *, huge: bool = False) -> None:
        """A fault at an address: the missing tables on the way to its entry are made, from the top.

        `huge`: it gets a huge page, if it has no PTEs yet.
        """
        for shift, level in zip(reversed(self._shifts), reversed(self._levels), strict=True):
            index = address >> shift
            if index not in level:
                level[index] = self._pages.alloc(0)
                if level is self._levels[0] and huge:
                    self._huge.add(index)

    def is_huge(self, address: int) -> bool:
        """Whether a huge page is mapped there."""
        return address >> self._shifts[0] in self._huge

    def huge_between(self, start: int, end: int) -> list[int]:
        """The indices (address >> shift) of huge pages of which a part is in a range, lowest first."""
        if not self._huge or start >= end:
            return []
        first, last = start >> self._shifts[0], (end - 1) >> self._shifts[0]
        if last - first < len(self._huge):
            return [index for index in range(first, last + 1) if index in self._huge]
        return sorted(index for index in self._huge if first <= index <= last)

    def split_pmd(self, index: int) -> None:
        """The page of PTEs that waited behind a huge page is in use (pgtable_trans_huge_withdraw)."""
        self._huge.remove(index)

    def deposit(self, index: int) -> None:
        """A huge page takes the place of a page of PTEs, which waits (pgtable_trans_huge_deposit)."""
        assert index in self._levels[0]
        self._huge.add(index)

    def zap_pmd(self, index: int) -> None:
        """A huge page goes, and with it the page of PTEs that waited behind it (zap_deposited_table)."""
        self._huge.remove(index)
        self._free(0, index)

    def split_huge(self, start: int, end: int) -> list[int]:
        """Huge pages of which only a part is in a range get PTEs (split_huge_pmd); their addresses."""
        shift = self._shifts[0]
        cut = [
            index
            for index in sorted(self._huge)
            if index << shift < end
            and start < (index + 1) << shift
            and not (start <= index << shift and (index + 1) << shift <= end)
        ]
        self._huge.difference_update(cut)
        return [index << shift for index in cut]

    def apply(self, effects: Iterable[Effect]) -> None:
        """Do what calls left to be done."""
        for effect in effects:
            if isinstance(effect, Unmap):
                self._unmap(effect)
            elif isinstance(effect, Zap):
                self.zap(effect.start, effect.end)
            elif isinstance(effect, Move):
                self._move(effect.old, effect.new, effect.length)

    def zap(self, start: int, end: int) -> None:
        """zap_page_range: tables stay, but for those that waited behind a huge page that goes."""
        self.split_huge(start, end)
        shift = self._shifts[0]
        for index in sorted(self._huge):
            if start <= index << shift < end:
                self._huge.discard(index)
                self._free(0, index)

    def copy_to(self, child: PageTables, start: int, end: int) -> None:
        """copy_page_range: a child gets tables where this has some, for the addresses of one VMA.

        Whoever forks asks for it only for VMAs of which fork.vma_needs_copy is true.
        """
        for shift, mine in zip(reversed(self._shifts), reversed(self._levels), strict=True):
            for index in _overlapped(mine, shift, start, end):
                child.fault_level(shift, index)
        child._huge |= {
            index
            for index in _overlapped(self._levels[0], self._shifts[0], start, end)
            if index in self._huge
        }

    def fault_level(self, shift: int, index: int) -> None:
        """Make one table of the level with this shift, if it is missing."""
        level = self._levels[self._shifts.index(shift)]
        if index not in level:
            level[index] = self._pages.alloc(0)

    def release(self) -> None:
        """The PGD goes, at the very end (pgd_free); everything has been unmapped before."""
        for index in range(self._layout.preallocated_pmds):
            self._free(len(self._levels) - 1, index)
        assert not sum(self.counts())
        self._pages.free(self.pgd, self._layout.pgd_order)

    def _unmap(self, effect: Unmap) -> None:
        """unmap_region: pages go, then free_pgtables."""
        areas = [(vma.start, vma.end) for vma in effect.vmas]
        for start, end in areas:
            self.zap(start, end)
        pmd = 1 << self._shifts[0]
        while areas:
            start, end = areas.pop(0)
            # areas that are near each other go together
            while areas and areas[0][0] <= end + pmd:
                end = areas.pop(0)[1]
            self._free_range(start, end, effect.floor, areas[0][0] if areas else effect.ceiling)

    def _free_range(self, start: int, end: int, floor: int, ceiling: int) -> None:
        """free_pgd_range: tables of a range of which nothing is between the floor and the ceiling."""
        ceiling = ceiling or 1 << 64
        for depth, shift in enumerate(self._shifts):
            if depth >= len(self._shifts) - 1 and self._layout.preallocated_pmds:
                break
            for index in _overlapped(self._levels[depth], shift, start, end):
                if floor <= index << shift and (index + 1) << shift <= ceiling:
                    self._free(depth, index)

    def _free(self, depth: int, index: int) -> None:
        self._pages.free(self._levels[depth].pop(index), 0)

    def _move(self, old: int, new: int, length: int) -> None:
        """move_page_tables: a whole page of PTEs moves as it is, entries of others are moved one by one."""
        size = 1 << self._shifts[0]
        end = old + length
        while old < end:
            extent = min((old // size + 1) * size, end) - old
            extent = min(extent, (new // size + 1) * size - new)
            source, target = old // size, new // size
            if source in self._levels[0]:
                whole = extent == size and target not in self._levels[0]
                if source in self._huge and not whole:
                    self._huge.discard(source)
                if whole:
                    self.make_above(new)
                    self._levels[0][target] = self._levels[0].pop(source)
                    if source in self._huge:
                        self._huge.discard(source)
                        self._huge.add(target)
                else:
                    self.fault(new)
            old += extent
            new += extent

    def make_above(self, address: int) -> None:
        """The tables above that of PTEs: a huge page has its entry in the lowest of them."""
        for shift in reversed(self._shifts[1:]):
            self.fault_level(shift, address >> shift)


def _overlapped(level: dict[int, int], shift: int, start: int, end: int) -> list[int]:
    """The tables of one level that are for addresses of a range, lowest first."""
    first, last = start >> shift, (end - 1) >> shift
    if last - first < len(level):
        return [index for index in range(first, last + 1) if index in level]
    return sorted(index for index in level if first <= index <= last)
