"""Adding pages to LRU lists and taking them off, with the counters of both (``mm/swap.c``)."""

from __future__ import annotations

from numa_service.mm.jit import i64, kernel
from numa_service.mm.lists import list_add, list_del, lru_list
from numa_service.mm.mmzone import LRU_ACTIVE_ANON, LRU_INACTIVE_ANON, LRU_INACTIVE_FILE
from numa_service.mm.pgdata import PG_ACTIVE, PG_DIRTY, PG_HELD, PG_LRU, PG_SWAPBACKED, PG_YOUNG, PgData
from numa_service.mm.vmstat import (
    NR_ANON_MAPPED,
    NR_DIRTIED,
    NR_FILE_DIRTY,
    NR_FILE_PAGES,
    NR_ZONE_LRU_BASE,
)


@kernel
def page_lru(flags: int) -> int:
    """LRU list that a page with these flags is on (folio_lru_list)."""
    lru = LRU_INACTIVE_ANON if flags & PG_SWAPBACKED else LRU_INACTIVE_FILE
    if flags & PG_ACTIVE:
        lru += LRU_ACTIVE_ANON - LRU_INACTIVE_ANON
    return lru


@kernel
def lru_cache_add(pg: PgData, zone: int, idx: int, anon: bool, dirty: bool) -> None:
    """Put a new page at the head of an inactive list; an anonymous one is young, as a fault accesses it.

    A huge page, whose order the caller has set, is one entry of its list, and counts as all of its pages.
    """
    pages = 1 << i64(pg.order[idx])
    if anon:
        lru = LRU_INACTIVE_ANON
        pg.flags[idx] = PG_HELD | PG_LRU | PG_SWAPBACKED | PG_YOUNG
        pg.node_stat[NR_ANON_MAPPED] += pages
    else:
        lru = LRU_INACTIVE_FILE
        pg.flags[idx] = PG_HELD | PG_LRU
        pg.node_stat[NR_FILE_PAGES] += 1
        if dirty:
            pg.flags[idx] |= PG_DIRTY
            pg.node_stat[NR_FILE_DIRTY] += 1
            pg.node_stat[NR_DIRTIED] += 1
    list_add(pg.next, pg.prev, idx, lru_list(pg, zone, lru))
    pg.vm_stat[zone, NR_ZONE_LRU_BASE + lru] += pages


@kernel
def unmap_lru_page(pg: PgData, zone: int, idx: int) -> None:
    """Take a page that will be freed off its LRU list, out of the counters and out of its region.

    (del_page_from_lru_list, page_remove_rmap.)
    """
    flags, pages = pg.flags[idx], 1 << i64(pg.order[idx])
    pg.mapcount[idx] = 0
    pg.pgoff[idx] = 0
    list_del(pg.next, pg.prev, idx)
    pg.vm_stat[zone, NR_ZONE_LRU_BASE + page_lru(flags)] -= pages
    if flags & PG_SWAPBACKED:
        pg.node_stat[NR_ANON_MAPPED] -= pages
    else:
        pg.node_stat[NR_FILE_PAGES] -= 1
        if flags & PG_DIRTY:
            pg.node_stat[NR_FILE_DIRTY] -= 1


@kernel
def activate_page(pg: PgData, zone: int, idx: int) -> None:
    """Move an inactive page to the head of the active list; the caller sets PG_ACTIVE (folio_activate)."""
    lru, pages = page_lru(pg.flags[idx]), 1 << i64(pg.order[idx])
    list_del(pg.next, pg.prev, idx)
    list_add(pg.next, pg.prev, idx, lru_list(pg, zone, lru + 1))
    pg.vm_stat[zone, NR_ZONE_LRU_BASE + lru] -= pages
    pg.vm_stat[zone, NR_ZONE_LRU_BASE + lru + 1] += pages
