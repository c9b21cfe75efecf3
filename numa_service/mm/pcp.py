"""Per-CPU pagesets: caches of small and huge blocks in front of the buddy lists (``mm/page_alloc.c``).

Three ways to fill and drain them, by the profile's PAGESET_* rules: fixed sizes with hot and cold ends
(3.0), batches that grow while only frees come (6.1), and a `high` that moves with the load (6.12).
"""

from __future__ import annotations

from numa_service.mm.buddy import free_one_page, mod_zone_free_pages, page_zone
from numa_service.mm.fallback import rmqueue_run
from numa_service.mm.jit import flag, i64, kernel
from numa_service.mm.lists import list_add, list_add_tail, list_del, pcp_list
from numa_service.mm.mmzone import (
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_ORDER,
    WMARK_HIGH,
)
from numa_service.mm.pgdata import (
    FREE_CMA,
    FREE_HIGHATOMIC,
    I64,
    NR_ISOLATE_PAGEBLOCKS,
    NR_PCP_LISTS,
    PCP_ALLOC_FACTOR,
    PCP_HIGH_NOW,
    PCP_PREV_FREE_HIGH_ORDER,
    PCP_THP,
    PCP_THP_MOVABLE,
    PG_PCP,
    TRACE_ON,
    TUNE_BLOCKS,
    TUNE_PAGESET,
    TUNE_PCP_MAX_ORDER,
    ZONE_BELOW_HIGH,
    ZONE_RECLAIM_ACTIVE,
    PgData,
)
from numa_service.mm.profile import BLOCKS_CLAIM, BLOCKS_STEAL, PAGESET_AUTO_TUNED, PAGESET_HOT_COLD
from numa_service.mm.tracepoints import trace_drain
from numa_service.mm.vmstat import NR_FREE_PAGES, PATH_PAGESET_PAGES

#: CONFIG_PCP_BATCH_SCALE_MAX: how often a batch doubles (6.1 has it since 6.1.104).
PCP_BATCH_SCALE_MAX = 5

#: __GFP_COLD of 3.0: the page will not be in the CPU's cache soon, so take one that is not either. Ours.
ALLOC_COLD = 0x10000

#: ZONE_MOVABLE has the same index in every architecture here.
_ZONE_MOVABLE = 3


@kernel(inline=True)  # mm_order3
def pcp_allowed_order(pg: PgData, order: int) -> bool:
    """Orders that pagesets keep."""
    if order <= pg.tune[TUNE_PCP_MAX_ORDER]:
        return True
    return order == PAGEBLOCK_ORDER and pg.tune[TUNE_PCP_MAX_ORDER] > 0


@kernel(inline=True)  # mm_order3
def order_to_pindex(order: int, mt: int) -> int:
    """Pageset list of an order and type."""
    if order == PAGEBLOCK_ORDER:
        return PCP_THP
    return MIGRATE_PCPTYPES * order + mt


@kernel(inline=True)  # mm_order3
def _pindex(pg: PgData, order: int, mt: int) -> int:
    """The same, with the second list of huge pages that 6.12 has."""
    if order == PAGEBLOCK_ORDER and mt == MIGRATE_MOVABLE and pg.tune[TUNE_PAGESET] == PAGESET_AUTO_TUNED:
        return PCP_THP_MOVABLE
    return order_to_pindex(order, mt)


@kernel
def _pindex_to_order(pindex: int) -> int:
    if pindex >= PCP_THP:
        return PAGEBLOCK_ORDER
    return pindex // MIGRATE_PCPTYPES


# allocation


@kernel
def _pcp_high_clamped(pg: PgData, zone: int, cpu: int) -> int:
    """`high` as it stands, brought between floor and ceiling."""
    low = pg.pcp_high[zone]
    high = max(low, min(pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW], pg.pcp_high_max[zone]))
    pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW] = high
    return high


