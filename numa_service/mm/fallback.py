"""Allocation from the buddy lists with fallback to CMA, other migratetypes and reserves (``__rmqueue``)."""

from __future__ import annotations

import numpy as np

from numa_service.mm.buddy import (
    MIGRATE_RESERVE,
    change_pageblock_range,
    count_reserve,
    del_from_free_list,
    expand,
    first_free,
    migratetype_is_mergeable,
    move_to_free_list,
    rmqueue_smallest,
    rmqueue_smallest_run,
    scan_freepages_block,
    set_pageblock_migratetype,
)
from numa_service.mm.internal import ALLOC_CMA, ALLOC_KSWAPD, ALLOC_NOFRAGMENT
from numa_service.mm.jit import flag, i64, kernel
from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
    NR_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    WMARK_HIGH,
)
from numa_service.mm.pgdata import (
    FREE_CMA,
    RESERVED_HIGHATOMIC,
    TRACE_ON,
    TUNE_BLOCKS,
    TUNE_BOOST_FACTOR,
    TUNE_MOBILITY_DISABLED,
    ZONE_BOOSTED_WATERMARK,
    PgData,
)
from numa_service.mm.tracepoints import MM_PAGE_ALLOC_ZONE_LOCKED, trace_extfrag, trace_page
from numa_service.mm.variants import BLOCKS_AGREE, BLOCKS_CLAIM, BLOCKS_STEAL
from numa_service.mm.vmstat import NR_FREE_PAGES, PATH_BUDDY_BLOCKS, PATH_STEALS

#: fallbacks[mt]: other types in the order in which they are tried; the same in 3.0, 6.1 and 6.12.
FALLBACKS = np.array(
    [
        [MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE],
        [MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE],
        [MIGRATE_UNMOVABLE, MIGRATE_MOVABLE],
    ],
    dtype=np.int64,
)


@kernel
def _boost_watermark(pg: PgData, zone: int, alloc_flags: int) -> None:
    """Raise a zone's watermark_boost, as a fallback is about to mix types in a pageblock (boost_watermark).

    With ALLOC_KSWAPD it sets ZONE_BOOSTED_WATERMARK, so that kswapd is woken.
    """
    factor = pg.tune[TUNE_BOOST_FACTOR]
    if factor == 0 or pg.managed[zone] < PAGEBLOCK_NR_PAGES * 4:
        return
    limit = pg.watermark[zone, WMARK_HIGH] * factor // 10000
    if limit == 0:
        return
    limit = max(PAGEBLOCK_NR_PAGES, limit)
    pg.watermark_boost[zone] = min(pg.watermark_boost[zone] + PAGEBLOCK_NR_PAGES, limit)
    if alloc_flags & ALLOC_KSWAPD:
        pg.zone_flags[zone] |= ZONE_BOOSTED_WATERMARK


@kernel
def _find_fallback(pg: PgData, zone: int, order: int, start_mt: int) -> int:
    """First type in FALLBACKS with a free block of this order, or -1 (find_suitable_fallback)."""
    if pg.nr_free[zone, order] == 0:
        return -1
    for i in range(FALLBACKS.shape[1]):
        mt = FALLBACKS[start_mt, i]
        if first_free(pg, zone, order, mt) >= 0:
            return mt
    return -1


@kernel
def _can_steal(pg: PgData, order: int, start_mt: int) -> bool:
    """Whether a fallback to a block of this order may take all of its pageblock (can_steal_fallback)."""
    return (
        order >= PAGEBLOCK_ORDER // 2
        or start_mt == MIGRATE_RECLAIMABLE
        or start_mt == MIGRATE_UNMOVABLE
        or pg.tune[TUNE_MOBILITY_DISABLED] != 0
    )


@kernel
def _is_enough(pg: PgData, counts: int, old_type: int, start_mt: int) -> bool:
    """Whether at least half of a pageblock is free or in use for `start_mt`, so that its type changes.

    `counts` is the result of scan_freepages_block() (end of steal_suitable_fallback).
    """
    free_pages = counts & 0xFFFFFFFF
    movable_pages = counts >> 32
    if start_mt == MIGRATE_MOVABLE:
        alike = movable_pages
    elif old_type == MIGRATE_MOVABLE:
        alike = PAGEBLOCK_NR_PAGES - (free_pages + movable_pages)
    else:
        alike = 0
    return free_pages + alike >= PAGEBLOCK_NR_PAGES // 2 or pg.tune[TUNE_MOBILITY_DISABLED] != 0


@kernel
def _trace_extfrag(
    pg: PgData, zone: int, idx: int, order: int, start_mt: int, fallback_order: int, fallback_mt: int
) -> None:
    """Record mm_page_alloc_extfrag for a block that was taken from another type."""
    owned = pg.pb_migratetype[idx >> PAGEBLOCK_ORDER] == start_mt
    trace_extfrag(pg, zone, idx, order, start_mt, fallback_order, fallback_mt, owned)


