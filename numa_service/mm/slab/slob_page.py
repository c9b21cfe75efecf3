"""A page of SLOB: its free blocks in the order of their addresses (``mm/slob.c`` of 6.1)."""

from __future__ import annotations

from numa_service.mm.slab.kmem_cache import PAGE_SIZE, align_up
from numa_service.mm.slab.slob import UNIT

#: Units of a page (SLOB_UNITS(PAGE_SIZE)).
PAGE_UNITS = PAGE_SIZE // UNIT


class SlobPage:
    """One page that blocks are cut from. Places and lengths are units."""

    __slots__ = ("blocks", "nid", "pfn", "units")

    def __init__(self, pfn: int, nid: int) -> None:
        self.pfn = pfn
        #: The node that the page is on.
        self.nid = nid
        #: How much of it is free.
        self.units = PAGE_UNITS
        #: Start and length of each free block, by address; no two touch.
        self.blocks = [(0, PAGE_UNITS)]

    def alloc(self, units: int, align: int, header: int) -> int | None:
        """Cut a block from the first free one that has room for it; None: no block has (slob_page_alloc).

        Returns its place. What stands `header` bytes behind it is aligned to `align` bytes; what is passed
        over for that stays free.
        """
        for index, (start, length) in enumerate(self.blocks):
            place = (align_up(start * UNIT + header, align) - header) // UNIT
            if length < units + place - start:
                continue
            end = place + units
            pieces = ((start, place - start), (end, start + length - end))
            self.blocks[index : index + 1] = [piece for piece in pieces if piece[1]]
            self.units -= units
            return place
        return None

    def free(self, place: int, units: int) -> None:
        """Give a block back; it becomes one with free neighbours (slob_free)."""
        index = next((at for at, (start, _) in enumerate(self.blocks) if start > place), len(self.blocks))
        first, last = index, index
        start, end = place, place + units
        if index and sum(self.blocks[index - 1]) == place:
            first -= 1
            start = self.blocks[first][0]
        if index < len(self.blocks) and self.blocks[index][0] == end:
            end += self.blocks[index][1]
            last += 1
        self.blocks[first:last] = [(start, end - start)]
        self.units += units
