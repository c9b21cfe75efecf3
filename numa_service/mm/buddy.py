"""The buddy system: free lists, split and merge, pageblocks and their types (``mm/page_alloc.c``).

Pages are named by their index in mem_map. Buddies are found by XOR because ``base_pfn`` is a multiple of
the largest block.
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
from numa_service.mm.profile import BLOCKS_CLAIM, BLOCKS_TAKE
from numa_service.mm.tracepoints import MM_PAGE_ALLOC_ZONE_LOCKED, trace_page
from numa_service.mm.vmstat import NR_FREE_PAGES, PATH_BUDDY_BLOCKS

#: 3.0 keeps a reserve of this type where later kernels have HIGHATOMIC.
MIGRATE_RESERVE = MIGRATE_HIGHATOMIC


@kernel(inline=True)  # mm_order0_random_free
def page_zone(pg: PgData, idx: int) -> int:
    """Zone index of a page; -1 outside every zone."""
    whose = i64(pg.pb_zone[idx >> PAGEBLOCK_ORDER])
    if whose:
        return whose - 1
    for zone in range(pg.zone_start.shape[0]):
        if pg.zone_start[zone] <= idx < pg.zone_end[zone]:
            return zone
    return -1


@kernel(inline=True)  # mm_order0_random_free
def page_is_buddy(pg: PgData, idx: int, order: int) -> bool:
    """Whether a free block of exactly this order starts here."""
    if order >= PAGEBLOCK_ORDER:
        return pg.pb_order[idx >> PAGEBLOCK_ORDER] == order + 1
    return (pg.flags[idx] & PG_BUDDY) != 0 and pg.order[idx] == order


# counters


@kernel(inline=True)  # mm_order0_random_free
def mod_zone_free_pages(pg: PgData, zone: int, cpu: int, delta: int) -> None:
    """Change NR_FREE_PAGES, in the CPU's own part while that is within its threshold.

    (__mod_zone_page_state.) Without a CPU, or with a threshold of 0, at once.
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
def zone_page_state_snapshot(pg: PgData, zone: int) -> int:
    """NR_FREE_PAGES with what every CPU keeps to itself."""
    free = pg.vm_stat[zone, NR_FREE_PAGES]
    for cpu in range(pg.free_delta.shape[0]):
        free += pg.free_delta[cpu, zone]
    return max(free, 0)


@kernel
def zone_free_pages_safe(pg: PgData, zone: int) -> int:
    """Free pages for a check that must not be fooled by drift (zone_watermark_ok_safe)."""
    free = pg.vm_stat[zone, NR_FREE_PAGES]
    if free < pg.drift[zone, DRIFT_MARK]:
        return zone_page_state_snapshot(pg, zone)
    return free


@kernel
def count_reserve(pg: PgData, zone: int, mt: int, delta: int) -> None:
    """Free pages of the types that not everybody may use (account_freepages)."""
    if mt == MIGRATE_HIGHATOMIC:
        pg.reserves[zone, FREE_HIGHATOMIC] += delta
    elif mt == MIGRATE_CMA:
        pg.reserves[zone, FREE_CMA] += delta


# free lists


@kernel(inline=True)  # mm_order0_random_free
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


@kernel(inline=True)  # mm_order0_random_free
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
def move_to_free_list(pg: PgData, zone: int, idx: int, order: int, mt: int) -> None:
    """Put a free block on another type's list: last, in 3.0 first (move_to_free_list)."""
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
    """Label a pageblock; with mobility grouping off ordinary blocks are unmovable, in 3.0 all are."""
    if pg.tune[TUNE_MOBILITY_DISABLED] and (mt < MIGRATE_PCPTYPES or pg.tune[TUNE_BLOCKS] == BLOCKS_TAKE):
        mt = MIGRATE_UNMOVABLE
    pg.pb_migratetype[block] = mt


@kernel
def change_pageblock_range(pg: PgData, idx: int, order: int, mt: int) -> None:
    """Label every pageblock of a large block."""
    for block in range(1 << (order - PAGEBLOCK_ORDER)):
        set_pageblock_migratetype(pg, (idx >> PAGEBLOCK_ORDER) + block, mt)


@kernel
def scan_freepages_block(pg: PgData, zone: int, idx: int, mt: int, move: bool) -> int:
    """Free pages of a pageblock and its movable ones, as free | movable << 32; -1 where the zone ends in it.

    With `move` its free blocks go to another type's list (move_freepages_block). A pageblock that
    the zone begins in is taken from this block on; 6.12 leaves it alone.
    """
    start = idx & ~(PAGEBLOCK_NR_PAGES - 1)
    end = start + PAGEBLOCK_NR_PAGES
    if end > pg.zone_end[zone]:
        return -1
    if start < pg.zone_start[zone]:
        if pg.tune[TUNE_BLOCKS] == BLOCKS_CLAIM:
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
            if pg.flags[at] & PG_LRU:
                movable += 1
            at += 1
    return free | (movable << 32)


