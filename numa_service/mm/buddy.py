"""The buddy system: free lists, splitting and merging, pageblock types (``mm/page_alloc.c``).

Blocks are named by the index of their first page in mem_map. The buddy of a block is found by XOR of the
index, because ``base_pfn`` is a multiple of the largest block's size.
"""

from __future__ import annotations

from numa_service.mm.jit import flag, i64, kernel
from numa_service.mm.lists import free_list, list_add, list_add_tail, list_del
from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_PCPTYPES,
    MIGRATE_UNMOVABLE,
    NR_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
)
from numa_service.mm.pgdata import (
    DRIFT_MARK,
    FREE_CMA,
    FREE_HIGHATOMIC,
    PCP_ACTIVE,
    PG_BUDDY,
    PG_LRU,
    STAT_THRESHOLD,
    TRACE_ON,
    TUNE_BLOCKS,
    TUNE_MOBILITY_DISABLED,
    PgData,
)
from numa_service.mm.tracepoints import MM_PAGE_ALLOC_ZONE_LOCKED, trace_page
from numa_service.mm.variants import BLOCKS_AGREE, BLOCKS_TAKE
from numa_service.mm.vmstat import NR_FREE_PAGES, PATH_BUDDY_BLOCKS

#: MIGRATE_RESERVE (removed in 4.4, which brought MIGRATE_HIGHATOMIC): both have the same number here.
MIGRATE_RESERVE = MIGRATE_HIGHATOMIC


@kernel(inline=True)  # mm_order0_random_free
def page_zone(pg: PgData, idx: int) -> int:
    """Zone index of a page (page_zonenum); -1 outside every zone."""
    whose = i64(pg.pb_zone[idx >> PAGEBLOCK_ORDER])
    if whose:
        return whose - 1
    for zone in range(pg.zone_start.shape[0]):
        if pg.zone_start[zone] <= idx < pg.zone_end[zone]:
            return zone
    return -1


@kernel(inline=True)  # mm_order0_random_free
def page_is_buddy(pg: PgData, idx: int, order: int) -> bool:
    """Whether a free block of exactly this order begins at `idx` (page_is_buddy)."""
    if order >= PAGEBLOCK_ORDER:
        return pg.pb_order[idx >> PAGEBLOCK_ORDER] == order + 1
    return (pg.flags[idx] & PG_BUDDY) != 0 and pg.order[idx] == order


# counters


@kernel(inline=True)  # mm_order0_random_free
def mod_zone_free_pages(pg: PgData, zone: int, cpu: int, delta: int) -> None:
    """Add `delta` pages to NR_FREE_PAGES of a zone (__mod_zone_page_state).

    The change stays in the part that `cpu` keeps to itself until that exceeds the zone's stat_threshold. With
    `cpu` -1 or a threshold of 0 it goes into the zone's counter at once.
    """
    if cpu < 0:
        pg.vm_stat[zone, NR_FREE_PAGES] += delta
        return
    pg.pcp_tuning[cpu, zone, PCP_ACTIVE] = 1
    threshold = pg.drift[zone, STAT_THRESHOLD]
    if threshold == 0:
        pg.vm_stat[zone, NR_FREE_PAGES] += delta
        return
    delta += pg.free_delta[cpu, zone]
    if delta > threshold or delta < -threshold:
        pg.vm_stat[zone, NR_FREE_PAGES] += delta
        delta = 0
    pg.free_delta[cpu, zone] = delta


@kernel
def _add_freed_blocks(pg: PgData, zone: int, cpu: int, order: int, blocks: int) -> None:
    """:func:`mod_zone_free_pages` for each of several blocks that `cpu` frees."""
    mod_zone_free_pages(pg, zone, cpu, 1 << order)  # leaves at most the threshold in the CPU's own part
    rest = (blocks - 1) << order
    threshold = pg.drift[zone, STAT_THRESHOLD]
    if threshold == 0:
        pg.vm_stat[zone, NR_FREE_PAGES] += rest
        return
    kept = pg.free_delta[cpu, zone]
    total = kept + rest
    left = total
    if total > threshold:
        first = ((threshold - kept) >> order) + 1  # the block with which the part exceeds the threshold
        every = (threshold >> order) + 1
        left = (blocks - 1 - first) % every << order
        pg.vm_stat[zone, NR_FREE_PAGES] += total - left
    pg.free_delta[cpu, zone] = left


@kernel
def zone_page_state_snapshot(pg: PgData, zone: int) -> int:
    """NR_FREE_PAGES with every CPU's own part added (zone_page_state_snapshot)."""
    free = pg.vm_stat[zone, NR_FREE_PAGES]
    for cpu in range(pg.free_delta.shape[0]):
        free += pg.free_delta[cpu, zone]
    return max(free, 0)


