"""Pageblocks that leave or enter ordinary use: isolation, the high-atomic reserve, MIGRATE_RESERVE of 3.0.

It has ``mm/page_isolation.c``, and of ``mm/page_alloc.c`` ``setup_zone_migrate_reserve`` (3.0) and
``unreserve_highatomic_pageblock``. These operations are rare, so they are plain Python over pageblocks that
calls kernels of the buddy system.
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
from numa_service.mm.variants import BLOCKS_AGREE, BLOCKS_TAKE

#: Most pageblocks of a zone that 3.0 makes MIGRATE_RESERVE (setup_zone_migrate_reserve).
MAX_RESERVE_BLOCKS = 2


def _move_block(pg: PgData, zone: int, block: int, mt: int) -> int:
    """Move a pageblock's free pages to the lists of type `mt`; returns how many (move_freepages_block)."""
    first = max(block << PAGEBLOCK_ORDER, int(pg.zone_start[zone]))
    moved = int(scan_freepages_block(pg, zone, first, mt, True))
    return 0 if moved < 0 else moved & 0xFFFFFFFF


# MIGRATE_RESERVE of 3.0


def setup_zone_migrate_reserve(pg: PgData, zone: int) -> None:
    """Make the first movable pageblocks of a zone MIGRATE_RESERVE (function of that name in 3.0).

    There are as many as the MIN watermark rounds up to, at most MAX_RESERVE_BLOCKS; other MIGRATE_RESERVE
    pageblocks become movable again. A pageblock with a reserved page or a hole is passed over.
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
    """Turn one HIGHATOMIC pageblock with free pages into one of type `migratetype`; True if free pages moved.

    `zones` are tried in that order. The last pageblock of a zone's reserve stays, unless `force` is set
    (function of that name in mm/page_alloc.c).
    """
    claims = pg.tune[TUNE_BLOCKS] >= BLOCKS_AGREE
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
                    size = 0  # a block left on the list when its pageblock was given back
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
    """Split a free block that spans this pageblock and the one before it (split_free_page)."""
    if block % 2 == 0 or pg.pb_order[block - 1] != NR_ORDERS:
        return  # a block that an even pageblock is part of begins there
    first = (block - 1) << PAGEBLOCK_ORDER
    mts = [int(mt) for mt in pg.pb_migratetype[block - 1 : block + 1]]
    del_from_free_list(pg, zone, first, NR_ORDERS - 1)
    # free both halves anew; NO_PAGEBLOCK as the other half's type keeps them from merging
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
    """Isolate pageblocks of a zone (set_migratetype_isolate); returns how many free pages they have.

    Those pages, and pages that are freed there later, are not allocated. ValueError, and nothing is changed,
    if a pageblock is isolated already or has no memory.
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
        pg.reserves[zone, MAY_BE_UNMERGED] = 1  # free buddies isolated at different times are not merged
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
    """Make isolated pageblocks `migratetype` again (unset_migratetype_isolate); returns their free pages."""
    counted = pg.tune[TUNE_BLOCKS] == BLOCKS_TAKE
    total = 0
    for block in blocks:
        if pg.pb_migratetype[block] != MIGRATE_ISOLATE:
            continue
        pg.reserves[zone, NR_ISOLATE_PAGEBLOCKS] -= 1
        order = int(pg.pb_order[block]) - 1
        if order >= PAGEBLOCK_ORDER and not counted:
            # take it off the list and free it anew, so that it merges with its buddy
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
    """Allocate the free pages [start, end) of isolated pageblocks to an owner, as order-0 blocks.

    (isolate_freepages_range, split_map_pages.) Parts of free blocks beyond the range stay free. BusyError,
    and nothing is changed, if a page of the range is not free.
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
    """(index, order) of every free block that begins in [start, end), a range of whole pageblocks."""
    small = np.flatnonzero(pg.flags[start:end] & PG_BUDDY) + start
    large = np.flatnonzero(pg.pb_order[start >> PAGEBLOCK_ORDER : end >> PAGEBLOCK_ORDER])
    heads = (large + (start >> PAGEBLOCK_ORDER)).tolist()
    found = [(block << PAGEBLOCK_ORDER, int(pg.pb_order[block]) - 1) for block in heads]
    return found + [(idx, int(pg.order[idx])) for idx in small.tolist()]


# counts


def recount_reserves(pg: PgData) -> None:
    """Count `PgData.reserves` anew, after free lists and pageblock types were written directly."""
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
