"""The buddy system: split, merge, migratetypes and what is stolen from whom (``mm/page_alloc.c``).

Pages are named by their index in mem_map. Buddies are found by XOR because ``base_pfn`` is a multiple of
the largest block.
"""

from __future__ import annotations

import numpy as np

from numa_service.mm.jit import flag, i64, kernel
from numa_service.mm.lists import free_list, list_add, list_add_tail, list_del
from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
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
    PG_BUDDY,
    PG_LRU,
    TUNE_BOOST_FACTOR,
    TUNE_MOBILITY_DISABLED,
    ZONE_BOOSTED_WATERMARK,
    PgData,
)
from numa_service.mm.vmstat import NR_FREE_PAGES, PATH_BUDDY_BLOCKS, PATH_STEALS

#: fallbacks[mt]: the order in which other types are stolen from (6.1; RESERVE of 3.0 is not modelled yet).
FALLBACKS = np.array(
    [
        [MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE],
        [MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE],
        [MIGRATE_UNMOVABLE, MIGRATE_MOVABLE],
    ],
    dtype=np.int64,
)

ALLOC_NOFRAGMENT = 0x100
ALLOC_KSWAPD = 0x800


@kernel
def page_zone(pg: PgData, idx: int) -> int:
    """Zone index of a page; -1 outside every zone."""
    for zone in range(pg.zone_start.shape[0]):
        if pg.zone_start[zone] <= idx < pg.zone_end[zone]:
            return zone
    return -1


@kernel
def page_is_buddy(pg: PgData, idx: int, order: int) -> bool:
    """Whether a free block of exactly this order starts here."""
    if order >= PAGEBLOCK_ORDER:
        return pg.pb_order[idx >> PAGEBLOCK_ORDER] == order + 1
    return (pg.flags[idx] & PG_BUDDY) != 0 and pg.order[idx] == order


@kernel
def add_to_free_list(pg: PgData, zone: int, idx: int, order: int, mt: int, tail: bool) -> None:
    """Make a block free: mark it, link it, count it (add_to_free_list[_tail], set_buddy_order)."""
    head = free_list(pg, zone, order, mt)
    if order >= PAGEBLOCK_ORDER:
        block = idx >> PAGEBLOCK_ORDER
        pg.pb_order[block] = order + 1
        if tail:
            list_add_tail(pg.pb_next, pg.pb_prev, block, head)
        else:
            list_add(pg.pb_next, pg.pb_prev, block, head)
    else:
        pg.flags[idx] = PG_BUDDY
        pg.order[idx] = order
        if tail:
            list_add_tail(pg.next, pg.prev, idx, head)
        else:
            list_add(pg.next, pg.prev, idx, head)
    pg.nr_free[zone, order] += 1


@kernel
def del_from_free_list(pg: PgData, zone: int, idx: int, order: int) -> None:
    """Take a block off its list and clear its mark (del_page_from_free_list)."""
    if order >= PAGEBLOCK_ORDER:
        block = idx >> PAGEBLOCK_ORDER
        pg.pb_order[block] = 0
        list_del(pg.pb_next, pg.pb_prev, block)
    else:
        pg.flags[idx] = 0
        pg.order[idx] = 0
        list_del(pg.next, pg.prev, idx)
    pg.nr_free[zone, order] -= 1


@kernel
def first_free(pg: PgData, zone: int, order: int, mt: int) -> int:
    """First block of a free list; -1 when it is empty (get_page_from_free_area)."""
    head = free_list(pg, zone, order, mt)
    if order >= PAGEBLOCK_ORDER:
        block = pg.pb_next[head]
        if block == head:
            return -1
        return i64(block) << PAGEBLOCK_ORDER
    entry = pg.next[head]
    if entry == head:
        return -1
    return i64(entry)


@kernel
def find_buddy(pg: PgData, zone: int, idx: int, order: int) -> int:
    """The free buddy of a block, or -1 (find_buddy_page_pfn)."""
    buddy = idx ^ (1 << order)
    if buddy < pg.zone_start[zone] or buddy >= pg.zone_end[zone]:
        return -1
    if not page_is_buddy(pg, buddy, order):
        return -1
    return buddy


@kernel
def _mergeable(mt: int) -> bool:
    return mt < MIGRATE_PCPTYPES


@kernel
def free_one_page(pg: PgData, zone: int, idx: int, order: int, mt: int, to_tail: bool) -> None:
    """Give a block back: merge upwards, then link it (__free_one_page).

    At the head of its list, or at the tail when the next merge is likely, or when asked to.
    """
    pg.path[PATH_BUDDY_BLOCKS] += 1
    if mt != MIGRATE_ISOLATE:
        pg.vm_stat[zone, NR_FREE_PAGES] += 1 << order
    while order < NR_ORDERS - 1:
        buddy = find_buddy(pg, zone, idx, order)
        if buddy < 0:
            break
        if order >= PAGEBLOCK_ORDER:
            buddy_mt = i64(pg.pb_migratetype[buddy >> PAGEBLOCK_ORDER])
            if mt != buddy_mt and not (_mergeable(mt) and _mergeable(buddy_mt)):
                break
        del_from_free_list(pg, zone, buddy, order)
        idx = idx & buddy
        order += 1
    if not to_tail and order < NR_ORDERS - 2:
        # buddy_merge_likely: the block one order up could merge soon, so keep these pages for last
        higher = idx & ~(1 << order)
        to_tail = find_buddy(pg, zone, higher, order + 1) >= 0
    add_to_free_list(pg, zone, idx, order, mt, to_tail)