@kernel
def zone_free_pages_safe(pg: PgData, zone: int) -> int:
    """Free pages of a zone: exact below percpu_drift_mark, else the counter (zone_watermark_ok_safe)."""
    free = pg.vm_stat[zone, NR_FREE_PAGES]
    if free < pg.drift[zone, DRIFT_MARK]:
        return zone_page_state_snapshot(pg, zone)
    return free


@kernel
def count_reserve(pg: PgData, zone: int, mt: int, delta: int) -> None:
    """Add `delta` free pages to the count of type `mt`, if it is HIGHATOMIC or CMA (account_freepages)."""
    if mt == MIGRATE_HIGHATOMIC:
        pg.reserves[zone, FREE_HIGHATOMIC] += delta
    elif mt == MIGRATE_CMA:
        pg.reserves[zone, FREE_CMA] += delta


# free lists


@kernel(inline=True)  # mm_order0_random_free
def add_to_free_list(pg: PgData, zone: int, idx: int, order: int, mt: int, tail: bool) -> None:
    """Mark a block as free and put it on a free list (set_buddy_order, add_to_free_list[_tail])."""
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


@kernel(inline=True)  # mm_order0_random_free
def del_from_free_list(pg: PgData, zone: int, idx: int, order: int) -> None:
    """Take a free block off its list and clear its mark (del_page_from_free_list)."""
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
def move_to_free_list(pg: PgData, zone: int, idx: int, order: int, mt: int) -> None:
    """Move a free block to the end of another type's list; in 3.0 to the front (move_to_free_list)."""
    head = free_list(pg, zone, order, mt)
    if order >= PAGEBLOCK_ORDER:
        block = idx >> PAGEBLOCK_ORDER
        list_del(pg.pb_next, pg.pb_prev, block)
        if pg.tune[TUNE_BLOCKS] == BLOCKS_TAKE:
            list_add(pg.pb_next, pg.pb_prev, block, head)
        else:
            list_add_tail(pg.pb_next, pg.pb_prev, block, head)
    else:
        list_del(pg.next, pg.prev, idx)
        if pg.tune[TUNE_BLOCKS] == BLOCKS_TAKE:
            list_add(pg.next, pg.prev, idx, head)
        else:
            list_add_tail(pg.next, pg.prev, idx, head)


@kernel(inline=True)  # mm_order0_32k
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


# pageblocks


@kernel
def set_pageblock_migratetype(pg: PgData, block: int, mt: int) -> None:
    """Set a pageblock's type (set_pageblock_migratetype).

    With page_group_by_mobility_disabled the types below MIGRATE_PCPTYPES become unmovable, in 3.0 all types.
    """
    if pg.tune[TUNE_MOBILITY_DISABLED] and (mt < MIGRATE_PCPTYPES or pg.tune[TUNE_BLOCKS] == BLOCKS_TAKE):
        mt = MIGRATE_UNMOVABLE
    pg.pb_migratetype[block] = mt


@kernel
def change_pageblock_range(pg: PgData, idx: int, order: int, mt: int) -> None:
    """Set the type of every pageblock of a block of pageblock size or larger (change_pageblock_range)."""
    for block in range(1 << (order - PAGEBLOCK_ORDER)):
        set_pageblock_migratetype(pg, (idx >> PAGEBLOCK_ORDER) + block, mt)


@kernel
def scan_freepages_block(pg: PgData, zone: int, idx: int, mt: int, move: bool) -> int:
    """Count the free pages and the movable pages in use of the pageblock around `idx` (move_freepages_block).

    Returns free | movable << 32, or -1 if the zone ends inside the pageblock. With `move` its free blocks go
    to the lists of type `mt`. If the zone begins inside the pageblock, only the part from `idx` on is
    scanned; 6.12 returns -1 then, too.
    """
    start = idx & ~(PAGEBLOCK_NR_PAGES - 1)
    end = start + PAGEBLOCK_NR_PAGES
    if end > pg.zone_end[zone]:
        return -1
    if start < pg.zone_start[zone]:
        if pg.tune[TUNE_BLOCKS] >= BLOCKS_AGREE:
            return -1
        start = idx
    large = i64(pg.pb_order[start >> PAGEBLOCK_ORDER])
    if large and start & (PAGEBLOCK_NR_PAGES - 1) == 0:
        if move:
            move_to_free_list(pg, zone, start, large - 1, mt)
        return 1 << (large - 1)
    free = 0
    movable = 0
    at = start
    while at < end:
        if pg.flags[at] & PG_BUDDY:
            order = i64(pg.order[at])
            if move:
                move_to_free_list(pg, zone, at, order, mt)
            at += 1 << order
            free += 1 << order
        else:
            pages = 1 << i64(pg.order[at]) if pg.flags[at] & PG_LRU else 1
            if pg.flags[at] & PG_LRU:
                movable += pages
            at += pages
    return free | (movable << 32)


