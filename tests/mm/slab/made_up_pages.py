"""A page allocator for tests: the lowest free pages of a node, and what is free."""

from __future__ import annotations

from numa_service.mm.gfp import Gfp
from numa_service.mm.slab.pages import NUMA_NO_NODE

#: Pages of a node; its first has this number times its nid.
NODE_PAGES = 1 << 12


class MadeUpPages:
    """Nodes of some pages each, which are handed out lowest first."""

    def __init__(self, nodes: int = 1, pages: int = NODE_PAGES) -> None:
        self.free = {nid: set(range(nid * NODE_PAGES, nid * NODE_PAGES + pages)) for nid in range(nodes)}
        #: Order of each block that is allocated, by its first pfn.
        self.held: dict[int, int] = {}
        #: What was asked for: node, order, gfp.
        self.asked: list[tuple[int, int, int]] = []

    def alloc_pages(self, node: int, order: int, gfp: int) -> tuple[int, int] | None:
        self.asked.append((node, order, gfp))
        first = 0 if node == NUMA_NO_NODE else node
        others = () if gfp & Gfp.THISNODE else (nid for nid in self.free if nid != first)
        for nid in (first, *others):
            for pfn in sorted(self.free[nid]):
                block = set(range(pfn, pfn + (1 << order)))
                if pfn % (1 << order) == 0 and block <= self.free[nid]:
                    self.free[nid] -= block
                    self.held[pfn] = order
                    return pfn, nid
        return None

    def free_pages(self, pfn: int, order: int) -> None:
        assert self.held.pop(pfn) == order
        self.free[pfn // NODE_PAGES] |= set(range(pfn, pfn + (1 << order)))