@kernel
def _expand(pg: PgData, zone: int, idx: int, low: int, high: int, mt: int) -> None:
    """Split a block: each upper half goes to the lower list, the low half goes on (expand)."""
    while high > low:
        high -= 1
        add_to_free_list(pg, zone, idx + (1 << high), high, mt, flag(False))


@kernel
def rmqueue_smallest(pg: PgData, zone: int, order: int, mt: int) -> int:
    """Smallest block of one migratetype that is large enough; -1 if there is none (__rmqueue_smallest)."""
    for current in range(order, NR_ORDERS):
        idx = first_free(pg, zone, current, mt)
        if idx < 0:
            continue
        del_from_free_list(pg, zone, idx, current)
        _expand(pg, zone, idx, order, current, mt)
        pg.pcptype[idx] = mt
        return idx
    return -1


@kernel
def _boost_watermark(pg: PgData, zone: int) -> bool:
    """Raise the watermarks for a while after types were mixed (boost_watermark)."""
    factor = pg.tune[TUNE_BOOST_FACTOR]
    if factor == 0 or pg.managed[zone] < PAGEBLOCK_NR_PAGES * 4:
        return False
    limit = pg.watermark[zone, WMARK_HIGH] * factor // 10000
    if limit == 0:
        return False
    limit = max(PAGEBLOCK_NR_PAGES, limit)
    pg.watermark_boost[zone] = min(pg.watermark_boost[zone] + PAGEBLOCK_NR_PAGES, limit)
    return True


@kernel
def _move_freepages_block(pg: PgData, zone: int, idx: int, mt: int) -> int:
    """Move the free blocks of a pageblock to another list; pages moved, and movable ones in the high half.

    (move_freepages_block.) Returns free | movable << 32. A pageblock that the zone ends in is not moved; one
    that it begins in is moved from this block on.
    """
    start = idx & ~(PAGEBLOCK_NR_PAGES - 1)
    end = start + PAGEBLOCK_NR_PAGES
    if end > pg.zone_end[zone]:
        return 0
    if start < pg.zone_start[zone]:
        start = idx
    moved = 0
    movable = 0
    at = start
    while at < end:
        if pg.flags[at] & PG_BUDDY:
            order = i64(pg.order[at])
            list_del(pg.next, pg.prev, at)
            list_add_tail(pg.next, pg.prev, at, free_list(pg, zone, order, mt))
            at += 1 << order
            moved += 1 << order
        else:
            if pg.flags[at] & PG_LRU:
                movable += 1
            at += 1
    return moved | (movable << 32)


@kernel
def _move_to_free_list(pg: PgData, zone: int, idx: int, order: int, mt: int) -> None:
    head = free_list(pg, zone, order, mt)
    if order >= PAGEBLOCK_ORDER:
        block = idx >> PAGEBLOCK_ORDER
        list_del(pg.pb_next, pg.pb_prev, block)
        list_add_tail(pg.pb_next, pg.pb_prev, block, head)
    else:
        list_del(pg.next, pg.prev, idx)
        list_add_tail(pg.next, pg.prev, idx, head)


@kernel
def _steal_suitable_fallback(
    pg: PgData, zone: int, idx: int, order: int, start_mt: int, alloc_flags: int, whole_block: bool
) -> None:
    """Put a block of another type on the requester's list, with its pageblock if enough of it agrees."""
    pg.path[PATH_STEALS] += 1
    old_type = pg.pb_migratetype[idx >> PAGEBLOCK_ORDER]
    if old_type != MIGRATE_HIGHATOMIC:
        if order >= PAGEBLOCK_ORDER:
            for block in range(1 << (order - PAGEBLOCK_ORDER)):
                pg.pb_migratetype[(idx >> PAGEBLOCK_ORDER) + block] = start_mt
        else:
            if _boost_watermark(pg, zone) and alloc_flags & ALLOC_KSWAPD:
                pg.zone_flags[zone] |= ZONE_BOOSTED_WATERMARK
            if whole_block:
                counts = _move_freepages_block(pg, zone, idx, start_mt)
                free_pages = counts & 0xFFFFFFFF
                movable_pages = counts >> 32
                if start_mt == MIGRATE_MOVABLE:
                    alike = movable_pages
                elif old_type == MIGRATE_MOVABLE:
                    alike = PAGEBLOCK_NR_PAGES - (free_pages + movable_pages)
                else:
                    alike = 0
                if free_pages:
                    if free_pages + alike >= 1 << (PAGEBLOCK_ORDER - 1) or pg.tune[TUNE_MOBILITY_DISABLED]:
                        pg.pb_migratetype[idx >> PAGEBLOCK_ORDER] = start_mt
                    return
    _move_to_free_list(pg, zone, idx, order, start_mt)


