"""The bootmem allocator, with one bit for each page (``mm/bootmem.c``; removed in 4.20).

x86 kernels of the time of 3.0 use it unless they are built with CONFIG_NO_BOOTMEM. Each node has a bitmap of
its low memory, in which set bits are taken pages. Allocations go upwards from a goal, and small ones share a
page with the allocation before.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from numa_service.mm.memblock import BootMemoryError, PfnRange, Region
from numa_service.mm.mmzone import PAGE_SHIFT, PAGE_SIZE

BITS_PER_LONG = 64
#: ilog2(BITS_PER_LONG): the order in which full words of the bitmap go to the buddy system.
WORD_ORDER = 6
#: __pa(MAX_DMA_ADDRESS): the goal of alloc_bootmem_node, so that ZONE_DMA is left alone.
DMA_GOAL = 16 << 20
_BITMAP = "bootmem bitmap"


def bootmem_bootmap_pages(pages: int) -> int:
    """Pages that a bitmap of `pages` bits takes, in whole words (function of that name)."""
    words = -(-pages // BITS_PER_LONG)
    return -(-words * (BITS_PER_LONG // 8) // PAGE_SIZE)


@dataclass(slots=True)
class BootmemData:
    """``bootmem_data_t`` of one node (pgdat->bdata)."""

    nid: int
    node_min_pfn: int
    #: First pfn past the node's low memory, where the bitmap ends.
    node_low_pfn: int
    #: A set bit is a taken page. Bit 0 of byte 0 is page node_min_pfn.
    node_bootmem_map: npt.NDArray[np.uint8]
    #: Where the last allocation ended, in bytes from node_min_pfn.
    last_end_off: int = 0
    #: Where the next search starts, in pages from node_min_pfn.
    hint_idx: int = 0

    def mark(self, start_pfn: int, end_pfn: int, reserve: bool) -> None:
        """Set (`reserve`) or clear the bits of pfns [start, end) (mark_bootmem_node).

        BootMemoryError if they are not all in the node's bitmap.
        """
        start, end = start_pfn - self.node_min_pfn, end_pfn - self.node_min_pfn
        if not 0 <= start <= end <= self.node_low_pfn - self.node_min_pfn:
            raise BootMemoryError(f"pfns {start_pfn}-{end_pfn} are not low memory of node {self.nid}")
        while start < end:
            byte, bit = start >> 3, start & 7
            if not bit and end - start >= 8:
                whole = end - start >> 3
                self.node_bootmem_map[byte : byte + whole] = 0xFF if reserve else 0
                start += whole << 3
                continue
            stop = min(end - (byte << 3), 8)
            mask = (1 << stop) - (1 << bit)
            old = int(self.node_bootmem_map[byte])
            self.node_bootmem_map[byte] = old | mask if reserve else old & ~mask
            start = (byte << 3) + stop

    def reserved(self, pfn: int) -> bool:
        """Whether a page is taken."""
        index = pfn - self.node_min_pfn
        return bool(self.node_bootmem_map[index >> 3] >> (index & 7) & 1)

    def free_runs(self, start_pfn: int, end_pfn: int) -> list[PfnRange]:
        """Ranges of free pages within [start_pfn, end_pfn), ascending."""
        start = max(start_pfn, self.node_min_pfn)
        end = min(end_pfn, self.node_low_pfn)
        if start >= end:
            return []
        first = start - self.node_min_pfn >> 3
        octets = self.node_bootmem_map[first : -(-(end - self.node_min_pfn) // 8)]
        edges = [0, *(np.flatnonzero(octets[1:] != octets[:-1]) + 1).tolist(), len(octets)]
        runs: list[PfnRange] = []

        def found(low: int, high: int) -> None:
            low, high = max(low, start), min(high, end)
            if low < high:
                if runs and runs[-1][1] == low:
                    low = runs.pop()[0]
                runs.append((low, high))

        base = self.node_min_pfn + (first << 3)
        for low, high in pairwise(edges):
            value = int(octets[low])
            if value == 0:
                found(base + (low << 3), base + (high << 3))
            elif value != 0xFF:
                for pfn in range(base + (low << 3), base + (high << 3)):
                    if not value >> (pfn - base & 7) & 1:
                        found(pfn, pfn + 1)
        return runs


def init_bootmem_node(nid: int, start_pfn: int, end_pfn: int) -> BootmemData:
    """Make a node's bitmap with every page taken (init_bootmem_node); the caller frees what is RAM.

    The bitmap begins at a multiple of BITS_PER_LONG pages, as nodes do in the SRAT.
    """
    start_pfn = start_pfn // BITS_PER_LONG * BITS_PER_LONG
    octets = -(-(end_pfn - start_pfn) // BITS_PER_LONG) * (BITS_PER_LONG // 8)
    return BootmemData(nid, start_pfn, end_pfn, np.full(octets, 0xFF, dtype=np.uint8))


def free_bootmem_node(bdata: BootmemData, start_pfn: int, end_pfn: int) -> None:
    """Free pages, and let the next search begin at them if they are below its hint (free_bootmem_node)."""
    bdata.mark(start_pfn, end_pfn, reserve=False)
    bdata.hint_idx = min(bdata.hint_idx, start_pfn - bdata.node_min_pfn)


def reserve_bootmem_node(bdata: BootmemData, start_pfn: int, end_pfn: int) -> None:
    """Take pages, whether they are free or not (reserve_bootmem_node without BOOTMEM_EXCLUSIVE)."""
    bdata.mark(start_pfn, end_pfn, reserve=True)


def alloc_bootmem_core(
    bdata: BootmemData, size: int, align: int, goal: int = 0, limit: int = 0
) -> int | None:
    """Take `size` bytes at or above `goal` and below `limit` (0: no limit); returns the address, or None.

    A goal outside the node counts as none. The search begins where the last one ended, and again at the goal
    if it finds nothing there. An allocation right behind the last one begins in that one's last page, if that
    has room.
    """
    low, high = bdata.node_min_pfn, bdata.node_low_pfn
    if limit:
        high = min(high, limit >> PAGE_SHIFT)
    step = max(align >> PAGE_SHIFT, 1)
    pages = -(-size // PAGE_SIZE)
    start = goal >> PAGE_SHIFT if low < goal >> PAGE_SHIFT < high else low
    hint = max(start, low + bdata.hint_idx)
    for at in dict.fromkeys((hint, start)):
        for run_start, run_end in bdata.free_runs(at, high):
            first = -(-run_start // step) * step
            if first + pages > run_end:
                continue
            return _take(bdata, first, size, align)
    return None


def _take(bdata: BootmemData, first: int, size: int, align: int) -> int:
    """Take `size` bytes from page `first` on, or from the end of the last allocation if that is adjacent."""
    index = first - bdata.node_min_pfn
    offset = index << PAGE_SHIFT
    last = bdata.last_end_off
    shared = bool(last & PAGE_SIZE - 1) and (last >> PAGE_SHIFT) + 1 == index
    if shared:
        offset = -(-last // align) * align
    bdata.last_end_off = offset + size
    bdata.hint_idx = -(-bdata.last_end_off // PAGE_SIZE)
    if bdata.hint_idx > index:
        bdata.mark(first, bdata.node_min_pfn + bdata.hint_idx, reserve=True)
    return (bdata.node_min_pfn << PAGE_SHIFT) + offset


def alloc_bootmem_node(bdata: BootmemData, size: int, align: int, goal: int = DMA_GOAL) -> int:
    """Take `size` bytes, above the goal if possible; returns the address (__alloc_bootmem_node).

    BootMemoryError if the node has no room.
    """
    for wanted in dict.fromkeys((goal, 0)):
        address = alloc_bootmem_core(bdata, size, align, wanted)
        if address is not None:
            return address
    raise BootMemoryError(f"bootmem alloc of {size} bytes failed on node {bdata.nid}")


def free_all_bootmem_core(bdata: BootmemData) -> Iterator[tuple[int, int]]:
    """(pfn, order) of each block freed to the buddy system, in that order: bitmap words or single pages."""
    for start, end in bdata.free_runs(bdata.node_min_pfn, bdata.node_low_pfn):
        pfn = start
        while pfn < end:
            order = WORD_ORDER if pfn % BITS_PER_LONG == 0 and pfn + BITS_PER_LONG <= end else 0
            yield pfn, order
            pfn += 1 << order


@dataclass(slots=True)
class Bootmem:
    """The bootmem allocators of all nodes, which take over from the early reservations.

    (early_res_to_bootmem.) It is a :class:`~numa_service.mm.memblock.BootAllocator`.
    """

    memory: list[Region]
    reserved: list[Region] = field(default_factory=list)
    bdata: dict[int, BootmemData] = field(default_factory=dict)

    @classmethod
    def take_over(cls, memory: Iterable[Region], early: Iterable[Region], max_low_pfn: int) -> Bootmem:
        """Make the bitmaps for the low memory of `memory`, with the `early` reservations taken.

        Each node's bitmap lies on the node itself. BootMemoryError if a node has no room for it.
        """
        boot = cls(sorted(memory))
        for nid in sorted({region.nid for region in boot.memory}):
            ranges = [(r.start_pfn, min(r.end_pfn, max_low_pfn)) for r in boot.memory if r.nid == nid]
            ranges = [(low, high) for low, high in ranges if low < high]
            if ranges:
                bdata = boot.bdata[nid] = init_bootmem_node(nid, ranges[0][0], ranges[-1][1])
                for low, high in ranges:
                    free_bootmem_node(bdata, low, high)
        for region in early:
            boot.reserve(region.start_pfn, region.end_pfn, region.nid, region.purpose)
        for nid, bdata in boot.bdata.items():
            pages = bootmem_bootmap_pages(bdata.node_low_pfn - bdata.node_min_pfn)
            address = alloc_bootmem_node(bdata, pages << PAGE_SHIFT, PAGE_SIZE)
            first = address >> PAGE_SHIFT
            insort(boot.reserved, Region(first, first + pages, nid, _BITMAP))
        return boot

    def reserve(self, start_pfn: int, end_pfn: int, nid: int, purpose: str) -> None:
        """Take a range that is free."""
        bdata = self.bdata.get(nid)
        if bdata is not None and start_pfn < bdata.node_low_pfn:
            reserve_bootmem_node(bdata, start_pfn, min(end_pfn, bdata.node_low_pfn))
        insort(self.reserved, Region(start_pfn, end_pfn, nid, purpose))

    def alloc_node(self, nid: int, start_pfn: int, end_pfn: int, pages: int, purpose: str) -> int:
        """Take `pages` pages in one piece above the goal, else in several from the bottom; returns pages."""
        bdata = self.bdata.get(nid)
        if bdata is None or pages <= 0:
            return 0
        goal = max(start_pfn << PAGE_SHIFT, DMA_GOAL)
        if goal >> PAGE_SHIFT < min(end_pfn, bdata.node_low_pfn):
            size = pages << PAGE_SHIFT
            address = alloc_bootmem_core(bdata, size, PAGE_SIZE, goal, end_pfn << PAGE_SHIFT)
            if address is not None:
                first = address >> PAGE_SHIFT
                insort(self.reserved, Region(first, first + pages, nid, purpose))
                return pages
        left = pages
        for low, high in bdata.free_runs(start_pfn, end_pfn):
            take = min(left, high - low)
            if take:
                self.reserve(low, low + take, nid, purpose)
            left -= take
        return pages - left

    def free_ranges(self, nid: int, start_pfn: int, end_pfn: int) -> list[PfnRange]:
        """Free ranges of a node within bounds, high memory included."""
        bdata = self.bdata.get(nid)
        low_end = bdata.node_low_pfn if bdata is not None else 0
        ranges = bdata.free_runs(start_pfn, end_pfn) if bdata is not None else []
        taken = sorted((r.start_pfn, r.end_pfn) for r in self.reserved if r.nid == nid)
        for region in self.memory:
            if region.nid != nid:
                continue
            at, stop = max(region.start_pfn, start_pfn, low_end), min(region.end_pfn, end_pfn)
            for low, high in taken:
                if low < stop and high > at:
                    if low > at:
                        ranges.append((at, low))
                    at = high
            if at < stop:
                ranges.append((at, stop))
        return ranges

    def free_pages(self, nid: int, start_pfn: int, end_pfn: int) -> int:
        """Free pages of a node within bounds."""
        return sum(high - low for low, high in self.free_ranges(nid, start_pfn, end_pfn))

    def own_ranges(self, nid: int) -> list[PfnRange]:
        """The pages of the node's bitmap."""
        return [(r.start_pfn, r.end_pfn) for r in self.reserved if r.nid == nid and r.purpose == _BITMAP]

    def retire(self, nid: int) -> list[PfnRange]:
        """Ranges to free, in order: low memory, then high memory, then the bitmap itself (free_all_bootmem).

        These are ranges and not the blocks of :func:`free_all_bootmem_core`, as both merge into the same
        blocks.
        """
        ranges = self.free_ranges(nid, 0, 1 << 52)
        for low, high in self.own_ranges(nid):
            free_bootmem_node(self.bdata[nid], low, high)
            ranges.append((low, high))
        self.reserved = [r for r in self.reserved if (r.nid, r.purpose) != (nid, _BITMAP)]
        return ranges

    def debug_lines(self) -> list[str]:
        """A line for each reservation, as with ``bootmem_debug``, and its purpose."""
        return [
            f"bootmem::mark_bootmem_node nid={r.nid} start={r.start_pfn:x} end={r.end_pfn:x} reserve=1 "
            f"{r.purpose}"
            for r in self.reserved
        ]
