"""What a source says of a machine in use: which blocks of each zone were free, and who held the rest.

``node/occupy.py`` puts a node into that state.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FreeBlocks:
    """Free blocks of one order on the free lists of one migratetype."""

    order: int
    migratetype: int
    count: int


@dataclass(frozen=True, slots=True)
class ZoneOccupancy:
    """What of one zone was free, and who held what; pages."""

    nid: int
    zone: str
    #: NR_FREE_PAGES.
    free: int
    #: The free lists; they may have more or less than `free`, as they are read at another moment.
    blocks: tuple[FreeBlocks, ...]
    #: Pages by what held them ("anonymous memory", "page cache" …). What is neither free nor held by one of
    #: these is held by `REST`.
    held: tuple[tuple[str, int], ...] = ()

    @property
    def listed(self) -> int:
        """Pages on the free lists."""
        return sum(block.count << block.order for block in self.blocks)


#: Holder of pages that a source says to be in use, and not by whom.
REST = "slab and everything else"