# 3.0: take the largest


@kernel
def _take_largest(pg: PgData, zone: int, order: int, start_mt: int) -> int:
    """Allocate from the largest free block of another type, or -1 (__rmqueue_fallback of 3.0).

    From half a pageblock's order upwards, and for reclaimable requests, the pageblock's free pages become the
    request's type as well.
    """
    for current in range(NR_ORDERS - 1, order - 1, -1):
        mt = _find_fallback(pg, zone, current, start_mt)
        if mt < 0:
            continue
        idx = first_free(pg, zone, current, mt)
        fallback_mt = mt
        pg.path[PATH_STEALS] += 1
        if (
            current >= PAGEBLOCK_ORDER // 2
            or start_mt == MIGRATE_RECLAIMABLE
            or pg.tune[TUNE_MOBILITY_DISABLED]
        ):
            mt = start_mt
            if current < PAGEBLOCK_ORDER:
                moved = scan_freepages_block(pg, zone, idx, start_mt, flag(True)) & 0xFFFFFFFF
                if moved == 0xFFFFFFFF:
                    moved = 0
                if moved >= PAGEBLOCK_NR_PAGES // 2 or pg.tune[TUNE_MOBILITY_DISABLED]:
                    set_pageblock_migratetype(pg, idx >> PAGEBLOCK_ORDER, start_mt)
        del_from_free_list(pg, zone, idx, current)
        if current >= PAGEBLOCK_ORDER:
            change_pageblock_range(pg, idx, current, start_mt)
        expand(pg, zone, idx, order, current, mt)
        pg.pcptype[idx] = mt
        if pg.trace_ctl[TRACE_ON]:
            _trace_extfrag(pg, zone, idx, order, start_mt, current, fallback_mt)
            trace_page(pg, i64(MM_PAGE_ALLOC_ZONE_LOCKED), zone, idx, order, start_mt)
        return idx
    return -1


# 6.1: steal the largest, or the smallest


@kernel
def _steal_suitable_fallback(
    pg: PgData, zone: int, idx: int, order: int, start_mt: int, alloc_flags: int, whole_block: bool
) -> None:
    """Move a free block of another type to the list of `start_mt` (steal_suitable_fallback of 6.1).

    With `whole_block` all free pages of its pageblock move, and the pageblock changes its type if enough of
    it is compatible.
    """
    pg.path[PATH_STEALS] += 1
    old_type = i64(pg.pb_migratetype[idx >> PAGEBLOCK_ORDER])
    if old_type != MIGRATE_HIGHATOMIC:
        if order >= PAGEBLOCK_ORDER:
            change_pageblock_range(pg, idx, order, start_mt)
        else:
            _boost_watermark(pg, zone, alloc_flags)
            if whole_block:
                counts = scan_freepages_block(pg, zone, idx, start_mt, flag(True))
                if counts > 0:
                    if _is_enough(pg, counts, old_type, start_mt):
                        set_pageblock_migratetype(pg, idx >> PAGEBLOCK_ORDER, start_mt)
                    return
    move_to_free_list(pg, zone, idx, order, start_mt)


@kernel
def _order_to_steal(pg: PgData, zone: int, order: int, start_mt: int, alloc_flags: int) -> int:
    """The order of the block of another type to be used (__rmqueue_fallback, 6.1); -1 if there is none.

    It is the largest such block, so that types are mixed in as few pageblocks as possible. If that block may
    not take its whole pageblock and the request is movable, it is the smallest.
    """
    min_order = order
    if order < PAGEBLOCK_ORDER and alloc_flags & ALLOC_NOFRAGMENT:
        min_order = PAGEBLOCK_ORDER
    for current in range(NR_ORDERS - 1, min_order - 1, -1):
        if _find_fallback(pg, zone, current, start_mt) < 0:
            continue
        if start_mt == MIGRATE_MOVABLE and current > order and not _can_steal(pg, current, start_mt):
            for smallest in range(order, current):
                if _find_fallback(pg, zone, smallest, start_mt) >= 0:
                    return smallest
        return current
    return i64(-1)


@kernel
def _steal_fallback(pg: PgData, zone: int, order: int, start_mt: int, alloc_flags: int) -> bool:
    """Move a block of another type to the list of `start_mt` (__rmqueue_fallback, 6.1); False if none."""
    current = _order_to_steal(pg, zone, order, start_mt, alloc_flags)
    if current < 0:
        return False
    mt = _find_fallback(pg, zone, current, start_mt)
    idx = first_free(pg, zone, current, mt)
    _steal_suitable_fallback(pg, zone, idx, current, start_mt, alloc_flags, _can_steal(pg, current, start_mt))
    if pg.trace_ctl[TRACE_ON]:
        _trace_extfrag(pg, zone, idx, order, start_mt, current, mt)
    return True