@kernel
def _nr_pcp_alloc(pg: PgData, zone: int, cpu: int, order: int) -> int:
    """Blocks to refill an auto-tuned pageset with (nr_pcp_alloc): twice the batch while nothing is freed."""
    base = pg.pcp_batch[zone]
    high_max = pg.pcp_high_max[zone]
    high = _pcp_high_clamped(pg, zone, cpu)
    if high < base:
        return 1
    factor = pg.pcp_tuning[cpu, zone, PCP_ALLOC_FACTOR]
    batch = base if order else base << factor
    if pg.pcp_high[zone] < high_max and not pg.zone_flags[zone] & ZONE_BELOW_HIGH:
        # a larger pageset would have spared this visit to the zone
        high = min(high + batch, high_max)
        pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW] = high
    if order == 0:
        most = max(high - pg.pcp_count[cpu, zone] - base, base)
        if batch <= most and factor < PCP_BATCH_SCALE_MAX:
            pg.pcp_tuning[cpu, zone, PCP_ALLOC_FACTOR] = factor + 1
        batch = min(batch, most)
    return max(batch >> order, 2) if batch > 1 else batch


@kernel(inline=True)  # mm_order0_32k
def _rmqueue_bulk(pg: PgData, zone: int, cpu: int, order: int, mt: int, alloc_flags: int, head: int) -> None:
    """Refill an empty pageset list, in such an order that the blocks are handed out as they were got."""
    rules = pg.tune[TUNE_PAGESET]
    if rules == PAGESET_AUTO_TUNED:
        batch = _nr_pcp_alloc(pg, zone, cpu, order)
    else:
        batch = pg.pcp_batch[zone]
        if batch > 1:
            batch = max(batch >> order, 2)
    got = 0
    while got < batch:
        found = rmqueue_run(pg, zone, order, mt, alloc_flags, batch - got)
        if found < 0:
            break
        run = found >> 40
        idx = found & ((1 << 40) - 1)
        for _ in range(run):
            if rules == PAGESET_HOT_COLD:
                pg.pcptype[idx] = mt  # page_private: where it would go back to
            pg.flags[idx] = PG_PCP
            pg.order[idx] = order
            if alloc_flags & ALLOC_COLD:
                list_add(pg.next, pg.prev, idx, head)
            else:
                list_add_tail(pg.next, pg.prev, idx, head)
            idx += 1 << order
        got += run
    pg.pcp_count[cpu, zone] += got << order
    mod_zone_free_pages(pg, zone, cpu, -(got << order))


@kernel(inline=True)  # mm_order0_32k
def rmqueue_pcplist(pg: PgData, zone: int, cpu: int, order: int, mt: int, alloc_flags: int) -> int:
    """A block from the CPU's pageset, refilled with a batch when its list is empty; -1 if that fails."""
    pg.pcp_free_factor[cpu, zone] >>= 1
    head = pcp_list(pg, cpu, zone, _pindex(pg, order, mt))
    if pg.next[head] == head:
        _rmqueue_bulk(pg, zone, cpu, order, mt, alloc_flags, head)
        if pg.next[head] == head:
            return -1
    page = i64(pg.prev[head]) if alloc_flags & ALLOC_COLD else i64(pg.next[head])
    list_del(pg.next, pg.prev, page)
    pg.pcp_count[cpu, zone] -= 1 << order
    pg.path[PATH_PAGESET_PAGES] += 1
    return page


@kernel(inline=True)  # mm_order0_32k
def take_run(pg: PgData, zone: int, cpu: int, order: int, mt: int, out: I64, at: int) -> int:
    """Blocks of a pageset list into out[at:], as many as fit or are there; how many.

    The same as so many times :func:`rmqueue_pcplist` with a list that is not empty.
    """
    head = pcp_list(pg, cpu, zone, _pindex(pg, order, mt))
    page = i64(pg.next[head])
    end = at
    while page != head and end < out.shape[0]:
        out[end] = page
        end += 1
        page = i64(pg.next[page])
    run = end - at
    if run:
        pg.next[head] = page
        pg.prev[page] = head
        pg.pcp_count[cpu, zone] -= run << order
        pg.pcp_free_factor[cpu, zone] >>= min(run, 63)
        pg.path[PATH_PAGESET_PAGES] += run
    return run