# split and merge


@kernel(inline=True)  # mm_order0_random_free
def find_buddy(pg: PgData, zone: int, idx: int, order: int) -> int:
    """The free buddy of a block, or -1 (find_buddy_page_pfn)."""
    buddy = idx ^ (1 << order)
    if buddy < pg.zone_start[zone] or buddy >= pg.zone_end[zone]:
        return -1
    if not page_is_buddy(pg, buddy, order):
        return -1
    return buddy


@kernel
def migratetype_is_mergeable(mt: int) -> bool:
    """Types whose blocks may merge with each other's."""
    return mt < MIGRATE_PCPTYPES


@kernel(inline=True)  # mm_order0_random_free
def free_one_page(pg: PgData, zone: int, cpu: int, idx: int, order: int, mt: int, to_tail: bool) -> None:
    """Give a block back: merge upwards, then link it (__free_one_page).

    At the head of its list, or at the tail when the next merge is likely, or when asked to. `cpu` is whose
    counter moves; -1 = the zone's.
    """
    pg.path[PATH_BUDDY_BLOCKS] += 1
    rules = pg.tune[TUNE_BLOCKS]
    if mt != MIGRATE_ISOLATE or rules == BLOCKS_TAKE:
        mod_zone_free_pages(pg, zone, cpu, 1 << order)
    if mt >= MIGRATE_PCPTYPES:
        count_reserve(pg, zone, mt, 1 << order)
    while order < NR_ORDERS - 1:
        buddy = find_buddy(pg, zone, idx, order)
        if buddy < 0:
            break
        if order >= PAGEBLOCK_ORDER and rules != BLOCKS_TAKE:
            buddy_mt = i64(pg.pb_migratetype[buddy >> PAGEBLOCK_ORDER])
            if mt != buddy_mt:
                if not (migratetype_is_mergeable(mt) and migratetype_is_mergeable(buddy_mt)):
                    break
                if rules == BLOCKS_CLAIM:
                    set_pageblock_migratetype(pg, buddy >> PAGEBLOCK_ORDER, mt)
        del_from_free_list(pg, zone, buddy, order)
        idx = idx & buddy
        order += 1
    if not to_tail and order < NR_ORDERS - 2:
        # buddy_merge_likely: the block one order up could merge soon, so keep these pages for last
        higher = idx & ~(1 << order)
        to_tail = find_buddy(pg, zone, higher, order + 1) >= 0
    add_to_free_list(pg, zone, idx, order, mt, to_tail)


@kernel
def expand(pg: PgData, zone: int, idx: int, low: int, high: int, mt: int) -> None:
    """Split a block: each upper half goes to the lower list, the low half goes on (expand)."""
    while high > low:
        high -= 1
        add_to_free_list(pg, zone, idx + (1 << high), high, mt, flag(False))


@kernel
def rmqueue_smallest(pg: PgData, zone: int, order: int, mt: int) -> int:
    """Smallest block of one migratetype that is large enough; -1 if there is none (__rmqueue_smallest).

    Not counted yet: that is the caller's, with the type left in ``pcptype``.
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
    """Up to `most` blocks in a row off the smallest block that is large enough, as blocks << 40 | first.

    -1 if there is none. The same as so many times :func:`rmqueue_smallest`: no smaller block is free, so what
    one allocation splits off serves the next, ascending. Never past a pageblock, so `order` is at most 9.
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
        for block in range(run):
            page = idx + (block << order)
            pg.pcptype[page] = mt
            if pg.trace_ctl[TRACE_ON]:
                trace_page(pg, i64(MM_PAGE_ALLOC_ZONE_LOCKED), zone, page, order, mt)
        return (run << 40) | idx
    return -1


@kernel(inline=True)  # mm_order9
def has_block_of_order(pg: PgData, zone: int, order: int, cma: bool, highatomic: bool) -> bool:
    """Whether a block of this order is on a list the caller may use."""
    for mt in range(MIGRATE_PCPTYPES):
        if first_free(pg, zone, order, mt) >= 0:
            return True
    if cma and first_free(pg, zone, order, i64(MIGRATE_CMA)) >= 0:
        return True
    return highatomic and first_free(pg, zone, order, i64(MIGRATE_HIGHATOMIC)) >= 0


@kernel(inline=True)  # mm_order9
def has_free_block(pg: PgData, zone: int, order: int, cma: bool, highatomic: bool) -> bool:
    """Whether a block of at least this order is on a list the caller may use (end of __zone_watermark_ok)."""
    for current in range(order, NR_ORDERS):
        if pg.nr_free[zone, current] and has_block_of_order(pg, zone, current, cma, highatomic):
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