# 6.12: claim a pageblock, or steal a block


@kernel
def _try_to_claim_block(
    pg: PgData, zone: int, idx: int, current: int, order: int, start_mt: int, alloc_flags: int
) -> int:
    """Make a pageblock `start_mt` if enough of it is compatible, and take a block from it; else -1.

    (try_to_claim_block.)
    """
    old_type = i64(pg.pb_migratetype[idx >> PAGEBLOCK_ORDER])
    if current >= PAGEBLOCK_ORDER:
        pg.path[PATH_STEALS] += 1
        del_from_free_list(pg, zone, idx, current)
        change_pageblock_range(pg, idx, current, start_mt)
        expand(pg, zone, idx, order, current, start_mt)
        pg.pcptype[idx] = start_mt
        return idx
    _boost_watermark(pg, zone, alloc_flags)
    counts = scan_freepages_block(pg, zone, idx, start_mt, flag(False))
    if counts < 0 or not _is_enough(pg, counts, old_type, start_mt):
        return -1
    pg.path[PATH_STEALS] += 1
    scan_freepages_block(pg, zone, idx, start_mt, flag(True))
    set_pageblock_migratetype(pg, idx >> PAGEBLOCK_ORDER, start_mt)
    return rmqueue_smallest(pg, zone, order, start_mt)


@kernel
def _split_other(pg: PgData, zone: int, order: int, current: int, mt: int, start_mt: int) -> int:
    """Take a block of `order` from the first free one of type `mt`; the rest stays with that type."""
    idx = first_free(pg, zone, current, mt)
    pg.path[PATH_STEALS] += 1
    del_from_free_list(pg, zone, idx, current)
    expand(pg, zone, idx, order, current, mt)
    pg.pcptype[idx] = mt
    if pg.trace_ctl[TRACE_ON]:
        _trace_extfrag(pg, zone, idx, order, start_mt, current, mt)
    return idx


@kernel
def _claim_or_split(pg: PgData, zone: int, order: int, start_mt: int, alloc_flags: int) -> int:
    """Allocate from the block that 6.1 would choose: claim its pageblock, else split it; -1 if none (6.10).

    (__rmqueue_fallback, steal_suitable_fallback.)
    """
    current = _order_to_steal(pg, zone, order, start_mt, alloc_flags)
    if current < 0:
        return -1
    mt = _find_fallback(pg, zone, current, start_mt)
    block = first_free(pg, zone, current, mt)
    if current >= PAGEBLOCK_ORDER or _can_steal(pg, current, start_mt):
        idx = _try_to_claim_block(pg, zone, block, current, order, start_mt, alloc_flags)
        if idx >= 0:
            if pg.trace_ctl[TRACE_ON]:
                _trace_extfrag(pg, zone, idx, order, start_mt, current, mt)
            return idx
    else:
        _boost_watermark(pg, zone, alloc_flags)
    return _split_other(pg, zone, order, current, mt, start_mt)


@kernel
def _claim_or_steal(pg: PgData, zone: int, order: int, start_mt: int, alloc_flags: int) -> int:
    """Allocate from another type: claim the pageblock of the largest block, else split the smallest; or -1.

    (__rmqueue_claim, __rmqueue_steal.)
    """
    min_order = order
    if order < PAGEBLOCK_ORDER and alloc_flags & ALLOC_NOFRAGMENT:
        min_order = PAGEBLOCK_ORDER
    for current in range(NR_ORDERS - 1, min_order - 1, -1):
        if not _can_steal(pg, current, start_mt):
            break
        mt = _find_fallback(pg, zone, current, start_mt)
        if mt < 0:
            continue
        block = first_free(pg, zone, current, mt)
        idx = _try_to_claim_block(pg, zone, block, current, order, start_mt, alloc_flags)
        if idx >= 0:
            if pg.trace_ctl[TRACE_ON]:
                _trace_extfrag(pg, zone, idx, order, start_mt, current, mt)
            return idx
    if alloc_flags & ALLOC_NOFRAGMENT:
        return -1
    for current in range(order, NR_ORDERS):
        mt = _find_fallback(pg, zone, current, start_mt)
        if mt < 0:
            continue
        return _split_other(pg, zone, order, current, mt, start_mt)
    return -1


# all of them