# freeing


@kernel(inline=True)  # mm_order0_random_free
def _free_last(pg: PgData, zone: int, cpu: int, head: int, order: int) -> None:
    """Give the oldest block of a pageset list back to the buddy lists."""
    page = i64(pg.prev[head])
    list_del(pg.next, pg.prev, page)
    pg.flags[page] = 0
    pg.order[page] = 0
    pg.pcp_count[cpu, zone] -= 1 << order
    mt = i64(pg.pcptype[page])
    rules = pg.tune[TUNE_BLOCKS]
    if rules == BLOCKS_CLAIM or (rules == BLOCKS_STEAL and pg.reserves[zone, NR_ISOLATE_PAGEBLOCKS]):
        # lists and pageblocks agree, or its pageblock may have been isolated meanwhile
        mt = i64(pg.pb_migratetype[page >> PAGEBLOCK_ORDER])
    free_one_page(pg, zone, cpu, page, order, mt, flag(False))
    if pg.trace_ctl[TRACE_ON]:
        trace_drain(pg, zone, cpu, page, order, mt)


@kernel
def _free_round_robin(pg: PgData, zone: int, cpu: int, count: int) -> None:
    """3.0: one page of the first list that has any, more of the next the more empty ones came between.

    Types in the order in which 3.0 numbers them: unmovable, reclaimable, movable.
    """
    turn = 0
    due = 0
    while count > 0:
        while True:
            due += 1
            turn = 0 if turn == MIGRATE_PCPTYPES - 1 else turn + 1
            mt = (MIGRATE_PCPTYPES - turn) % MIGRATE_PCPTYPES
            head = pcp_list(pg, cpu, zone, mt)
            if pg.next[head] != head:
                break
        if due == MIGRATE_PCPTYPES:
            due = count  # the only list that has any
        while count > 0 and due > 0 and pg.next[head] != head:
            _free_last(pg, zone, cpu, head, i64(0))
            count -= 1
            due -= 1


@kernel
def free_pcppages_bulk(pg: PgData, zone: int, cpu: int, count: int, pindex: int) -> None:
    """Give pages of a pageset back to the buddy lists, round-robin over its lists, oldest first."""
    count = min(pg.pcp_count[cpu, zone], count)
    if pg.tune[TUNE_PAGESET] == PAGESET_HOT_COLD:
        _free_round_robin(pg, zone, cpu, count)
        return
    min_pindex = 0
    max_pindex = NR_PCP_LISTS - 1
    pindex -= 1
    while count > 0:
        while True:
            pindex += 1
            if pindex > max_pindex:
                pindex = min_pindex
            head = pcp_list(pg, cpu, zone, pindex)
            if pg.next[head] != head:
                break
            if pindex == max_pindex:
                max_pindex -= 1
            if pindex == min_pindex:
                min_pindex += 1
        order = _pindex_to_order(pindex)
        while count > 0 and pg.next[head] != head:
            _free_last(pg, zone, cpu, head, order)
            count -= 1 << order


@kernel(inline=True)  # mm_order3
def _nr_pcp_high(pg: PgData, zone: int, free_high: bool) -> int:
    high = pg.pcp_high[zone]
    if high == 0 or free_high:
        return 0
    if pg.zone_flags[zone] & ZONE_RECLAIM_ACTIVE:
        return min(pg.pcp_batch[zone] << 2, high)
    return high


@kernel(inline=True)  # mm_order3
def _nr_pcp_free(pg: PgData, zone: int, cpu: int, high: int, free_high: bool) -> int:
    batch = pg.pcp_batch[zone]
    if free_high:
        return pg.pcp_count[cpu, zone]
    if high < batch:
        return 1
    most = high - batch
    scaled = batch << pg.pcp_free_factor[cpu, zone]
    if scaled < most and pg.pcp_free_factor[cpu, zone] < PCP_BATCH_SCALE_MAX:
        pg.pcp_free_factor[cpu, zone] += 1
    return max(batch, min(scaled, most))


