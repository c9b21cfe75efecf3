"""Allocation and freeing of blocks in the zones of one node (``mm/page_alloc.c``).

One call serves a whole batch, so that the loop over blocks is compiled code. The rest of the zonelist on
other nodes, retries and reclaim are the slow path's (``node/page_alloc.py``). Blocks are named by the index
of their first page in mem_map.
"""

from __future__ import annotations

from numa_service.mm.buddy import (
    free_one_page,
    mod_zone_free_pages,
    page_zone,
    rmqueue_smallest,
)
from numa_service.mm.fallback import reserve_highatomic_pageblock, rmqueue, take_counted
from numa_service.mm.internal import (
    ALLOC_CMA,
    ALLOC_COLD,
    ALLOC_FAIR,
    ALLOC_HARDER,
    ALLOC_HIGHATOMIC,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
)
from numa_service.mm.jit import flag, i64, kernel
from numa_service.mm.lists import RUN, chain_up, length_of_run, list_del, may_be_run, owner_list
from numa_service.mm.mmzone import (
    HUGE_INDEX,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_MOVABLE,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    WMARK_HIGH,
    WMARK_LOW,
)
from numa_service.mm.pcp import (
    free_unref_page,
    free_unref_run,
    pcp_allowed_order,
    rmqueue_pcplist,
    room_before_drain,
    take_run,
)
from numa_service.mm.pgdata import (
    EXPLAIN_ON,
    I64,
    PG_BUDDY,
    PG_HELD,
    PG_HOLE,
    PG_LRU,
    PG_PCP,
    PG_RESERVED,
    PG_VISITED,
    TRACE_ON,
    TUNE_FAIR,
    TUNE_WATERMARK,
    U32,
    ZONE_BOOSTED_WATERMARK,
    ZONE_FAIR_DEPLETED,
    PgData,
)
from numa_service.mm.swap import lru_cache_add
from numa_service.mm.tracepoints import (
    MM_PAGE_ALLOC,
    MM_PAGE_FREE,
    MM_PAGE_FREE_BATCHED,
    NO_FIELD,
    trace_page,
    trace_pages,
)
from numa_service.mm.variants import WMARK_FREE_RESERVE, WMARK_NON_BLOCK, WMARK_PER_ORDER
from numa_service.mm.vmstat import (
    NUMA_HIT,
    NUMA_INTERLEAVE_HIT,
    NUMA_LOCAL,
    NUMA_MISS,
    NUMA_OTHER,
    PATH_ZONE_SKIPS,
    PGALLOC,
    PGFREE,
)
from numa_service.mm.zone_watermark import may_take_from, note_fair_share, note_nothing_taken, note_visit

# lru_kind: what allocated pages become
LRU_KIND_NONE = 0  # blocks that the owner holds by hand, on no LRU list
LRU_KIND_ANON = 1  # anonymous pages of the owner's region
LRU_KIND_FILE = 2  # file pages of the owner's region

# numa_how: bits by which zone_statistics() counts an allocation here
NUMA_HOW_HIT = 1  # this is the preferred node
NUMA_HOW_LOCAL = 2  # this is the node of the running CPU
NUMA_HOW_INTERLEAVE = 4  # this node was chosen by interleaving

# reasons why a block may not be freed; mm/serve.py has their texts
FREE_OK = 0
FREE_OUT_OF_RANGE = 1
FREE_PAGE_FREE = 2
FREE_ON_PAGESET = 3
FREE_RESERVED = 4
FREE_TAIL_PAGE = 5
FREE_WRONG_ORDER = 6
FREE_NOT_OWNER = 7
FREE_TWICE_IN_BATCH = 8
FREE_LRU_PAGE = 9

#: pb_migratetype of a pageblock without memory: a hole, or off-line.
NO_PAGEBLOCK = 0xFF


