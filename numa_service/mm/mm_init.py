"""Boot of one node: zones get their spans, pageblocks their types, free memory goes to the buddy lists.

The steps are those of ``mm/mm_init.c`` (before 6.4 in ``mm/page_alloc.c``). All ranges are [start, end) in
page frame numbers, ascending; `base_pfn` is the pfn of the node's first ``struct page``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from numa_service.mm.buddy import free_range
from numa_service.mm.memblock import PfnRange
from numa_service.mm.mmzone import MIGRATE_CMA, MIGRATE_MOVABLE, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER
from numa_service.mm.page_alloc import NO_PAGEBLOCK
from numa_service.mm.pgdat_memory import ZoneExtent
from numa_service.mm.pgdata import PG_HOLE, PG_RESERVED, PgData


def free_area_init(pg: PgData, base_pfn: int, extents: Sequence[ZoneExtent], ram: Sequence[PfnRange]) -> None:
    """Give zones their spans and managed pages, and make every pageblock with RAM movable.

    (free_area_init_core, memmap_init_range.)
    """
    pg.pb_migratetype[:] = NO_PAGEBLOCK
    for low, high in ram:
        blocks = slice((low - base_pfn) >> PAGEBLOCK_ORDER, -(-(high - base_pfn) // PAGEBLOCK_NR_PAGES))
        pg.pb_migratetype[blocks] = MIGRATE_MOVABLE
    _mark_holes(pg, base_pfn, ram)
    for extent in extents:
        if not extent.spanned:
            continue
        first = extent.start_pfn - base_pfn
        pg.zone_start[extent.index] = first
        pg.zone_end[extent.index] = first + extent.spanned
        pg.managed[extent.index] = extent.managed
        whole = slice(-(-first >> PAGEBLOCK_ORDER), (first + extent.spanned) >> PAGEBLOCK_ORDER)
        pg.pb_zone[whole] = extent.index + 1
    pg.pb_zone[pg.pb_migratetype == NO_PAGEBLOCK] = 0


def _mark_holes(pg: PgData, base_pfn: int, ram: Sequence[PfnRange]) -> None:
    """Set PG_HOLE on pages without RAM, in pageblocks that have some; others are NO_PAGEBLOCK as a whole."""
    edges = sorted({edge - base_pfn for pair in ram for edge in pair if edge % PAGEBLOCK_NR_PAGES})
    for block in sorted({edge >> PAGEBLOCK_ORDER for edge in edges}):
        first = block << PAGEBLOCK_ORDER
        hole = np.ones(PAGEBLOCK_NR_PAGES, dtype=np.bool_)
        for low, high in ram:
            hole[max(0, low - base_pfn - first) : max(0, high - base_pfn - first)] = False
        pg.flags[first : first + PAGEBLOCK_NR_PAGES][hole] |= PG_HOLE


def init_cma_reserved_pageblocks(
    pg: PgData,
    base_pfn: int,
    extents: Sequence[ZoneExtent],
    areas: Iterable[PfnRange],
    free_ranges: Sequence[PfnRange],
) -> None:
    """Make the pageblocks of CMA areas MIGRATE_CMA (init_cma_reserved_pageblock).

    ValueError for an area that is not whole pageblocks of free memory within one zone.
    """
    for low, high in areas:
        if low % PAGEBLOCK_NR_PAGES or high % PAGEBLOCK_NR_PAGES or low >= high:
            raise ValueError(f"CMA area {low:#x}-{high:#x}: not whole pageblocks")
        if not any(start <= low and high <= end for start, end in free_ranges):
            raise ValueError(f"CMA area {low:#x}-{high:#x}: not free memory of this node")
        zones = [e for e in extents if e.start_pfn <= low and high <= e.start_pfn + e.spanned]
        if not zones:
            raise ValueError(f"CMA area {low:#x}-{high:#x}: not within one zone")
        first = (low - base_pfn) >> PAGEBLOCK_ORDER
        pg.pb_migratetype[first : (high - base_pfn) >> PAGEBLOCK_ORDER] = MIGRATE_CMA


def memblock_free_all(
    pg: PgData,
    base_pfn: int,
    extents: Sequence[ZoneExtent],
    ram: Sequence[PfnRange],
    free_ranges: Sequence[PfnRange],
    cma_areas: Sequence[PfnRange],
) -> None:
    """Give what the boot allocator left over to the buddy lists, and mark all other RAM PG_RESERVED."""
    for extent in extents:
        for low, high in _cut_at_cma(free_ranges, cma_areas):
            low = max(low, extent.start_pfn) - base_pfn
            high = min(high, extent.start_pfn + extent.spanned) - base_pfn
            if low < high:
                free_range(pg, extent.index, low, high)
    at = 0
    for low, high in sorted(free_ranges):
        _reserve(pg, base_pfn, ram, at, low)
        at = high
    _reserve(pg, base_pfn, ram, at, base_pfn + len(pg.flags))
    pg.path[:] = 0


def _cut_at_cma(ranges: Sequence[PfnRange], cma_areas: Sequence[PfnRange]) -> list[PfnRange]:
    """Cut ranges at the edges of CMA areas, so that no free block has pageblocks in and outside of one."""
    edges = sorted({edge for area in cma_areas for edge in area})
    parts = []
    for low, high in ranges:
        for edge in edges:
            if low < edge < high:
                parts.append((low, edge))
                low = edge
        parts.append((low, high))
    return parts


def _reserve(pg: PgData, base_pfn: int, ram: Sequence[PfnRange], start: int, end: int) -> None:
    """Mark the RAM in [start, end) PG_RESERVED: it never goes to the buddy system."""
    for low, high in ram:
        low, high = max(low, start) - base_pfn, min(high, end) - base_pfn
        if low < high:
            pg.flags[low:high] = PG_RESERVED
