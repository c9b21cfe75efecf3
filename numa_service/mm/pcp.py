"""Pagesets (``struct per_cpu_pages``): each CPU's cache of free blocks of a zone (``mm/page_alloc.c``).

The profile's PAGESET_* rules say how they are filled and drained: in batches of fixed size, with hot and cold
ends of the lists (3.0); in batches that grow while pages are only freed (6.1); with an auto-tuned `high`
(6.12).
"""

from __future__ import annotations

from numa_service.mm.buddy import free_one_page, free_whole, mod_zone_free_pages, page_zone
from numa_service.mm.fallback import rmqueue_run
from numa_service.mm.internal import ALLOC_COLD
from numa_service.mm.jit import flag, i64, kernel
from numa_service.mm.lists import (
    RUN,
    chain_up,
    length_of_chain,
    length_of_run,
    list_add,
    list_add_tail,
    list_append,
    list_del,
    list_del_run,
    may_be_chain,
    may_be_run,
    pcp_list,
)
from numa_service.mm.mmzone import (
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_NR_PAGES,
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
from numa_service.mm.tracepoints import trace_drain
from numa_service.mm.variants import BLOCKS_AGREE, BLOCKS_STEAL, PAGESET_AUTO_TUNED, PAGESET_HOT_COLD
from numa_service.mm.vmstat import NR_FREE_PAGES, PATH_PAGESET_PAGES

#: CONFIG_PCP_BATCH_SCALE_MAX: how many times a batch may double (6.7; in 6.1 since 6.1.104).
PCP_BATCH_SCALE_MAX = 5

#: ZONE_MOVABLE has the same index in every architecture here.
_ZONE_MOVABLE = 3


@kernel(inline=True)  # mm_order3
def pcp_allowed_order(pg: PgData, order: int) -> bool:
    """Whether pagesets keep blocks of this order (pcp_allowed_order)."""
    if order <= pg.tune[TUNE_PCP_MAX_ORDER]:
        return True
    return order == PAGEBLOCK_ORDER and pg.tune[TUNE_PCP_MAX_ORDER] > 0


@kernel(inline=True)  # mm_order3
def order_to_pindex(order: int, mt: int) -> int:
    """Number of the pageset list of an order and migratetype (order_to_pindex of 6.1)."""
    if order == PAGEBLOCK_ORDER:
        return PCP_THP
    return MIGRATE_PCPTYPES * order + mt


@kernel(inline=True)  # mm_order3
def _pindex(pg: PgData, order: int, mt: int) -> int:
    """:func:`order_to_pindex`; 6.12 has a second list for movable huge pages."""
    if order == PAGEBLOCK_ORDER and mt == MIGRATE_MOVABLE and pg.tune[TUNE_PAGESET] == PAGESET_AUTO_TUNED:
        return PCP_THP_MOVABLE
    return order_to_pindex(order, mt)


@kernel(inline=True)  # mm_order9
def _pindex_to_order(pindex: int) -> int:
    """Order of the blocks on a pageset list (pindex_to_order)."""
    if pindex >= PCP_THP:
        return PAGEBLOCK_ORDER
    return pindex // MIGRATE_PCPTYPES


# allocation


@kernel
def _pcp_high_clamped(pg: PgData, zone: int, cpu: int) -> int:
    """Clamp per_cpu_pages.high to [high_min, high_max], store and return it."""
    low = pg.pcp_high[zone]
    high = max(low, min(pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW], pg.pcp_high_max[zone]))
    pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW] = high
    return high


@kernel
def _nr_pcp_alloc(pg: PgData, zone: int, cpu: int, order: int) -> int:
    """Blocks to refill an auto-tuned pageset with; doubles while no page is freed (nr_pcp_alloc, 6.12)."""
    base = pg.pcp_batch[zone]
    high_max = pg.pcp_high_max[zone]
    high = _pcp_high_clamped(pg, zone, cpu)
    if high < base:
        return 1
    factor = pg.pcp_tuning[cpu, zone, PCP_ALLOC_FACTOR]
    batch = base if order else base << factor
    if pg.pcp_high[zone] < high_max and not pg.zone_flags[zone] & ZONE_BELOW_HIGH:
        # a larger pageset would have avoided this refill
        high = min(high + batch, high_max)
        pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW] = high
    if order == 0:
        most = max(high - pg.pcp_count[cpu, zone] - base, base)
        if batch <= most and factor < PCP_BATCH_SCALE_MAX:
            pg.pcp_tuning[cpu, zone, PCP_ALLOC_FACTOR] = factor + 1
        batch = min(batch, most)
    return max(batch >> order, 2) if batch > 1 else batch