@kernel(inline=True)  # mm_order9
def _rmqueue(pg: PgData, zone: int, cpu: int, order: int, mt: int, alloc_flags: int) -> int:
    """Take a block from the CPU's pageset if it keeps that order, else from the buddy lists; -1 if none.

    (rmqueue, rmqueue_buddy.) `cpu` is -1 for an allocation that uses no pageset.
    """
    if cpu >= 0 and pcp_allowed_order(pg, order):
        idx = rmqueue_pcplist(pg, zone, cpu, order, mt, alloc_flags)
        if idx >= 0:
            return idx
    rules = pg.tune[TUNE_WATERMARK]
    idx = -1
    highatomic = i64(MIGRATE_HIGHATOMIC)
    if rules >= WMARK_NON_BLOCK:
        if alloc_flags & ALLOC_HIGHATOMIC:
            idx = rmqueue_smallest(pg, zone, order, highatomic)
    elif rules != WMARK_PER_ORDER and order > 0 and alloc_flags & ALLOC_HARDER:
        idx = rmqueue_smallest(pg, zone, order, highatomic)
    if idx < 0:
        idx = rmqueue(pg, zone, order, mt, alloc_flags)
    if idx < 0 and rules >= WMARK_NON_BLOCK:
        # rather use the high-atomic reserve than fail an OOM victim, and in 6.12 one that cannot wait
        urgent = ALLOC_OOM | ALLOC_NON_BLOCK if rules == WMARK_FREE_RESERVE else ALLOC_OOM
        if alloc_flags & urgent:
            idx = rmqueue_smallest(pg, zone, order, highatomic)
    if idx >= 0:
        take_counted(pg, zone, idx, order)
        mod_zone_free_pages(pg, zone, cpu, -(1 << order))
    return idx


@kernel
def _reserves_highatomic(pg: PgData, order: int, alloc_flags: int) -> bool:
    """Whether an allocation reserves its pageblock as MIGRATE_HIGHATOMIC (end of get_page_from_freelist)."""
    rules = pg.tune[TUNE_WATERMARK]
    if rules >= WMARK_NON_BLOCK:
        return alloc_flags & ALLOC_HIGHATOMIC != 0
    return order > 0 and alloc_flags & ALLOC_HARDER != 0 and rules != WMARK_PER_ORDER


@kernel
def _count_fair_share(pg: PgData, zone: int, pages: int) -> None:
    """Take pages off what a zone may give before others have their turn (end of buffered_rmqueue)."""
    pg.alloc_batch[zone] -= pages
    if pg.alloc_batch[zone] <= 0:
        pg.zone_flags[zone] |= ZONE_FAIR_DEPLETED


@kernel
def _reset_alloc_batches(pg: PgData, zones: I64) -> None:
    """Give every zone its share anew: as many pages as HIGH is above LOW (reset_alloc_batches)."""
    for i in range(zones.shape[0]):
        zone = zones[i]
        pg.alloc_batch[zone] = pg.watermark[zone, WMARK_HIGH] - pg.watermark[zone, WMARK_LOW]
        pg.zone_flags[zone] &= ~ZONE_FAIR_DEPLETED


@kernel(inline=True)  # mm_order9
def get_pages_from_freelist(
    pg: PgData,
    zones: I64,
    cpu: int,
    order: int,
    mt: int,
    highest_zoneidx: int,
    alloc_flags: int,
    in_runs: bool,
    out: I64,
    got: int,
) -> int:
    """Take one or more blocks from the first zone of this node that can give one (get_page_from_freelist).

    Their indexes go into out[got:]. Returns zone << 40 | number of blocks, or -1 if no zone can give one.
    `zones` are zone indexes in zonelist order. With ALLOC_NOFRAGMENT it first tries all zones without mixing
    migratetypes, and then again with mixing, before the node is given up. With ALLOC_FAIR it first tries the
    zones that have not given their share yet; if there is none, all get a new share and are tried again.

    With `in_runs` it takes as many blocks as the pageset list of the first good zone has. The result is the
    same as for one block a call: blocks on a pageset are not counted as free, so that no watermark check
    changes until the list is empty.
    """
    flags = alloc_flags
    tried = False
    while True:
        depleted = False
        for i in range(zones.shape[0]):
            zone = zones[i]
            if flags & ALLOC_FAIR and pg.zone_flags[zone] & ZONE_FAIR_DEPLETED:
                depleted = True
                if pg.trace_ctl[EXPLAIN_ON]:
                    note_fair_share(pg, zone, order, highest_zoneidx, flags)
                pg.path[PATH_ZONE_SKIPS] += 1
                continue
            ok = may_take_from(pg, zone, order, highest_zoneidx, flags)
            if pg.trace_ctl[EXPLAIN_ON]:
                note_visit(pg, zone, order, highest_zoneidx, flags, ok)
            if not ok:
                pg.path[PATH_ZONE_SKIPS] += 1
                continue
            if in_runs and not tried:
                end = out.shape[0]
                if alloc_flags & ALLOC_FAIR:
                    # when the share is used up, another zone is tried for the next block
                    end = min(end, got + ((pg.alloc_batch[zone] - 1) >> order) + 1)
                run = take_run(pg, zone, cpu, order, mt, out[:end], got)
                if run:
                    if pg.tune[TUNE_FAIR]:
                        _count_fair_share(pg, zone, run << order)
                    pg.path[PATH_ZONE_SKIPS] += i * (run - 1)
                    return (zone << 40) | run
            tried = True
            idx = _rmqueue(pg, zone, cpu, order, mt, flags)
            if idx >= 0:
                if pg.tune[TUNE_FAIR]:
                    _count_fair_share(pg, zone, 1 << order)
                if _reserves_highatomic(pg, order, flags):
                    reserve_highatomic_pageblock(pg, zone, idx, order)
                out[got] = idx
                return (zone << 40) | 1
            if pg.trace_ctl[EXPLAIN_ON]:
                note_nothing_taken(pg, zone, order, flags)
        if depleted:
            _reset_alloc_batches(pg, zones)
        if not (flags & ALLOC_NOFRAGMENT or depleted):
            return -1
        flags &= ~(ALLOC_NOFRAGMENT | ALLOC_FAIR)