# split and merge


@kernel(inline=True)  # mm_order0_random_free
def find_buddy(pg: PgData, zone: int, idx: int, order: int) -> int:
    """Index of a block's buddy if that is free, of the same order and zone; else -1 (find_buddy_page_pfn)."""
    buddy = idx ^ (1 << order)
    if buddy < pg.zone_start[zone] or buddy >= pg.zone_end[zone]:
        return -1
    if not page_is_buddy(pg, buddy, order):
        return -1
    return buddy


@kernel(inline=True)  # mm_order9
def migratetype_is_mergeable(mt: int) -> bool:
    """Whether a block of this type may merge with blocks of other such types (migratetype_is_mergeable)."""
    return mt < MIGRATE_PCPTYPES


@kernel(inline=True)  # mm_order0_random_free
def _merge(pg: PgData, zone: int, idx: int, order: int, mt: int, to_tail: bool) -> None:
    """Merge a block of type `mt` with free buddies, then put it on a free list (loop of __free_one_page).

    It goes to the head of the list, or to the tail with `to_tail` or if the buddy of its parent is free, so
    that another merge is likely.
    """
    rules = pg.tune[TUNE_BLOCKS]
    while order < NR_ORDERS - 1:
        buddy = find_buddy(pg, zone, idx, order)
        if buddy < 0:
            break
        if order >= PAGEBLOCK_ORDER and rules != BLOCKS_TAKE:
            buddy_mt = i64(pg.pb_migratetype[buddy >> PAGEBLOCK_ORDER])
            if mt != buddy_mt:
                if not (migratetype_is_mergeable(mt) and migratetype_is_mergeable(buddy_mt)):
                    break
                if rules >= BLOCKS_AGREE:
                    set_pageblock_migratetype(pg, buddy >> PAGEBLOCK_ORDER, mt)
        del_from_free_list(pg, zone, buddy, order)
        idx = idx & buddy
        order += 1
    if not to_tail and order < NR_ORDERS - 2:
        # buddy_merge_likely: if the merged block has a free buddy, allocate from this one last
        higher = idx & ~(1 << order)
        to_tail = find_buddy(pg, zone, higher, order + 1) >= 0
    add_to_free_list(pg, zone, idx, order, mt, to_tail)


@kernel(inline=True)  # mm_order0_random_free
def free_one_page(pg: PgData, zone: int, cpu: int, idx: int, order: int, mt: int, to_tail: bool) -> None:
    """Free a block of type `mt`: merge it with free buddies, then put it on a free list (__free_one_page).

    `to_tail` is passed to :func:`_merge`, `cpu` to :func:`mod_zone_free_pages`.
    """
    pg.path[PATH_BUDDY_BLOCKS] += 1
    if mt != MIGRATE_ISOLATE or pg.tune[TUNE_BLOCKS] == BLOCKS_TAKE:
        mod_zone_free_pages(pg, zone, cpu, 1 << order)
    if mt >= MIGRATE_PCPTYPES:
        count_reserve(pg, zone, mt, 1 << order)
    _merge(pg, zone, idx, order, mt, to_tail)


@kernel
def free_whole(pg: PgData, zone: int, cpu: int, idx: int, order: int, blocks: int, mt: int) -> None:
    """Free `blocks` adjacent blocks that together are a whole one: a power of two of them, aligned.

    The result is the same as that of :func:`free_one_page` for each: the last of them merges with all others,
    and until then each list gets back what the next block takes off it.
    """
    pg.path[PATH_BUDDY_BLOCKS] += blocks
    if mt != MIGRATE_ISOLATE or pg.tune[TUNE_BLOCKS] == BLOCKS_TAKE:
        _add_freed_blocks(pg, zone, cpu, order, blocks)
    if mt >= MIGRATE_PCPTYPES:
        count_reserve(pg, zone, mt, blocks << order)
    while blocks > 1:
        blocks >>= 1
        order += 1
    _merge(pg, zone, idx, order, mt, flag(False))


@kernel
def expand(pg: PgData, zone: int, idx: int, low: int, high: int, mt: int) -> None:
    """Split a block of order `high` to order `low`: upper halves go to free lists of type `mt` (expand)."""
    while high > low:
        high -= 1
        add_to_free_list(pg, zone, idx + (1 << high), high, mt, flag(False))