@kernel
def _add_run_tail(pg: PgData, first: int, count: int, mt: int, head: int) -> None:
    """Put adjacent free pages, ascending, at the end of a pageset list."""
    if pg.tune[TUNE_PAGESET] == PAGESET_HOT_COLD:
        pg.pcptype[first : first + count] = mt  # page_private: the list to which it is freed
    pg.flags[first : first + count] = PG_PCP
    pg.order[first : first + count] = 0
    chain_up(pg.next, pg.prev, first, count)
    list_append(pg.next, pg.prev, first, first + count - 1, head)


@kernel(inline=True)  # mm_order0_32k
def _rmqueue_bulk(pg: PgData, zone: int, cpu: int, order: int, mt: int, alloc_flags: int, head: int) -> None:
    """Refill an empty pageset list with a batch from the buddy lists, in the order taken (rmqueue_bulk)."""
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
        got += run
        if order == 0 and run >= RUN and not alloc_flags & ALLOC_COLD:
            _add_run_tail(pg, idx, run, mt, head)
            continue
        for _ in range(run):
            if rules == PAGESET_HOT_COLD:
                pg.pcptype[idx] = mt  # page_private: the list to which it is freed
            pg.flags[idx] = PG_PCP
            pg.order[idx] = order
            if alloc_flags & ALLOC_COLD:
                list_add(pg.next, pg.prev, idx, head)
            else:
                list_add_tail(pg.next, pg.prev, idx, head)
            idx += 1 << order
    pg.pcp_count[cpu, zone] += got << order
    mod_zone_free_pages(pg, zone, cpu, -(got << order))


@kernel(inline=True)  # mm_order0_32k
def rmqueue_pcplist(pg: PgData, zone: int, cpu: int, order: int, mt: int, alloc_flags: int) -> int:
    """Take a block from the CPU's pageset, refilled if its list is empty; -1 if that fails (rmqueue_pcplist).

    With ALLOC_COLD the block comes from the tail of the list.
    """
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
    """Take blocks off a pageset list into out[at:], until `out` is full or the list empty; returns how many.

    The result is the same as that of repeated :func:`rmqueue_pcplist`, as long as the list is not empty.
    """
    head = pcp_list(pg, cpu, zone, _pindex(pg, order, mt))
    page = i64(pg.next[head])
    count = pg.pcp_count[cpu, zone]
    # runs are looked for at `look`, more and more seldom while there is none: at each block it would take
    # longer than it saves
    end = look = at
    gap = RUN
    while page != head and end < out.shape[0]:
        if order == 0 and end >= look:
            most = min(out.shape[0] - end, count - (end - at))
            look = end + gap
            gap += gap
            if may_be_chain(pg.next, page, most):
                part = out[end : end + length_of_chain(pg.next, page, most)]
                for i in range(part.shape[0]):
                    part[i] = page + i
                end += part.shape[0]
                look = end
                gap = RUN
                page = i64(pg.next[page + part.shape[0] - 1])
                continue
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


@kernel
def _whole_at_tail(pg: PgData, page: int, most: int) -> int:
    """How many pages from `page` on, the last of its pageset list, can be freed as one block; at least 1.

    They are adjacent, ascend towards the head of the list, are of one type, and together an aligned block.
    """
    lowest_bit = page | PAGEBLOCK_NR_PAGES
    pages = lowest_bit & -lowest_bit
    run = length_of_chain(pg.prev, page, min(most, pages))
    while pages > run:
        pages >>= 1
    types = pg.pcptype[page : page + pages]
    other = 0
    for i in range(types.shape[0]):
        other |= types[i] ^ types[0]
    return pages if other == 0 else 1