@kernel(inline=True)  # mm_order9
def _zone_statistics(pg: PgData, zone: int, numa_how: int, allocations: int) -> None:
    """Count NUMA events, one for each allocation whatever its order (zone_statistics)."""
    pg.numa_event[zone, NUMA_HIT if numa_how & NUMA_HOW_HIT else NUMA_MISS] += allocations
    pg.numa_event[zone, NUMA_LOCAL if numa_how & NUMA_HOW_LOCAL else NUMA_OTHER] += allocations
    if numa_how & NUMA_HOW_INTERLEAVE:
        pg.numa_event[zone, NUMA_INTERLEAVE_HIT] += allocations


@kernel(inline=True)  # mm_order9
def _hold(pg: PgData, owner: int, order: int, out: I64, start: int, end: int) -> None:
    """Mark the new blocks out[start:end] as held by an owner, and append them to the owner's list."""
    head = owner_list(pg, owner)
    last = i64(pg.prev[head])
    i = look = start  # as in take_run()
    gap = RUN
    while i < end:
        idx = out[i]
        pg.next[last] = idx
        pg.prev[idx] = last
        if order == 0 and i >= look:
            look = i + gap
            gap += gap
            if may_be_run(out, i, end - i):
                count = length_of_run(out, i, end - i)
                last = idx + count - 1
                pg.flags[idx : last + 1] = PG_HELD
                pg.order[idx : last + 1] = 0
                pg.refcount[idx : last + 1] = 1
                pg.owner[idx : last + 1] = owner
                chain_up(pg.next, pg.prev, idx, count)
                i = look = i + count
                gap = RUN
                continue
        pg.flags[idx] = PG_HELD
        pg.order[idx] = order
        pg.refcount[idx] = 1
        pg.owner[idx] = owner
        last = idx
        i += 1
    pg.next[last] = head
    pg.prev[head] = last


@kernel
def alloc_pages_bulk(
    pg: PgData,
    zones: I64,
    cpu: int,
    order: int,
    count: int,
    mt: int,
    highest_zoneidx: int,
    alloc_flags: int,
    numa_how: int,
    owner: int,
    lru_kind: int,
    indexes: U32,
    dirty: bool,
    out: I64,
) -> int:
    """Allocate up to `count` blocks for one owner; their indexes go into `out`. Returns how many it got.

    With an `lru_kind` they become pages `indexes` of the owner's region and go on an LRU list, blocks of more
    than a page as huge pages, with the bit HUGE_INDEX in their indexes; with LRU_KIND_NONE the owner holds
    them by hand. `numa_how` has NUMA_HOW_* bits, `alloc_flags` ALLOC_*
    bits.
    """
    got = i64(0)
    out = out[:count]
    if mt == MIGRATE_MOVABLE:
        alloc_flags |= ALLOC_CMA  # gfp_to_alloc_flags_cma
    one_by_one = alloc_flags & ALLOC_COLD != 0 or _reserves_highatomic(pg, order, alloc_flags)
    in_runs = cpu >= 0 and pcp_allowed_order(pg, order) and not one_by_one
    while got < count:
        found = get_pages_from_freelist(
            pg, zones, cpu, order, mt, highest_zoneidx, alloc_flags, in_runs, out, got
        )
        if found < 0:
            break
        zone = found >> 40
        end = got + (found & ((1 << 40) - 1))
        if pg.trace_ctl[TRACE_ON]:
            trace_pages(pg, i64(MM_PAGE_ALLOC), zone, out, got, end, order, mt)
        pg.vm_event[PGALLOC + zone] += (end - got) << order
        _zone_statistics(pg, zone, numa_how, end - got)
        pg.owner_pages[owner] += (end - got) << order
        if lru_kind == LRU_KIND_NONE:
            _hold(pg, owner, order, out, got, end)
        else:
            for i in range(got, end):
                idx = out[i]
                pg.order[idx] = order
                pg.refcount[idx] = 1
                pg.owner[idx] = owner
                pg.pgoff[idx] = i64(indexes[i]) & ~HUGE_INDEX
                pg.mapcount[idx] = 1
                lru_cache_add(pg, zone, idx, lru_kind == LRU_KIND_ANON, dirty)
        got = end
    return got


