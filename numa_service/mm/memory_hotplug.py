"""Taking memory off-line and bringing it on-line, in blocks of 128 MiB (``mm/memory_hotplug.c``).

The arrays of a node cover all memory that it ever has. Pageblocks that are off-line have type NO_PAGEBLOCK
and no zone. A memory block may come on-line in another zone than before, so that the spans of zones may
overlap. Ranges are [start, end) indexes in mem_map, whole pageblocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from numa_service.mm.buddy import del_from_free_list, free_range, set_pageblock_migratetype
from numa_service.mm.mmzone import (
    MIGRATE_MOVABLE,
    PAGE_SHIFT,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
)
from numa_service.mm.page_alloc import NO_PAGEBLOCK
from numa_service.mm.pgdata import (
    NR_ISOLATE_PAGEBLOCKS,
    PG_BUDDY,
    PG_HELD,
    PG_HOLE,
    PG_LRU,
    PG_RESERVED,
    TUNE_BLOCKS,
    PgData,
    zone_pageblocks,
)
from numa_service.mm.variants import BLOCKS_TAKE
from numa_service.mm.vmstat import NR_FREE_PAGES

#: Pages of a memory block: 128 MiB, as memory_block_size_bytes() of x86-64 machines below 64 GiB.
MEMORY_BLOCK_PAGES = 128 << (20 - PAGE_SHIFT)


class BusyError(Exception):
    """EBUSY: page `idx` of a range is in use and cannot be moved away. Nothing has gone off-line."""

    def __init__(self, idx: int, reason: str) -> None:
        super().__init__(reason)
        self.idx = idx


def _blocks(start: int, end: int) -> slice:
    """The pageblocks of a range."""
    return slice(start >> PAGEBLOCK_ORDER, end >> PAGEBLOCK_ORDER)


def zone_of_range(pg: PgData, start: int, end: int) -> int:
    """Zone of an on-line range (test_pages_in_a_zone).

    ValueError if the range is off-line, has a hole, or lies in several zones.
    """
    labels, whose = pg.pb_migratetype[_blocks(start, end)], pg.pb_zone[_blocks(start, end)]
    if (labels == NO_PAGEBLOCK).all():
        raise ValueError("it is off-line")
    if (labels == NO_PAGEBLOCK).any() or (pg.flags[start:end] & PG_HOLE).any():
        raise ValueError("it has a hole")
    if whose[0] == 0 or (whose != whose[0]).any():
        raise ValueError("it is of more than one zone")
    return int(whose[0]) - 1


def unmovable(pg: PgData, start: int, end: int) -> npt.NDArray[np.bool_]:
    """Mask of the pages of a range that cannot be moved away: reserved, or held by hand."""
    flags = pg.flags[start:end]
    found = (flags & PG_RESERVED) != 0
    heads = np.flatnonzero((flags & (PG_HELD | PG_LRU)) == PG_HELD)
    for head, order in zip(heads.tolist(), pg.order[start:end][heads].tolist(), strict=True):
        found[head : head + (1 << order)] = True
    return found


def check_movable(pg: PgData, start: int, end: int) -> None:
    """Raise BusyError if a page of the range cannot be moved away (has_unmovable_pages)."""
    found = np.flatnonzero(unmovable(pg, start, end))
    if len(found):
        idx = start + int(found[0])
        raise BusyError(idx, "reserved" if pg.flags[idx] & PG_RESERVED else "held by hand")


def movable_pages(pg: PgData, start: int, end: int) -> npt.NDArray[np.int64]:
    """Indexes of the region pages in a range, ascending (scan_movable_pages)."""
    return np.flatnonzero(pg.flags[start:end] & PG_LRU).astype(np.int64) + start


def free_blocks(pg: PgData, start: int, end: int) -> list[tuple[int, int]]:
    """(index, order) of the free blocks that make up a range (test_pages_isolated).

    BusyError if a page of it is not free.
    """
    found = []
    at = start
    while at < end:
        large = int(pg.pb_order[at >> PAGEBLOCK_ORDER]) if at % PAGEBLOCK_NR_PAGES == 0 else 0
        if not large and not pg.flags[at] & PG_BUDDY:
            raise BusyError(at, "in use")
        order = large - 1 if large else int(pg.order[at])
        found.append((at, order))
        at += 1 << order
    return found


def offline_isolated_pages(pg: PgData, zone: int, start: int, end: int) -> None:
    """Remove an isolated range from its zone (__offline_isolated_pages).

    BusyError, and nothing is changed, if a page of it is not free.
    """
    for idx, order in free_blocks(pg, start, end):
        del_from_free_list(pg, zone, idx, order)
    blocks = _blocks(start, end)
    pg.pb_migratetype[blocks] = NO_PAGEBLOCK
    pg.pb_zone[blocks] = 0
    pg.reserves[zone, NR_ISOLATE_PAGEBLOCKS] -= (end - start) >> PAGEBLOCK_ORDER
    pg.managed[zone] -= end - start
    if pg.tune[TUNE_BLOCKS] == BLOCKS_TAKE:
        pg.vm_stat[zone, NR_FREE_PAGES] -= end - start  # isolated pages count as free in 3.0
    _shrink_zone_span(pg, zone, start, end)


def _shrink_zone_span(pg: PgData, zone: int, start: int, end: int) -> None:
    """Shrink a zone's span after [start, end) has gone: it begins and ends with on-line memory."""
    at_start, at_end = pg.zone_start[zone] == start, pg.zone_end[zone] == end
    if not at_start and not at_end:
        return
    left = zone_pageblocks(pg, zone)
    left = left[pg.pb_migratetype[left] != NO_PAGEBLOCK]
    if not len(left):
        pg.zone_start[zone] = pg.zone_end[zone] = 0
    elif at_start:
        pg.zone_start[zone] = int(left[0]) << PAGEBLOCK_ORDER
    else:
        pg.zone_end[zone] = (int(left[-1]) + 1) << PAGEBLOCK_ORDER


