"""The contiguous memory allocator: finding a place, and taking it (``mm/cma.c``)."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.memory_hotplug import BusyError
from numa_service.mm.mmzone import MIGRATE_CMA, NR_ORDERS
from numa_service.node.errors import Busy, NotFound
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.ops.fields import (
    MAX_NODE_PAGES,
    check_below,
    check_owner,
    check_pfn_range,
    owner_text,
)
from numa_service.node.ops.memory import busy, range_text
from numa_service.node.ops.op import Op
from numa_service.node.owners import Owner
from numa_service.node.pfns import pageblocks_around
from numa_service.node.state import NodeState


@dataclass(frozen=True, slots=True)
class CmaIsolate(Op[tuple[int, int]]):
    """Isolate the pageblocks of the next place for contiguous pages in an area; [start, end) of the place.

    The first one from `from_pfn` on that nobody holds by hand, aligned. NotFound; Busy when there is none.
    """

    tag = "cma_isolate"

    area: int
    count: int
    align_order: int
    from_pfn: int

    def apply(self, node: NodeState) -> tuple[int, int]:
        """The place, its pageblocks isolated."""
        areas = node.pgdat.cma_areas
        if not 0 <= self.area < len(areas):
            raise NotFound("CMA area", str(self.area), f"node {node.nid} has {len(areas)}")
        place = node.pgdat.find_contiguous(areas[self.area], self.count, self.align_order, self.from_pfn)
        if place is None:
            raise Busy(f"EBUSY: no {self.count} pages in a row that can be emptied in CMA area {self.area}")
        node.pgdat.isolate(*pageblocks_around(*place))
        return place

    def check(self, node: NodeState) -> None:
        """Of a number of pages and their alignment."""
        check_below("count", self.count - 1, MAX_COUNT)
        check_below("align_order", self.align_order, NR_ORDERS)
        check_below("from_pfn", self.from_pfn, MAX_NODE_PAGES)

    def text(self, node: NodeState, result: tuple[int, int]) -> str:
        """One line."""
        return f"cma_isolate area={self.area} count={self.count} -> {range_text(*result)}"


@dataclass(frozen=True, slots=True)
class CmaTake(Op[None]):
    """Give an owner the isolated place, page by page, and put the rest of its pageblocks back. Busy."""

    tag = "cma_take"

    owner: Owner
    start_pfn: int
    end_pfn: int

    def apply(self, node: NodeState) -> None:
        """All of the place, or nothing."""
        slot = node.slots.make(self.owner)
        try:
            node.pgdat.take_contiguous(self.start_pfn, self.end_pfn, slot)
        except BusyError as e:
            node.forget_if_empty(self.owner)
            raise busy(node, e) from None
        node.pgdat.unisolate(*pageblocks_around(self.start_pfn, self.end_pfn), MIGRATE_CMA)

    def check(self, node: NodeState) -> None:
        """Of an owner and a range."""
        check_owner(node, self.owner)
        check_pfn_range(self.start_pfn, self.end_pfn)

    def text(self, node: NodeState, result: None) -> str:
        """One line."""
        return f"cma_take {owner_text(self.owner)} {range_text(self.start_pfn, self.end_pfn)}"