@kernel
def free_prepared_page(pg: PgData, zone: int, cpu: int, idx: int, order: int, cold: bool) -> None:
    """Free a block that is on no list any more: to the CPU's pageset, else to the buddy lists.

    (free_unref_page, __free_pages_ok.) `cpu` is -1 for a free that uses no pageset; a `cold` block goes to
    the tail of the pageset's list. A page of a region has to be unmapped first
    (:func:`~numa_service.mm.swap.unmap_lru_page`); blocks held by hand never are mapped.
    """
    if pg.trace_ctl[TRACE_ON]:
        trace_page(pg, i64(MM_PAGE_FREE), zone, idx, order, i64(NO_FIELD))
        if pg.flags[idx] & PG_LRU:
            # a kernel frees LRU pages in batches (free_unref_page_list): release_pages() and reclaim
            trace_page(pg, i64(MM_PAGE_FREE_BATCHED), zone, idx, order, i64(NO_FIELD))
    pg.vm_event[PGFREE] += 1 << order
    pg.owner_pages[pg.owner[idx]] -= 1 << order
    pg.flags[idx] = 0
    pg.order[idx] = 0
    pg.refcount[idx] = 0
    pg.owner[idx] = 0
    mt = i64(pg.pb_migratetype[idx >> PAGEBLOCK_ORDER])
    if cpu >= 0 and pcp_allowed_order(pg, order) and mt != MIGRATE_ISOLATE:
        free_unref_page(pg, zone, cpu, idx, order, mt, cold)
    else:
        free_one_page(pg, zone, cpu, idx, order, mt, flag(False))


@kernel
def page_state(pg: PgData, idx: int) -> int:
    """FREE_* reason that says what a page is which is not the head of an allocated block."""
    flags = pg.flags[idx]
    if flags & PG_HOLE or pg.pb_migratetype[idx >> PAGEBLOCK_ORDER] == NO_PAGEBLOCK:
        return FREE_OUT_OF_RANGE
    if flags & PG_RESERVED:
        return FREE_RESERVED
    if flags & PG_PCP:
        return FREE_ON_PAGESET
    if flags & PG_BUDDY:
        return FREE_PAGE_FREE
    for order in range(1, PAGEBLOCK_ORDER + 2):
        head = idx & ~((1 << order) - 1)
        if pg.order[head] >= order:
            if pg.flags[head] & PG_HELD:
                return FREE_TAIL_PAGE
            if pg.flags[head] & PG_PCP:
                return FREE_ON_PAGESET
    return FREE_PAGE_FREE


@kernel
def _check_free(pg: PgData, idx: int, order: int, owner: int) -> int:
    """FREE_* reason why a block may not be freed as one of `order` by `owner`; FREE_OK if it may."""
    if idx < 0 or idx >= pg.flags.shape[0] or page_zone(pg, idx) < 0:
        return FREE_OUT_OF_RANGE
    flags = pg.flags[idx]
    if flags & PG_VISITED:
        return FREE_TWICE_IN_BATCH
    if not flags & PG_HELD:
        return page_state(pg, idx)
    if pg.owner[idx] != owner:
        return FREE_NOT_OWNER
    if flags & PG_LRU:
        return FREE_LRU_PAGE
    if pg.order[idx] != order:
        return FREE_WRONG_ORDER
    return FREE_OK


