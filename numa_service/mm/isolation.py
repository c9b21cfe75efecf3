"""Pageblocks with a job of their own: reserves, CMA areas and blocks taken out of use.

Rare operations, so plain loops over pageblocks that call the kernels of the buddy system:
``mm/page_isolation.c``, ``setup_zone_migrate_reserve`` (3.0) and ``unreserve_highatomic_pageblock``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from numa_service.mm.buddy import (
    MIGRATE_RESERVE,
    count_free_blocks,
    count_reserve,
    del_from_free_list,
    first_free,
    free_one_page,
    free_range,
    mod_zone_free_pages,
    move_to_free_list,
    scan_freepages_block,
    set_pageblock_migratetype,
)
from numa_service.mm.lists import list_add_tail, owner_list
from numa_service.mm.memory_hotplug import BusyError
from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    NR_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    WMARK_MIN,
)
from numa_service.mm.page_alloc import NO_PAGEBLOCK
from numa_service.mm.pgdata import (
    FREE_CMA,
    FREE_HIGHATOMIC,
    MAY_BE_UNMERGED,
    NR_ISOLATE_PAGEBLOCKS,
    PG_BUDDY,
    PG_HELD,
    PG_HOLE,
    PG_RESERVED,
    RESERVED_HIGHATOMIC,
    TUNE_BLOCKS,
    PgData,
    zone_pageblocks,
)
from numa_service.mm.profile import BLOCKS_CLAIM, BLOCKS_TAKE

#: At most so many pageblocks of a zone are MIGRATE_RESERVE: more would be for huge pages.
MAX_RESERVE_BLOCKS = 2


def _move_block(pg: PgData, zone: int, block: int, mt: int) -> int:
    """Move the free pages of a pageblock to another list; pages moved."""
    first = max(block << PAGEBLOCK_ORDER, int(pg.zone_start[zone]))
    moved = int(scan_freepages_block(pg, zone, first, mt, True))
    return 0 if moved < 0 else moved & 0xFFFFFFFF


# MIGRATE_RESERVE of 3.0


def setup_zone_migrate_reserve(pg: PgData, zone: int) -> None:
    """Reserve the zone's first movable pageblocks, up to its MIN mark and two; give others back (3.0).

    A pageblock with a reserved page or a hole in it will never be free as a whole and is passed over.
    """
    wanted = min(-(-int(pg.watermark[zone, WMARK_MIN]) // PAGEBLOCK_NR_PAGES), MAX_RESERVE_BLOCKS)
    start, end = int(pg.zone_start[zone]), int(pg.zone_end[zone])
    whose = pg.pb_zone
    for first in range(start, end, PAGEBLOCK_NR_PAGES):
        block = first >> PAGEBLOCK_ORDER
        mt = int(pg.pb_migratetype[block])
        if whose[block] not in (0, zone + 1):
            continue
        if mt == NO_PAGEBLOCK:
            continue
        if wanted > 0:
            pages = pg.flags[first : min(first + PAGEBLOCK_NR_PAGES, end)]
            if (pages & (PG_RESERVED | PG_HOLE)).any():
                continue
            if mt == MIGRATE_RESERVE:
                wanted -= 1
                continue
            if mt == MIGRATE_MOVABLE:
                set_pageblock_migratetype(pg, block, MIGRATE_RESERVE)
                moved = _move_block(pg, zone, block, MIGRATE_RESERVE)
                count_reserve(pg, zone, MIGRATE_RESERVE, moved)
                wanted -= 1
                continue
        if mt == MIGRATE_RESERVE:
            set_pageblock_migratetype(pg, block, MIGRATE_MOVABLE)
            moved = _move_block(pg, zone, block, MIGRATE_MOVABLE)
            count_reserve(pg, zone, MIGRATE_RESERVE, -moved)


# HIGHATOMIC


def unreserve_highatomic_pageblock(pg: PgData, zones: Sequence[int], migratetype: int, force: bool) -> bool:
    """Give one reserved pageblock with free pages back to those who ask; whether there was one.

    The last block of a zone stays unless `force`: when memory pressure is really high.
    """
    claims = pg.tune[TUNE_BLOCKS] == BLOCKS_CLAIM
    if pg.tune[TUNE_BLOCKS] == BLOCKS_TAKE:
        return False
    for zone in zones:
        reserved = int(pg.reserves[zone, RESERVED_HIGHATOMIC])
        if reserved == 0 or (not force and reserved <= PAGEBLOCK_NR_PAGES):
            continue
        for order in range(NR_ORDERS):
            if pg.nr_free[zone, order] == 0:
                continue
            idx = int(first_free(pg, zone, order, MIGRATE_HIGHATOMIC))
            if idx < 0:
                continue
            size = PAGEBLOCK_NR_PAGES
            block = idx >> PAGEBLOCK_ORDER
            if claims and order >= PAGEBLOCK_ORDER:
                size = 1 << order
                move_to_free_list(pg, zone, idx, order, migratetype)
                for i in range(size >> PAGEBLOCK_ORDER):
                    set_pageblock_migratetype(pg, block + i, migratetype)
                moved = size
            else:
                was = int(pg.pb_migratetype[block])
                if was != MIGRATE_HIGHATOMIC:
                    size = 0  # a straggler: its pageblock was given back before
                moved = int(scan_freepages_block(pg, zone, idx, migratetype, True))
                moved = 0 if moved < 0 else moved & 0xFFFFFFFF
                set_pageblock_migratetype(pg, block, migratetype)
            pg.reserves[zone, RESERVED_HIGHATOMIC] -= min(size, int(pg.reserves[zone, RESERVED_HIGHATOMIC]))
            count_reserve(pg, zone, MIGRATE_HIGHATOMIC, -moved)
            if moved:
                pg.reserves[zone, MAY_BE_UNMERGED] = 1
                return True
    return False


# ISOLATE


def _split_at(pg: PgData, zone: int, block: int) -> None:
    """Split a free block that begins in the pageblock before and reaches into this one."""
    if block % 2 == 0 or pg.pb_order[block - 1] != NR_ORDERS:
        return  # an even pageblock begins every block that it is in
    first = (block - 1) << PAGEBLOCK_ORDER
    mts = [int(mt) for mt in pg.pb_migratetype[block - 1 : block + 1]]
    del_from_free_list(pg, zone, first, NR_ORDERS - 1)
    # as if they had been held: of different types by now, so they do not merge again
    if mts[0] != MIGRATE_ISOLATE:
        mod_zone_free_pages(pg, zone, -1, -2 * PAGEBLOCK_NR_PAGES)
    count_reserve(pg, zone, mts[0], -2 * PAGEBLOCK_NR_PAGES)
    pg.pb_migratetype[block] = NO_PAGEBLOCK
    free_one_page(pg, zone, -1, first, PAGEBLOCK_ORDER, mts[0], False)
    pg.pb_migratetype[block] = mts[1]
    pg.pb_migratetype[block - 1] = NO_PAGEBLOCK
    free_one_page(pg, zone, -1, first + PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER, mts[1], False)
    pg.pb_migratetype[block - 1] = mts[0]


def isolate_pageblocks(pg: PgData, zone: int, blocks: Iterable[int]) -> int:
    """Take pageblocks of a zone out of use (set_migratetype_isolate); free pages that nobody can have now.

    Pages freed there later join them. ValueError, and nothing changed, if one is isolated already.
    """
    blocks = list(blocks)
    for block in blocks:
        if pg.pb_migratetype[block] in (MIGRATE_ISOLATE, NO_PAGEBLOCK):
            raise ValueError(f"pageblock {block} is isolated already, or no memory")
    counted = pg.tune[TUNE_BLOCKS] == BLOCKS_TAKE
    total = 0
    if blocks and not counted:
        _split_at(pg, zone, blocks[0])
        _split_at(pg, zone, blocks[-1] + 1)
        pg.reserves[zone, MAY_BE_UNMERGED] = 1  # with what is isolated next to it another time
    for block in blocks:
        old = int(pg.pb_migratetype[block])
        pg.pb_migratetype[block] = MIGRATE_ISOLATE
        moved = _move_block(pg, zone, block, MIGRATE_ISOLATE)
        pg.reserves[zone, NR_ISOLATE_PAGEBLOCKS] += 1
        total += moved
        count_reserve(pg, zone, old, -moved)
        if not counted:
            mod_zone_free_pages(pg, zone, -1, -moved)
    return total


def unisolate_pageblocks(pg: PgData, zone: int, blocks: Iterable[int], migratetype: int) -> int:
    """Put isolated pageblocks back to use as this type (unset_migratetype_isolate); free pages regained."""
    counted = pg.tune[TUNE_BLOCKS] == BLOCKS_TAKE
    total = 0
    for block in blocks:
        if pg.pb_migratetype[block] != MIGRATE_ISOLATE:
            continue
        pg.reserves[zone, NR_ISOLATE_PAGEBLOCKS] -= 1
        order = int(pg.pb_order[block]) - 1
        if order >= PAGEBLOCK_ORDER and not counted:
            # off the list and freed anew, so that it merges with its buddy
            if order > PAGEBLOCK_ORDER:
                _split_at(pg, zone, block | 1)
                order = PAGEBLOCK_ORDER
            del_from_free_list(pg, zone, block << PAGEBLOCK_ORDER, order)
            pg.pb_migratetype[block] = migratetype
            free_one_page(pg, zone, -1, block << PAGEBLOCK_ORDER, order, migratetype, False)
            total += 1 << order
            continue
        if not counted:
            _split_at(pg, zone, block)
            if pg.pb_order[block]:
                order = int(pg.pb_order[block]) - 1
                del_from_free_list(pg, zone, block << PAGEBLOCK_ORDER, order)
                pg.pb_migratetype[block] = migratetype
                free_one_page(pg, zone, -1, block << PAGEBLOCK_ORDER, order, migratetype, False)
                total += 1 << order
                continue
        pg.pb_migratetype[block] = migratetype
        moved = _move_block(pg, zone, block, migratetype)
        count_reserve(pg, zone, migratetype, moved)
        if not counted:
            mod_zone_free_pages(pg, zone, -1, moved)
        total += moved
    return total


# contiguous ranges


def take_isolated(pg: PgData, zone: int, start: int, end: int, owner: int) -> None:
    """Make an isolated, free range the owner's, page by page (isolate_freepages_range, split_map_pages).

    What its free blocks have beyond the range stays free. BusyError, and nothing changed, when a page of the
    pageblocks is not free.
    """
    first = start & ~(PAGEBLOCK_NR_PAGES - 1)
    blocks = [
        (idx, order)
        for idx, order in _free_blocks_of(pg, first, -(-end // PAGEBLOCK_NR_PAGES) * PAGEBLOCK_NR_PAGES)
        if idx < end and idx + (1 << order) > start
    ]
    covered = sum(min(end, idx + (1 << order)) - max(start, idx) for idx, order in blocks)
    if covered < end - start:
        raise BusyError(start, "in use")
    for idx, order in blocks:
        del_from_free_list(pg, zone, idx, order)
    for idx, order in blocks:
        for low, high in ((idx, start), (end, idx + (1 << order))):
            if low < high:
                free_range(pg, zone, low, high)
    head = int(owner_list(pg, owner))
    pg.flags[start:end] = PG_HELD
    pg.order[start:end] = 0
    pg.refcount[start:end] = 1
    pg.owner[start:end] = owner
    for page in range(start, end):
        list_add_tail(pg.next, pg.prev, page, head)
    pg.owner_pages[owner] += end - start


def _free_blocks_of(pg: PgData, start: int, end: int) -> list[tuple[int, int]]:
    """(index, order) of every free block that begins in whole pageblocks."""
    small = np.flatnonzero(pg.flags[start:end] & PG_BUDDY) + start
    large = np.flatnonzero(pg.pb_order[start >> PAGEBLOCK_ORDER : end >> PAGEBLOCK_ORDER])
    heads = (large + (start >> PAGEBLOCK_ORDER)).tolist()
    found = [(block << PAGEBLOCK_ORDER, int(pg.pb_order[block]) - 1) for block in heads]
    return found + [(idx, int(pg.order[idx])) for idx in small.tolist()]


# all


def recount_reserves(pg: PgData) -> None:
    """Count special pageblocks anew: after lists and labels were written outright."""
    for zone in range(len(pg.managed)):
        labels = pg.pb_migratetype[zone_pageblocks(pg, zone)]
        reserves = pg.reserves[zone]
        reserves[RESERVED_HIGHATOMIC] = 0
        if pg.tune[TUNE_BLOCKS] != BLOCKS_TAKE:
            reserves[RESERVED_HIGHATOMIC] = np.count_nonzero(labels == MIGRATE_HIGHATOMIC) << PAGEBLOCK_ORDER
        reserves[NR_ISOLATE_PAGEBLOCKS] = np.count_nonzero(labels == MIGRATE_ISOLATE)
        for count, mt in ((FREE_HIGHATOMIC, MIGRATE_HIGHATOMIC), (FREE_CMA, MIGRATE_CMA)):
            reserves[count] = sum(
                int(count_free_blocks(pg, zone, order, mt)) << order
                for order in range(NR_ORDERS)
                if pg.nr_free[zone, order]
            )