@kernel
def _can_steal(pg: PgData, order: int, start_mt: int) -> bool:
    return (
        order >= PAGEBLOCK_ORDER // 2
        or start_mt == MIGRATE_RECLAIMABLE
        or start_mt == MIGRATE_UNMOVABLE
        or pg.tune[TUNE_MOBILITY_DISABLED] != 0
    )


@kernel
def _find_fallback(pg: PgData, zone: int, order: int, start_mt: int) -> int:
    """First other type with a free block of this order; -1 if none (find_suitable_fallback)."""
    if pg.nr_free[zone, order] == 0:
        return -1
    for i in range(FALLBACKS.shape[1]):
        mt = FALLBACKS[start_mt, i]
        if first_free(pg, zone, order, mt) >= 0:
            return mt
    return -1


@kernel
def _rmqueue_fallback(pg: PgData, zone: int, order: int, start_mt: int, alloc_flags: int) -> bool:
    """Bring a block of another type within reach (__rmqueue_fallback): the largest, so that types stay apart.

    Only when it is too small to take its pageblock along, and movable pages are wanted, the smallest.
    """
    if start_mt >= MIGRATE_PCPTYPES:
        return False
    min_order = order
    if order < PAGEBLOCK_ORDER and alloc_flags & ALLOC_NOFRAGMENT:
        min_order = PAGEBLOCK_ORDER
    for current in range(NR_ORDERS - 1, min_order - 1, -1):
        mt = _find_fallback(pg, zone, current, start_mt)
        if mt < 0:
            continue
        can_steal = _can_steal(pg, current, start_mt)
        if not can_steal and start_mt == MIGRATE_MOVABLE and current > order:
            for smallest in range(order, NR_ORDERS):
                mt = _find_fallback(pg, zone, smallest, start_mt)
                if mt >= 0:
                    current = smallest
                    break
            can_steal = _can_steal(pg, current, start_mt)
        idx = first_free(pg, zone, current, mt)
        _steal_suitable_fallback(pg, zone, idx, current, start_mt, alloc_flags, can_steal)
        return True
    return False


@kernel
def rmqueue(pg: PgData, zone: int, order: int, mt: int, alloc_flags: int) -> int:
    """A block of this order off the buddy lists, stealing if need be; -1 if there is none (__rmqueue)."""
    idx = rmqueue_smallest(pg, zone, order, mt)
    while idx < 0 and _rmqueue_fallback(pg, zone, order, mt, alloc_flags):
        idx = rmqueue_smallest(pg, zone, order, mt)
    if idx < 0:
        return -1
    pg.path[PATH_BUDDY_BLOCKS] += 1
    pg.vm_stat[zone, NR_FREE_PAGES] -= 1 << order
    return idx


@kernel
def has_free_block(pg: PgData, zone: int, order: int, harder: bool) -> bool:
    """Whether a block of at least this order is on a list the caller may use (end of __zone_watermark_ok)."""
    for current in range(order, NR_ORDERS):
        if pg.nr_free[zone, current] == 0:
            continue
        for mt in range(MIGRATE_PCPTYPES):
            if first_free(pg, zone, current, mt) >= 0:
                return True
        if first_free(pg, zone, current, i64(MIGRATE_CMA)) >= 0:
            return True
        if harder and first_free(pg, zone, current, i64(MIGRATE_HIGHATOMIC)) >= 0:
            return True
    return False


@kernel
def count_free_blocks(pg: PgData, zone: int, order: int, mt: int) -> int:
    """Length of one free list, walked as the kernel does for pagetypeinfo."""
    head = free_list(pg, zone, order, mt)
    n = 0
    if order >= PAGEBLOCK_ORDER:
        at = pg.pb_next[head]
        while at != head:
            n += 1
            at = pg.pb_next[at]
    else:
        at = pg.next[head]
        while at != head:
            n += 1
            at = pg.next[at]
    return n


@kernel
def free_range(pg: PgData, zone: int, start: int, end: int) -> None:
    """Hand a range to the buddy system in the largest aligned blocks, ascending (__free_pages_memory)."""
    at = start
    while at < end:
        order = 0
        while order < NR_ORDERS - 1 and at & (1 << order) == 0 and at + (2 << order) <= end:
            order += 1
        free_one_page(pg, zone, at, order, i64(pg.pb_migratetype[at >> PAGEBLOCK_ORDER]), flag(True))
        at += 1 << order


__all__ = [
    "ALLOC_KSWAPD",
    "ALLOC_NOFRAGMENT",
    "FALLBACKS",
    "count_free_blocks",
    "first_free",
    "free_one_page",
    "free_range",
    "has_free_block",
    "page_is_buddy",
    "page_zone",
    "rmqueue",
    "rmqueue_smallest",
]