@kernel
def rmqueue(pg: PgData, zone: int, order: int, mt: int, alloc_flags: int) -> int:
    """Take a block off the buddy lists, with fallback to other types; -1 if there is none (__rmqueue).

    The caller has to count it, as with :func:`rmqueue_smallest`.
    """
    if alloc_flags & ALLOC_CMA and pg.reserves[zone, FREE_CMA] > pg.vm_stat[zone, NR_FREE_PAGES] // 2:
        # more than half of the free memory is CMA: keep the rest for requests that cannot use CMA
        idx = rmqueue_smallest(pg, zone, order, i64(MIGRATE_CMA))
        if idx >= 0:
            return idx
    idx = rmqueue_smallest(pg, zone, order, mt)
    if idx >= 0:
        return idx
    if alloc_flags & ALLOC_CMA and pg.reserves[zone, FREE_CMA]:
        idx = rmqueue_smallest(pg, zone, order, i64(MIGRATE_CMA))
        if idx >= 0:
            return idx
    if mt >= MIGRATE_PCPTYPES:
        return -1
    rules = pg.tune[TUNE_BLOCKS]
    if rules == BLOCKS_STEAL:
        while idx < 0 and _steal_fallback(pg, zone, order, mt, alloc_flags):
            idx = rmqueue_smallest(pg, zone, order, mt)
    elif rules == BLOCKS_AGREE:
        idx = _claim_or_split(pg, zone, order, mt, alloc_flags)
    elif rules == BLOCKS_CLAIM:
        idx = _claim_or_steal(pg, zone, order, mt, alloc_flags)
    else:
        idx = _take_largest(pg, zone, order, mt)
        if idx < 0:
            idx = rmqueue_smallest(pg, zone, order, i64(MIGRATE_RESERVE))
    return idx


@kernel
def take_counted(pg: PgData, zone: int, idx: int, order: int) -> None:
    """Count one block that has left the free lists: in PATH_BUDDY_BLOCKS and in its type's reserve."""
    pg.path[PATH_BUDDY_BLOCKS] += 1
    mt = i64(pg.pcptype[idx])
    if mt >= MIGRATE_PCPTYPES:
        count_reserve(pg, zone, mt, -(1 << order))


@kernel(inline=True)  # mm_order0_32k
def rmqueue_run(pg: PgData, zone: int, order: int, mt: int, alloc_flags: int, most: int) -> int:
    """Take up to `most` adjacent blocks; blocks << 40 | index of the first, or -1 if there is none.

    The result is the same as that of repeated :func:`rmqueue`, each followed by :func:`take_counted`.
    """
    if not alloc_flags & ALLOC_CMA or pg.reserves[zone, FREE_CMA] == 0:
        run = rmqueue_smallest_run(pg, zone, order, mt, most)
        if run >= 0:
            pg.path[PATH_BUDDY_BLOCKS] += run >> 40
            return run
    idx = rmqueue(pg, zone, order, mt, alloc_flags)
    if idx < 0:
        return -1
    take_counted(pg, zone, idx, order)
    return (1 << 40) | idx


@kernel
def reserve_highatomic_pageblock(pg: PgData, zone: int, idx: int, order: int) -> None:
    """Make the pageblock of a high-order atomic allocation MIGRATE_HIGHATOMIC, up to a limit for the zone.

    The limit is 1 % of the managed pages plus one pageblock in 6.1. In 6.12 it is 1 % rounded up to whole
    pageblocks, and 0 if 1 % is less than one (reserve_highatomic_pageblock).
    """
    percent = pg.managed[zone] // 100
    claims = pg.tune[TUNE_BLOCKS] >= BLOCKS_AGREE
    if claims:
        if percent < PAGEBLOCK_NR_PAGES:
            return
        limit = -(-percent // PAGEBLOCK_NR_PAGES) * PAGEBLOCK_NR_PAGES
    else:
        limit = percent + PAGEBLOCK_NR_PAGES
    if pg.reserves[zone, RESERVED_HIGHATOMIC] >= limit:
        return
    mt = i64(pg.pb_migratetype[idx >> PAGEBLOCK_ORDER])
    if not migratetype_is_mergeable(mt):
        return
    if claims and order >= PAGEBLOCK_ORDER:
        change_pageblock_range(pg, idx, order, i64(MIGRATE_HIGHATOMIC))
        pg.reserves[zone, RESERVED_HIGHATOMIC] += 1 << order
        return
    moved = scan_freepages_block(pg, zone, idx, i64(MIGRATE_HIGHATOMIC), flag(True))
    if moved >= 0:
        count_reserve(pg, zone, i64(MIGRATE_HIGHATOMIC), moved & 0xFFFFFFFF)
    elif claims:
        return
    pg.reserves[zone, RESERVED_HIGHATOMIC] += PAGEBLOCK_NR_PAGES
    set_pageblock_migratetype(pg, idx >> PAGEBLOCK_ORDER, i64(MIGRATE_HIGHATOMIC))