@kernel
def rmqueue_smallest(pg: PgData, zone: int, order: int, mt: int) -> int:
    """Take a block from the smallest free block of one type that is large enough (__rmqueue_smallest).

    Returns its index, or -1 if there is none. The caller has to subtract it from NR_FREE_PAGES and, by the
    type that ``pcptype`` then holds, from the counts of reserves.
    """
    for current in range(order, NR_ORDERS):
        idx = first_free(pg, zone, current, mt)
        if idx < 0:
            continue
        del_from_free_list(pg, zone, idx, current)
        expand(pg, zone, idx, order, current, mt)
        pg.pcptype[idx] = mt
        if pg.trace_ctl[TRACE_ON]:
            trace_page(pg, i64(MM_PAGE_ALLOC_ZONE_LOCKED), zone, idx, order, mt)
        return idx
    return -1


@kernel(inline=True)  # mm_order0_32k
def rmqueue_smallest_run(pg: PgData, zone: int, order: int, mt: int, most: int) -> int:
    """Take up to `most` adjacent blocks from the smallest free block of a type that is large enough.

    Returns blocks << 40 | index of the first, or -1 if there is none. The result is the same as that of
    repeated :func:`rmqueue_smallest`: as no smaller block is free, each allocation takes the lowest part of
    what the one before has split off. A run never leaves a pageblock, so `order` is at most PAGEBLOCK_ORDER.
    """
    for current in range(order, NR_ORDERS):
        idx = first_free(pg, zone, current, mt)
        if idx < 0:
            continue
        del_from_free_list(pg, zone, idx, current)
        run = min(most, 1 << (min(current, i64(PAGEBLOCK_ORDER)) - order))
        at = run << order
        piece = order
        while at < 1 << current:
            if at & (1 << piece):
                add_to_free_list(pg, zone, idx + at, piece, mt, flag(False))
                at += 1 << piece
            piece += 1
        for page in range(idx, idx + (run << order), 1 << order):
            pg.pcptype[page] = mt
        if pg.trace_ctl[TRACE_ON]:
            for page in range(idx, idx + (run << order), 1 << order):
                trace_page(pg, i64(MM_PAGE_ALLOC_ZONE_LOCKED), zone, page, order, mt)
        return (run << 40) | idx
    return -1


@kernel(inline=True)  # mm_order9
def has_block_of_order(pg: PgData, zone: int, order: int, cma: bool, highatomic: bool) -> bool:
    """Whether a free list of this order that the request may use has a block.

    Those are the ordinary types, and MIGRATE_CMA and MIGRATE_HIGHATOMIC if `cma` and `highatomic` say so.
    """
    for mt in range(MIGRATE_PCPTYPES):
        if first_free(pg, zone, order, mt) >= 0:
            return True
    if cma and first_free(pg, zone, order, i64(MIGRATE_CMA)) >= 0:
        return True
    return highatomic and first_free(pg, zone, order, i64(MIGRATE_HIGHATOMIC)) >= 0


@kernel(inline=True)  # mm_order9
def has_free_block(pg: PgData, zone: int, order: int, cma: bool, highatomic: bool) -> bool:
    """Whether a block of at least this order is free for the request (end of __zone_watermark_ok)."""
    for current in range(order, NR_ORDERS):
        if pg.nr_free[zone, current] and has_block_of_order(pg, zone, current, cma, highatomic):
            return True
    return False


@kernel
def count_free_blocks(pg: PgData, zone: int, order: int, mt: int) -> int:
    """Length of one free list, counted by walking it, as /proc/pagetypeinfo does."""
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
    """Free the pages [start, end) in the largest aligned blocks, ascending (__free_pages_memory)."""
    at = start
    while at < end:
        order = 0
        while order < NR_ORDERS - 1 and at & (1 << order) == 0 and at + (2 << order) <= end:
            order += 1
        mt = i64(pg.pb_migratetype[at >> PAGEBLOCK_ORDER])
        free_one_page(pg, zone, i64(-1), at, order, mt, flag(True))
        at += 1 << order


__all__ = [
    "MIGRATE_RESERVE",
    "add_to_free_list",
    "change_pageblock_range",
    "count_free_blocks",
    "count_reserve",
    "del_from_free_list",
    "expand",
    "first_free",
    "free_one_page",
    "free_range",
    "free_whole",
    "has_block_of_order",
    "has_free_block",
    "migratetype_is_mergeable",
    "mod_zone_free_pages",
    "move_to_free_list",
    "page_is_buddy",
    "page_zone",
    "rmqueue_smallest",
    "rmqueue_smallest_run",
    "scan_freepages_block",
    "set_pageblock_migratetype",
    "zone_free_pages_safe",
    "zone_page_state_snapshot",
]
