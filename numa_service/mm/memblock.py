"""The boot allocator memblock, in use until the buddy system exists (``mm/memblock.c``).

:class:`BootAllocator` is the interface that it has in common with ``mm/bootmem.py``.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import Protocol

from numa_service.mm.mmzone import PAGE_SHIFT

#: Pages [start_pfn, end_pfn).
PfnRange = tuple[int, int]


class BootMemoryError(Exception):
    """The boot allocator has no room for something that the kernel needs to boot."""


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """Pages [start_pfn, end_pfn) of one node (``struct memblock_region``), and what they are used for."""

    start_pfn: int
    end_pfn: int
    nid: int
    purpose: str = ""

    @property
    def pages(self) -> int:
        """Length in pages."""
        return self.end_pfn - self.start_pfn


class BootAllocator(Protocol):
    """A boot allocator; after boot its lists are the record of what was taken."""

    #: RAM, ascending.
    memory: list[Region]
    #: Taken pages with their purpose, ascending.
    reserved: list[Region]

    def reserve(self, start_pfn: int, end_pfn: int, nid: int, purpose: str) -> None:
        """Take a range that is free."""

    def alloc_node(self, nid: int, start_pfn: int, end_pfn: int, pages: int, purpose: str) -> int:
        """Take up to `pages` pages of a node within bounds, if need be in pieces; returns pages taken."""

    def free_ranges(self, nid: int, start_pfn: int, end_pfn: int) -> list[PfnRange]:
        """Free ranges of a node within bounds, ascending."""

    def free_pages(self, nid: int, start_pfn: int, end_pfn: int) -> int:
        """Free pages of a node within bounds."""

    def own_ranges(self, nid: int) -> list[PfnRange]:
        """Ranges on a node that the allocator itself uses, and frees when it retires."""

    def retire(self, nid: int) -> list[PfnRange]:
        """End the allocator's work on a node; ranges to free to the buddy system, in that order."""

    def debug_lines(self) -> list[str]:
        """Lines that the allocator's debug option prints into the boot log, one for each reservation."""


@dataclass(slots=True)
class Memblock:
    """``struct memblock``: two sorted lists of disjoint regions, RAM and the part of it that is taken."""

    memory: list[Region] = field(default_factory=list)
    reserved: list[Region] = field(default_factory=list)

    def add(self, start_pfn: int, end_pfn: int, nid: int) -> None:
        """Register RAM (memblock_add_node)."""
        insort(self.memory, Region(start_pfn, end_pfn, nid))

    def reserve(self, start_pfn: int, end_pfn: int, nid: int, purpose: str) -> None:
        """Take a range that is free (memblock_reserve)."""
        insort(self.reserved, Region(start_pfn, end_pfn, nid, purpose))

    def free_ranges(self, nid: int, start_pfn: int, end_pfn: int) -> list[tuple[int, int]]:
        """Unreserved RAM of a node within bounds, ascending (for_each_free_mem_range)."""
        ranges = []
        taken = [r for r in self.reserved if r.nid == nid]
        for memory in self.memory:
            if memory.nid != nid:
                continue
            at, stop = max(memory.start_pfn, start_pfn), min(memory.end_pfn, end_pfn)
            for region in taken:
                if region.end_pfn <= at or region.start_pfn >= stop:
                    continue
                if region.start_pfn > at:
                    ranges.append((at, region.start_pfn))
                at = region.end_pfn
            if at < stop:
                ranges.append((at, stop))
        return ranges

    def reserve_top(self, nid: int, start_pfn: int, end_pfn: int, pages: int, purpose: str) -> int:
        """Take up to `pages` pages of a node's free RAM within bounds, from the top down, as on x86.

        It takes several pieces if need be. Returns pages taken.
        """
        left = pages
        for low, high in reversed(self.free_ranges(nid, start_pfn, end_pfn)):
            if left == 0:
                break
            take = min(left, high - low)
            self.reserve(high - take, high, nid, purpose)
            left -= take
        return pages - left

    def free_pages(self, nid: int, start_pfn: int, end_pfn: int) -> int:
        """Unreserved pages of a node within bounds."""
        return sum(high - low for low, high in self.free_ranges(nid, start_pfn, end_pfn))

    def alloc_node(self, nid: int, start_pfn: int, end_pfn: int, pages: int, purpose: str) -> int:
        """Take pages by :meth:`reserve_top` (memblock_alloc_try_nid)."""
        return self.reserve_top(nid, start_pfn, end_pfn, pages, purpose)

    def own_ranges(self, nid: int) -> list[PfnRange]:
        """No ranges: memblock's lists are part of the kernel image."""
        return []

    def retire(self, nid: int) -> list[PfnRange]:
        """Free ranges in ascending order (memblock_free_all)."""
        return self.free_ranges(nid, 0, 1 << 52)

    def debug_lines(self) -> list[str]:
        """A line for each reservation, as with ``memblock=debug``, with its purpose instead of the caller."""
        return [
            f"memblock_reserve: [{region.start_pfn << PAGE_SHIFT:#018x}-"
            f"{(region.end_pfn << PAGE_SHIFT) - 1:#018x}] {region.purpose}"
            for region in self.reserved
        ]
