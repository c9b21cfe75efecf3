"""Memory that comes and goes: blocks of 128 MiB off-line and on-line (``mm/memory_hotplug.c``).

The arrays are as large as the node ever is. Memory that is off-line has no migratetype and no zone; a block
that comes back may come to another zone, so that spans of zones overlap.
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
from numa_service.mm.profile import BLOCKS_TAKE
from numa_service.mm.vmstat import NR_FREE_PAGES

#: memory_block_size_bytes() of x86-64 machines below 64 GiB, in pages.
MEMORY_BLOCK_PAGES = 128 << (20 - PAGE_SHIFT)


class BusyError(Exception):
    """EBUSY: a page of the range cannot be moved away. Nothing is off-line."""

    def __init__(self, idx: int, reason: str) -> None:
        super().__init__(reason)
        self.idx = idx


def _blocks(start: int, end: int) -> slice:
    return slice(start >> PAGEBLOCK_ORDER, end >> PAGEBLOCK_ORDER)


def zone_of_range(pg: PgData, start: int, end: int) -> int:
    """The zone of an on-line range of whole pageblocks (test_pages_in_a_zone).

    ValueError when it is off-line, has a hole, or is of several zones.
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
    """Which pages of a range of whole pageblocks cannot be moved away: reserved, or held by hand."""
    flags = pg.flags[start:end]
    found = (flags & PG_RESERVED) != 0
    heads = np.flatnonzero((flags & (PG_HELD | PG_LRU)) == PG_HELD)
    for head, order in zip(heads.tolist(), pg.order[start:end][heads].tolist(), strict=True):
        found[head : head + (1 << order)] = True
    return found


def check_movable(pg: PgData, start: int, end: int) -> None:
    """BusyError when the range has a page that cannot be moved (has_unmovable_pages)."""
    found = np.flatnonzero(unmovable(pg, start, end))
    if len(found):
        idx = start + int(found[0])
        raise BusyError(idx, "reserved" if pg.flags[idx] & PG_RESERVED else "held by hand")


def movable_pages(pg: PgData, start: int, end: int) -> npt.NDArray[np.int64]:
    """Pages of regions in a range, ascending."""
    return np.flatnonzero(pg.flags[start:end] & PG_LRU).astype(np.int64) + start


def free_blocks(pg: PgData, start: int, end: int) -> list[tuple[int, int]]:
    """(index, order) of the free blocks that a range consists of; BusyError when it is not all free."""
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
    """Take an isolated range out of its zone; BusyError, and nothing changed, when it is not all free."""
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
    """After [start, end) left: a zone begins and ends with memory that is on-line."""
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
    """Give an off-line range to a zone and its pages to the buddy system, in the largest blocks."""
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
    return bool(start < pg.zone_end[zone] and end > pg.zone_start[zone])


def zone_for_pfn_range(pg: PgData, zone_names: Sequence[str], online_type: str, start: int, end: int) -> int:
    """Zone that a range comes to (zone_for_pfn_range).

    `online_type` is what is written into a block's state: "online_kernel" is the kernel zone whose span it is
    in, else Normal; "online_movable" is Movable; "online" is Movable where only that zone's span has it.
    """
    movable, normal = zone_names.index("Movable"), zone_names.index("Normal")
    if online_type == "online_movable":
        return movable
    kernel = next((z for z in range(normal + 1) if _intersects(pg, z, start, end)), normal)
    if online_type == "online_kernel":
        return kernel
    in_movable = _intersects(pg, movable, start, end)
    return movable if in_movable and not _intersects(pg, kernel, start, end) else kernel