@kernel
def _auto_high(pg: PgData, zone: int, cpu: int, free_high: bool) -> int:
    """How many pages an auto-tuned pageset may hold now, and may from now on (nr_pcp_high of 6.12)."""
    floor = pg.pcp_high[zone]
    ceiling = pg.pcp_high_max[zone]
    batch = pg.pcp_batch[zone]
    high = _pcp_high_clamped(pg, zone, cpu)
    if high == 0:
        return 0
    freed = max(pg.pcp_free_factor[cpu, zone], batch)
    if free_high:
        pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW] = max(high - (batch << PCP_BATCH_SCALE_MAX), floor)
        return 0
    if pg.zone_flags[zone] & ZONE_RECLAIM_ACTIVE:
        high = max(high - freed, floor)
        pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW] = high
        return min(batch << 2, high)
    if floor >= ceiling:
        return high
    if pg.zone_flags[zone] & ZONE_BELOW_HIGH:
        pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW] = max(high - freed, floor)
        return max(pg.pcp_count[cpu, zone], floor)
    if pg.pcp_count[cpu, zone] >= high:
        need = pg.pcp_free_factor[cpu, zone] + batch
        if high < need:
            # large enough to hold what is freed in one go
            pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW] = max(floor, min(need, ceiling))
    return high


@kernel
def _free_auto_tuned(pg: PgData, zone: int, cpu: int, order: int, pindex: int) -> None:
    """After a block came onto an auto-tuned pageset: free as many as came in a row (6.12)."""
    tuning = pg.pcp_tuning
    batch = pg.pcp_batch[zone]
    tuning[cpu, zone, PCP_ALLOC_FACTOR] >>= 1
    count = pg.pcp_count[cpu, zone]
    free_high = False
    if 0 < order <= PAGE_ALLOC_COSTLY_ORDER:
        # PCPF_FREE_HIGH_BATCH is taken as set: CPU caches that hold three batches and more
        free_high = (
            pg.pcp_free_factor[cpu, zone] >= batch
            and tuning[cpu, zone, PCP_PREV_FREE_HIGH_ORDER] != 0
            and count >= batch
        )
        tuning[cpu, zone, PCP_PREV_FREE_HIGH_ORDER] = 1
    else:
        tuning[cpu, zone, PCP_PREV_FREE_HIGH_ORDER] = 0
    if pg.pcp_free_factor[cpu, zone] < batch << PCP_BATCH_SCALE_MAX:
        pg.pcp_free_factor[cpu, zone] += 1 << order
    high = _auto_high(pg, zone, cpu, free_high)
    if count < high:
        return
    if free_high:
        to_free = min(count, batch << PCP_BATCH_SCALE_MAX)
    elif high < batch:
        to_free = 1
    else:
        # as clamp() does it: the ceiling last
        to_free = min(max(pg.pcp_free_factor[cpu, zone], batch), high - batch)
    free_pcppages_bulk(pg, zone, cpu, to_free, pindex)
    if pg.zone_flags[zone] & ZONE_BELOW_HIGH:
        unusable = pg.reserves[zone, FREE_HIGHATOMIC] + pg.reserves[zone, FREE_CMA]
        mark = pg.watermark[zone, WMARK_HIGH] + pg.watermark_boost[zone]
        if pg.vm_stat[zone, NR_FREE_PAGES] - unusable > mark + pg.lowmem_reserve[zone, _ZONE_MOVABLE]:
            pg.zone_flags[zone] &= ~ZONE_BELOW_HIGH


@kernel(inline=True)  # mm_order3
def room_before_drain(pg: PgData, zone: int, cpu: int, order: int) -> int:
    """Blocks that the pageset takes before one makes it drain; 0 where every block moves its `high`."""
    rules = pg.tune[TUNE_PAGESET]
    if rules == PAGESET_AUTO_TUNED:
        return 0
    if rules == PAGESET_HOT_COLD:
        high = pg.pcp_high[zone]
    else:
        high = _nr_pcp_high(pg, zone, _drains_high_orders(pg, zone, cpu, order))
    return max(high - 1 - pg.pcp_count[cpu, zone], 0) >> order


