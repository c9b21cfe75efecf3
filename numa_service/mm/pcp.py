"""Per-CPU pagesets: the order-0…3 and huge-page caches in front of the buddy lists (``mm/page_alloc.c``)."""

from __future__ import annotations

from numa_service.mm.buddy import free_one_page, rmqueue
from numa_service.mm.jit import flag, i64, kernel
from numa_service.mm.lists import list_add, list_add_tail, list_del, pcp_list
from numa_service.mm.mmzone import (
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_ORDER,
)
from numa_service.mm.pgdata import (
    NR_PCP_LISTS,
    PCP_THP,
    PG_PCP,
    TUNE_PCP_MAX_ORDER,
    ZONE_RECLAIM_ACTIVE,
    PgData,
)
from numa_service.mm.vmstat import PATH_PAGESET_PAGES

#: CONFIG_PCP_BATCH_SCALE_MAX: how often the batch that is freed doubles (6.1 has it since 6.1.104).
PCP_BATCH_SCALE_MAX = 5


@kernel
def pcp_allowed_order(pg: PgData, order: int) -> bool:
    """Orders that pagesets keep."""
    if order <= pg.tune[TUNE_PCP_MAX_ORDER]:
        return True
    return order == PAGEBLOCK_ORDER and pg.tune[TUNE_PCP_MAX_ORDER] > 0


@kernel
def order_to_pindex(order: int, mt: int) -> int:
    """Pageset list of an order and type."""
    if order == PAGEBLOCK_ORDER:
        return PCP_THP
    return MIGRATE_PCPTYPES * order + mt


@kernel
def _pindex_to_order(pindex: int) -> int:
    if pindex == PCP_THP:
        return PAGEBLOCK_ORDER
    return pindex // MIGRATE_PCPTYPES


@kernel
def rmqueue_pcplist(pg: PgData, zone: int, cpu: int, order: int, mt: int, alloc_flags: int) -> int:
    """A block from the CPU's pageset, refilled with a batch when its list is empty; -1 if that fails."""
    pg.pcp_free_factor[cpu, zone] >>= 1
    head = pcp_list(pg, cpu, zone, order_to_pindex(order, mt))
    if pg.next[head] == head:
        batch = pg.pcp_batch[zone]
        if batch > 1:
            batch = max(batch >> order, 2)
        for _ in range(batch):
            idx = rmqueue(pg, zone, order, mt, alloc_flags)
            if idx < 0:
                break
            pg.flags[idx] = PG_PCP
            pg.order[idx] = order
            list_add_tail(pg.next, pg.prev, idx, head)
            pg.pcp_count[cpu, zone] += 1 << order
        if pg.next[head] == head:
            return -1
    page = i64(pg.next[head])
    list_del(pg.next, pg.prev, page)
    pg.pcp_count[cpu, zone] -= 1 << order
    pg.path[PATH_PAGESET_PAGES] += 1
    return page


@kernel
def free_pcppages_bulk(pg: PgData, zone: int, cpu: int, count: int, pindex: int) -> None:
    """Give pages of a pageset back to the buddy lists, round-robin over its lists, oldest first."""
    count = min(pg.pcp_count[cpu, zone], count)
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
            page = i64(pg.prev[head])
            list_del(pg.next, pg.prev, page)
            pg.flags[page] = 0
            pg.order[page] = 0
            pg.pcp_count[cpu, zone] -= 1 << order
            count -= 1 << order
            free_one_page(pg, zone, page, order, i64(pg.pcptype[page]), flag(False))


@kernel
def _nr_pcp_high(pg: PgData, zone: int, free_high: bool) -> int:
    high = pg.pcp_high[zone]
    if high == 0 or free_high:
        return 0
    if pg.zone_flags[zone] & ZONE_RECLAIM_ACTIVE:
        return min(pg.pcp_batch[zone] << 2, high)
    return high


@kernel
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
def free_unref_page(pg: PgData, zone: int, cpu: int, idx: int, order: int, mt: int) -> None:
    """Free a block onto the CPU's pageset; above `high`, a batch goes on to the buddy lists."""
    # types without a pageset list ride on the movable one, but go back to their own free list
    pindex = order_to_pindex(order, mt if mt < MIGRATE_PCPTYPES else MIGRATE_MOVABLE)
    pg.flags[idx] = PG_PCP
    pg.order[idx] = order
    pg.pcptype[idx] = mt
    list_add(pg.next, pg.prev, idx, pcp_list(pg, cpu, zone, pindex))
    pg.pcp_count[cpu, zone] += 1 << order
    pg.path[PATH_PAGESET_PAGES] += 1
    free_high = pg.pcp_free_factor[cpu, zone] != 0 and 0 < order <= PAGE_ALLOC_COSTLY_ORDER
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