@kernel(inline=True)  # mm_order0_random_free
def _free_last(pg: PgData, zone: int, cpu: int, head: int, order: int, most: int) -> int:
    """Free the last block of a pageset list to the buddy lists, or up to `most` pages that are a whole block.

    Returns how many were freed. The result is the same as that of freeing them one by one (loop body of
    free_pcppages_bulk).
    """
    page = i64(pg.prev[head])
    blocks = i64(1)
    if order == 0 and page & (RUN - 1) == 0 and may_be_chain(pg.prev, page, most):
        blocks = _whole_at_tail(pg, page, most)
    end = page + blocks
    last = pg.prev[end - 1]
    pg.prev[head] = last
    pg.next[last] = head
    pg.pcp_count[cpu, zone] -= blocks << order
    mt = i64(pg.pcptype[page])
    rules = pg.tune[TUNE_BLOCKS]
    if rules >= BLOCKS_AGREE or (rules == BLOCKS_STEAL and pg.reserves[zone, NR_ISOLATE_PAGEBLOCKS]):
        # 6.12 always goes by the pageblock's type; 6.1 does if a pageblock may have been isolated meanwhile
        mt = i64(pg.pb_migratetype[page >> PAGEBLOCK_ORDER])
    if blocks > 1:
        pg.flags[page:end] = 0
        free_whole(pg, zone, cpu, page, order, blocks, mt)
    else:
        pg.flags[page] = 0
        pg.order[page] = 0
        free_one_page(pg, zone, cpu, page, order, mt, flag(False))
    if pg.trace_ctl[TRACE_ON]:
        for freed in range(page, end):
            trace_drain(pg, zone, cpu, freed, order, mt)
    return blocks