@kernel
def free_unref_run(pg: PgData, zone: int, cpu: int, pages: I64, at: int, order: int, most: int) -> int:
    """Put blocks pages[at:] on the pageset while they are one zone's and one type's; how many, up to `most`.

    The same as so many times :func:`free_unref_page` without a drain; takes them off their owner's list.
    """
    head = -1
    first = i64(0)
    run_mt = -1
    run = 0
    while run < most and at + run < pages.shape[0]:
        idx = pages[at + run]
        whose = i64(pg.pb_zone[idx >> PAGEBLOCK_ORDER])
        if whose != zone + 1 and (whose or page_zone(pg, idx) != zone):
            break
        mt = i64(pg.pb_migratetype[idx >> PAGEBLOCK_ORDER])
        if mt != run_mt:
            if run or mt == MIGRATE_ISOLATE:
                break
            run_mt = mt
            head = pcp_list(
                pg, cpu, zone, _pindex(pg, order, mt if mt < MIGRATE_PCPTYPES else MIGRATE_MOVABLE)
            )
            first = i64(pg.next[head])
        list_del(pg.next, pg.prev, idx)
        pg.flags[idx] = PG_PCP
        pg.pcptype[idx] = mt
        pg.refcount[idx] = 0
        pg.owner[idx] = 0
        pg.next[idx] = first
        pg.prev[first] = idx
        first = idx
        run += 1
    if run:
        pg.next[head] = first
        pg.prev[first] = head
        pg.pcp_count[cpu, zone] += run << order
        pg.path[PATH_PAGESET_PAGES] += run
    return run


@kernel(inline=True)  # mm_order3
def _drains_high_orders(pg: PgData, zone: int, cpu: int, order: int) -> bool:
    """Whether higher orders go straight on: only frees came of late (free_high of 6.1)."""
    return pg.pcp_free_factor[cpu, zone] != 0 and 0 < order <= PAGE_ALLOC_COSTLY_ORDER


@kernel(inline=True)  # mm_order3
def free_unref_page(pg: PgData, zone: int, cpu: int, idx: int, order: int, mt: int, cold: bool) -> None:
    """Free a block onto the CPU's pageset; above `high`, a batch goes on to the buddy lists."""
    # types without a pageset list ride on the movable one, but go back to their own free list
    pindex = _pindex(pg, order, mt if mt < MIGRATE_PCPTYPES else MIGRATE_MOVABLE)
    pg.flags[idx] = PG_PCP
    pg.order[idx] = order
    pg.pcptype[idx] = mt
    if cold:
        list_add_tail(pg.next, pg.prev, idx, pcp_list(pg, cpu, zone, pindex))
    else:
        list_add(pg.next, pg.prev, idx, pcp_list(pg, cpu, zone, pindex))
    pg.pcp_count[cpu, zone] += 1 << order
    pg.path[PATH_PAGESET_PAGES] += 1
    rules = pg.tune[TUNE_PAGESET]
    if rules == PAGESET_AUTO_TUNED:
        _free_auto_tuned(pg, zone, cpu, order, pindex)
    elif rules == PAGESET_HOT_COLD:
        if pg.pcp_count[cpu, zone] >= pg.pcp_high[zone]:
            free_pcppages_bulk(pg, zone, cpu, pg.pcp_batch[zone], pindex)
    else:
        free_high = _drains_high_orders(pg, zone, cpu, order)
        high = _nr_pcp_high(pg, zone, free_high)
        if pg.pcp_count[cpu, zone] >= high:
            free_pcppages_bulk(pg, zone, cpu, _nr_pcp_free(pg, zone, cpu, high, free_high), pindex)


@kernel
def drain_pages(pg: PgData) -> None:
    """Empty every pageset of the node (drain_all_pages)."""
    for cpu in range(pg.pcp_count.shape[0]):
        for zone in range(pg.pcp_count.shape[1]):
            if pg.pcp_count[cpu, zone]:
                free_pcppages_bulk(pg, zone, cpu, pg.pcp_count[cpu, zone], i64(0))
