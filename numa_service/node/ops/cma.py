"""Ops of the contiguous memory allocator: isolating a place, and taking its pages (``mm/cma.c``)."""

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
    """Finds a place for contiguous pages in a CMA area and isolates its pageblocks.

    It is the first aligned place from `from_pfn` on whose pages are all free or movable. The result is
    [start, end) of the place in pfns. NotFound for an unknown area; Busy if there is no such place.
    """

    tag = "cma_isolate"

    #: Index of the area on this node.
    area: int
    #: Pages.
    count: int
    #: The place begins at a multiple of 2^align_order pages.
    align_order: int
    from_pfn: int

    def apply(self, node: NodeState) -> tuple[int, int]:
        """Isolate the place's pageblocks and return the place."""
        areas = node.pgdat.cma_areas
        if not 0 <= self.area < len(areas):
            raise NotFound("CMA area", str(self.area), f"node {node.nid} has {len(areas)}")
        place = node.pgdat.find_contiguous(areas[self.area], self.count, self.align_order, self.from_pfn)
        if place is None:
            raise Busy(f"EBUSY: no {self.count} pages in a row that can be emptied in CMA area {self.area}")
        node.pgdat.isolate(*pageblocks_around(*place))
        return place

    def check(self, node: NodeState) -> None:
        """Check the number of pages, the alignment and the pfn; `apply` checks the area."""
        check_below("count", self.count - 1, MAX_COUNT)
        check_below("align_order", self.align_order, NR_ORDERS)
        check_below("from_pfn", self.from_pfn, MAX_NODE_PAGES)

    def text(self, node: NodeState, result: tuple[int, int]) -> str:
        """Return the op and its result as one line."""
        return f"cma_isolate area={self.area} count={self.count} -> {range_text(*result)}"


@dataclass(frozen=True, slots=True)
class CmaTake(Op[None]):
    """Gives the isolated pages of a place to an owner, each as a block of order 0.

    The rest of the place's pageblocks is returned to use. Busy if a page of the place is still in use.
    """

    tag = "cma_take"

    owner: Owner
    start_pfn: int
    end_pfn: int

    def apply(self, node: NodeState) -> None:
        """Take all pages of the place, or none."""
        slot = node.slots.make(self.owner)
        try:
            node.pgdat.take_contiguous(self.start_pfn, self.end_pfn, slot)
        except BusyError as e:
            node.forget_if_empty(self.owner)
            raise busy(node, e) from None
        node.pgdat.unisolate(*pageblocks_around(self.start_pfn, self.end_pfn), MIGRATE_CMA)

    def check(self, node: NodeState) -> None:
        """Check the owner and the range."""
        check_owner(node, self.owner)
        check_pfn_range(self.start_pfn, self.end_pfn)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op and its result as one line."""
        return f"cma_take {owner_text(self.owner)} {range_text(self.start_pfn, self.end_pfn)}"