@kernel
def _free_round_robin(pg: PgData, zone: int, cpu: int, count: int) -> None:
    """Free `count` pages from the lists in turn (free_pcppages_bulk of 3.0).

    Each list gives one page, and one more for every empty list that came just before it. Types have their
    turn in the order of 3.0's numbers: unmovable, reclaimable, movable.
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
            due = count  # no other list has pages
        while count > 0 and due > 0 and pg.next[head] != head:
            freed = _free_last(pg, zone, cpu, head, i64(0), min(count, due))
            count -= freed
            due -= freed


@kernel
def free_pcppages_bulk(pg: PgData, zone: int, cpu: int, count: int, pindex: int) -> None:
    """Free `count` pages of a pageset to the buddy lists (free_pcppages_bulk).

    It goes over the lists round-robin, beginning with `pindex`, and takes blocks from their tails.
    """
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
            most = (count + (1 << order) - 1) >> order
            count -= _free_last(pg, zone, cpu, head, order, most) << order


@kernel(inline=True)  # mm_order3
def _nr_pcp_high(pg: PgData, zone: int, free_high: bool) -> int:
    """Pages that a pageset may hold now; few while kswapd runs, none with `free_high` (nr_pcp_high, 6.1)."""
    high = pg.pcp_high[zone]
    if high == 0 or free_high:
        return 0
    if pg.zone_flags[zone] & ZONE_RECLAIM_ACTIVE:
        return min(pg.pcp_batch[zone] << 2, high)
    return high


@kernel(inline=True)  # mm_order3
def _nr_pcp_free(pg: PgData, zone: int, cpu: int, high: int, free_high: bool) -> int:
    """Pages to free from a pageset that is full; doubles while pages are only freed (nr_pcp_free, 6.1)."""
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
    """Pages that an auto-tuned pageset may hold now; also adapts `high` for later (nr_pcp_high of 6.12)."""
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
            # raise `high` so that the pageset can hold what is freed in one go
            pg.pcp_tuning[cpu, zone, PCP_HIGH_NOW] = max(floor, min(need, ceiling))
    return high


@kernel
def _free_auto_tuned(pg: PgData, zone: int, cpu: int, order: int, pindex: int) -> None:
    """Drain an auto-tuned pageset after a block was put on it (free_unref_page_commit of 6.12).

    The more pages have been freed in a row, the more are given back to the buddy lists.
    """
    tuning = pg.pcp_tuning
    batch = pg.pcp_batch[zone]
    tuning[cpu, zone, PCP_ALLOC_FACTOR] >>= 1
    count = pg.pcp_count[cpu, zone]
    free_high = False
    if 0 < order <= PAGE_ALLOC_COSTLY_ORDER:
        # PCPF_FREE_HIGH_BATCH is assumed: each CPU has a cache of more than three batches
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
        # in the order of clamp(): the upper bound wins
        to_free = min(max(pg.pcp_free_factor[cpu, zone], batch), high - batch)
    free_pcppages_bulk(pg, zone, cpu, to_free, pindex)
    if pg.zone_flags[zone] & ZONE_BELOW_HIGH:
        unusable = pg.reserves[zone, FREE_HIGHATOMIC] + pg.reserves[zone, FREE_CMA]
        mark = pg.watermark[zone, WMARK_HIGH] + pg.watermark_boost[zone]
        if pg.vm_stat[zone, NR_FREE_PAGES] - unusable > mark + pg.lowmem_reserve[zone, _ZONE_MOVABLE]:
            pg.zone_flags[zone] &= ~ZONE_BELOW_HIGH


@kernel(inline=True)  # mm_order3
def room_before_drain(pg: PgData, zone: int, cpu: int, order: int) -> int:
    """Blocks of this order that can be freed to the pageset before one makes it drain.

    0 under 6.12, where `high` may change with every block.
    """
    rules = pg.tune[TUNE_PAGESET]
    if rules == PAGESET_AUTO_TUNED:
        return 0
    if rules == PAGESET_HOT_COLD:
        high = pg.pcp_high[zone]
    else:
        high = _nr_pcp_high(pg, zone, _drains_high_orders(pg, zone, cpu, order))
    return max(high - 1 - pg.pcp_count[cpu, zone], 0) >> order


@kernel
def _put_run(pg: PgData, first: int, count: int, mt: int, before: int) -> None:
    """Move adjacent pages from their owner's list to the pageset list that begins with `before`.

    Each becomes the first, so that they descend. The caller links the head of the list with the last of them.
    """
    end = first + count
    list_del_run(pg.next, pg.prev, first, end - 1)
    pg.flags[first:end] = PG_PCP
    pg.pcptype[first:end] = mt
    pg.refcount[first:end] = 0
    pg.owner[first:end] = 0
    chain_up(pg.prev, pg.next, first, count)
    pg.next[first] = before
    pg.prev[before] = first


@kernel(inline=True)  # mm_order9
def free_unref_run(pg: PgData, zone: int, cpu: int, pages: I64, at: int, order: int, most: int) -> int:
    """Free up to `most` blocks pages[at:] to the pageset while they are of one zone and one type.

    Returns how many. The result is the same as that of repeated :func:`free_unref_page` without a drain.
    It also takes the blocks off their owner's list.
    """
    head = -1
    first = i64(0)
    run_mt = -1
    run = look = 0  # as in take_run()
    gap = RUN
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
        if order == 0 and run >= look:
            left = min(most - run, pages.shape[0] - at - run)
            look = run + gap
            gap += gap
            if may_be_run(pages, at + run, left) and may_be_chain(pg.next, idx, left):
                left = min(left, PAGEBLOCK_NR_PAGES - (idx & (PAGEBLOCK_NR_PAGES - 1)))
                left = length_of_chain(pg.next, idx, length_of_run(pages, at + run, left))
                _put_run(pg, idx, left, mt, first)
                first = idx + left - 1
                run += left
                look = run
                gap = RUN
                continue
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
    """Whether orders 1 to 3 are not kept, since pages have only been freed lately (free_high of 6.1)."""
    return pg.pcp_free_factor[cpu, zone] != 0 and 0 < order <= PAGE_ALLOC_COSTLY_ORDER


@kernel(inline=True)  # mm_order3
def free_unref_page(pg: PgData, zone: int, cpu: int, idx: int, order: int, mt: int, cold: bool) -> None:
    """Free a block to the CPU's pageset, and drain that if it holds `high` pages (free_unref_page_commit).

    A `cold` block goes to the tail of its list.
    """
    # types without a pageset list use the movable one, but are freed to their own free list
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