@kernel
def _mark_run(pg: PgData, owner: int, pages: I64, at: int) -> int:
    """Mark adjacent pages from pages[at] on with PG_VISITED if the owner may free all; returns how many.

    0 if one may not be freed: then they have to be looked at one by one.
    """
    first = pages[at]
    if not 0 <= first < pg.flags.shape[0]:
        return 0
    run = length_of_run(pages, at, min(pages.shape[0] - at, PAGEBLOCK_NR_PAGES))
    end = first + run
    if end > pg.flags.shape[0]:
        return 0
    flags, owners, orders = pg.flags[first:end], pg.owner[first:end], pg.order[first:end]
    wrong = 0
    for i in range(flags.shape[0]):
        wrong |= flags[i] ^ PG_HELD
    for i in range(owners.shape[0]):
        wrong |= owners[i] ^ owner
    for i in range(orders.shape[0]):
        wrong |= orders[i]
    if wrong:
        return 0
    flags[:] = PG_HELD | PG_VISITED
    return run


@kernel
def free_hot_cold_pages(pg: PgData, cpu: int, order: int, owner: int, pages: I64, cold: bool) -> int:
    """Free blocks of one order that an owner holds by hand: all of them, or none if one may not be freed.

    Returns 0, or position << 8 | FREE_* reason of the first block that may not be freed. `cold` blocks go to
    the tail of the pageset's list (free_hot_cold_page of 3.0).
    """
    i = look = i64(0)  # as in take_run()
    gap = RUN
    while i < pages.shape[0]:
        idx = pages[i]
        if order == 0 and i >= look:
            look = i + gap
            gap += gap
            if may_be_run(pages, i, pages.shape[0] - i):
                run = _mark_run(pg, owner, pages, i)
                if run:
                    i = look = i + run
                    gap = RUN
                    continue
        if (
            0 <= idx < pg.flags.shape[0]
            and pg.flags[idx] == PG_HELD
            and pg.owner[idx] == owner
            and pg.order[idx] == order
        ):
            pg.flags[idx] = PG_HELD | PG_VISITED
            i += 1
            continue
        reason = _check_free(pg, idx, order, owner)
        for j in range(i):
            pg.flags[pages[j]] = PG_HELD
        pg.bad_pages[reason] += 1
        return (i << 8) | reason
    in_runs = cpu >= 0 and pcp_allowed_order(pg, order) and not cold
    i = i64(0)
    while i < pages.shape[0]:
        zone = page_zone(pg, pages[i])
        run = i64(0)
        if in_runs:
            room = room_before_drain(pg, zone, cpu, order)
            run = free_unref_run(pg, zone, cpu, pages, i, order, room)
            pg.vm_event[PGFREE] += run << order
            pg.owner_pages[owner] -= run << order
            if pg.trace_ctl[TRACE_ON]:
                trace_pages(pg, i64(MM_PAGE_FREE), zone, pages, i, i + run, order, i64(NO_FIELD))
        if run == 0:
            list_del(pg.next, pg.prev, pages[i])
            free_prepared_page(pg, zone, cpu, pages[i], order, cold)
            run = i64(1)
        i += run
    return 0


@kernel
def free_pages_bulk(pg: PgData, cpu: int, order: int, owner: int, pages: I64) -> int:
    """:func:`free_hot_cold_pages` for blocks that are not cold."""
    return free_hot_cold_pages(pg, cpu, order, owner, pages, flag(False))


@kernel
def free_owner_pages(pg: PgData, owner: int, cpu: int) -> int:
    """Free every block that an owner holds by hand; returns pages freed."""
    head = owner_list(pg, owner)
    freed = 0
    while pg.next[head] != head:
        idx = i64(pg.next[head])
        order = i64(pg.order[idx])
        list_del(pg.next, pg.prev, idx)
        freed += 1 << order
        free_prepared_page(pg, page_zone(pg, idx), cpu, idx, order, flag(False))
    return freed


@kernel
def take_boosted(pg: PgData) -> bool:
    """Clear ZONE_BOOSTED_WATERMARK; True if a zone had it set, so that kswapd has to be woken (rmqueue)."""
    boosted = False
    for zone in range(pg.zone_flags.shape[0]):
        if pg.zone_flags[zone] & ZONE_BOOSTED_WATERMARK:
            pg.zone_flags[zone] &= ~ZONE_BOOSTED_WATERMARK
            boosted = True
    return boosted
