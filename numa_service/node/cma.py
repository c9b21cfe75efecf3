"""The contiguous memory allocator: consecutive pages from an area for movable pages (``mm/cma.c``).

A session holds the pages it gets one by one, and gives them back with FreePages of order 0 (cma_release).
"""

from __future__ import annotations

from numa_service.mm.mmzone import MIGRATE_CMA, NR_ORDERS
from numa_service.node import ops
from numa_service.node.ask import Steps
from numa_service.node.errors import Busy, InvalidRequest, NodeError
from numa_service.node.migrate import empty_range
from numa_service.node.node import Node
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.pfns import pageblocks_around
from numa_service.trace.tracepoint_formats import MR_CONTIG_RANGE


def cma_alloc(
    node: Node, session: int, area: int, count: int, align_order: int = 0
) -> Steps[tuple[int, int]]:
    """Allocate `count` consecutive pages for a session of this node; return [start, end), in pfns.

    The start is aligned to 2^align_order pages. It is the first place in the area whose pages are free or can
    be moved away. InvalidRequest; NotFound for an unknown session or area; Busy (EBUSY) if there is no such
    place.
    """
    node.session(session)
    if not 1 <= count <= MAX_COUNT:
        raise InvalidRequest("count", f"{count} is not in 1…{MAX_COUNT}")
    if not 0 <= align_order < NR_ORDERS:
        raise InvalidRequest("align_order", f"{align_order} is not in 0…{NR_ORDERS - 1}")
    from_pfn = 0
    while True:
        start, end = node.apply(ops.CmaIsolate(area, count, align_order, from_pfn))
        try:
            yield from empty_range(node, start, end, tuple(node.machine.populated), MR_CONTIG_RANGE)
            node.session(session)  # its lease may have run out while pages were moved
            node.apply(ops.CmaTake(node.owner(session), start, end))
            return start, end
        except Busy:
            node.apply(ops.UndoIsolation(*pageblocks_around(start, end), MIGRATE_CMA))
            from_pfn = start + 1  # try the next place, as after EBUSY from alloc_contig_range
        except NodeError:
            node.apply(ops.UndoIsolation(*pageblocks_around(start, end), MIGRATE_CMA))
            raise