def online_pages_range(pg: PgData, zone: int, start: int, end: int) -> None:
    """Add an off-line range to a zone and free its pages to the buddy lists (online_pages_range)."""
    blocks = _blocks(start, end)
    for block in range(blocks.start, blocks.stop):
        set_pageblock_migratetype(pg, block, MIGRATE_MOVABLE)
    pg.pb_zone[blocks] = zone + 1
    empty = pg.zone_start[zone] == pg.zone_end[zone]
    pg.zone_start[zone] = start if empty else min(start, int(pg.zone_start[zone]))
    pg.zone_end[zone] = end if empty else max(end, int(pg.zone_end[zone]))
    pg.managed[zone] += end - start
    free_range(pg, zone, start, end)
    pg.path[:] = 0


def is_offline(pg: PgData, start: int, end: int) -> bool:
    """Whether no page of a range is on-line."""
    return bool((pg.pb_migratetype[_blocks(start, end)] == NO_PAGEBLOCK).all())


def _intersects(pg: PgData, zone: int, start: int, end: int) -> bool:
    """Whether a range overlaps a zone's span (zone_intersects)."""
    return bool(start < pg.zone_end[zone] and end > pg.zone_start[zone])


def zone_for_pfn_range(pg: PgData, zone_names: Sequence[str], online_type: str, start: int, end: int) -> int:
    """Zone in which a range comes on-line (zone_for_pfn_range).

    `online_type` is what is written into a memory block's state file. "online_movable" means ZONE_MOVABLE;
    "online_kernel" the kernel zone whose span the range overlaps, else Normal. "online" means ZONE_MOVABLE if
    the range overlaps the span of that zone and of no kernel zone, else it means the same as "online_kernel".
    """
    movable, normal = zone_names.index("Movable"), zone_names.index("Normal")
    if online_type == "online_movable":
        return movable
    kernel = next((z for z in range(normal + 1) if _intersects(pg, z, start, end)), normal)
    if online_type == "online_kernel":
        return kernel
    in_movable = _intersects(pg, movable, start, end)
    return movable if in_movable and not _intersects(pg, kernel, start, end) else kernel
