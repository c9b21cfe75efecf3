"""Access, unmapping and migration of region pages by page table (``mm/memory.c``, ``mm/migrate.c``)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from numa_service.mm.buddy import page_zone
from numa_service.mm.jit import flag, i64, kernel
from numa_service.mm.lists import list_del
from numa_service.mm.mmzone import HUGE_INDEX, PAGEBLOCK_NR_PAGES
from numa_service.mm.page_alloc import free_prepared_page
from numa_service.mm.page_table import TABLE_SHIFT, page_of, single_page_of
from numa_service.mm.pgdata import (
    I64,
    PG_ACTIVE,
    PG_DIRTY,
    PG_REFERENCED,
    PG_SWAPBACKED,
    PG_YOUNG,
    U32,
    PgData,
)
from numa_service.mm.swap import activate_page, lru_cache_add, unmap_lru_page
from numa_service.mm.vmstat import NR_DIRTIED, NR_FILE_DIRTY, PGACTIVATE


@kernel
def touch_pages(
    pg: PgData,
    ptes: U32,
    directory: U32,
    owner: int,
    indexes: U32,
    write: bool,
    gone: npt.NDArray[np.uint8],
) -> int:
    """Access pages `indexes` of an owner's region; returns how many of them are not here (any more).

    `gone` gets 1 for those, 2 for huge pages that are none any more, and 0 for the others. A file page is
    activated at its second access (mark_page_accessed); an anonymous page becomes young (pte_mkyoung), and
    reclaim decides.
    """
    nr_gone = 0
    for i in range(indexes.shape[0]):
        index = i64(indexes[i])
        if index & HUGE_INDEX:
            idx = page_of(pg, ptes, directory, owner, index & ~HUGE_INDEX)
            if idx < 0 or not pg.order[idx]:
                gone[i] = 2
                continue
        else:
            idx = single_page_of(pg, ptes, directory, owner, index)
        if idx < 0:
            gone[i] = 1
            nr_gone += 1
            continue
        gone[i] = 0
        flags = pg.flags[idx]
        zone = page_zone(pg, idx)
        if write and not flags & (PG_DIRTY | PG_SWAPBACKED):
            flags |= PG_DIRTY
            pg.node_stat[NR_FILE_DIRTY] += 1
            pg.node_stat[NR_DIRTIED] += 1
        if flags & PG_SWAPBACKED:
            flags |= PG_YOUNG
        elif not flags & PG_REFERENCED or flags & PG_ACTIVE:
            flags |= PG_REFERENCED
        else:
            activate_page(pg, zone, idx)
            pg.vm_event[PGACTIVATE] += 1
            flags = (flags | PG_ACTIVE) & ~PG_REFERENCED
        pg.flags[idx] = flags
    return nr_gone


@kernel
def zap_pages(pg: PgData, ptes: U32, directory: U32, owner: int, indexes: U32, whole: bool, cpu: int) -> int:
    """Free the pages that a region has at `indexes`, or with `whole` all of its pages, ascending.

    Returns how many there were (zap_page_range). Both cases are one kernel, since each would be compiled with
    its own copy of all ways to free a page. Of a huge page that has been split, what is left goes.
    """
    freed = 0
    end = i64(directory.shape[0] << TABLE_SHIFT) if whole else i64(indexes.shape[0])
    i = part = i64(0)
    while i < end:
        index = i if whole else i64(indexes[i])
        if whole and directory[index >> TABLE_SHIFT] == 0:
            i = ((index >> TABLE_SHIFT) + 1) << TABLE_SHIFT
            continue
        if whole or not index & HUGE_INDEX:
            i += 1
            idx = (
                page_of(pg, ptes, directory, owner, index)
                if whole
                else single_page_of(pg, ptes, directory, owner, index)
            )
        else:
            idx = page_of(pg, ptes, directory, owner, (index & ~HUGE_INDEX) + part)
            part += PAGEBLOCK_NR_PAGES if idx >= 0 and pg.order[idx] else 1
            if part >= PAGEBLOCK_NR_PAGES:
                i += 1
                part = i64(0)
        if idx < 0:
            continue
        zone, order = page_zone(pg, idx), i64(pg.order[idx])
        unmap_lru_page(pg, zone, idx)
        free_prepared_page(pg, zone, cpu, idx, order, flag(False))
        freed += 1 << order
    return freed


@kernel
def add_held_to_lru(pg: PgData, pages: I64, indexes: U32, anon: bool, dirty: bool) -> None:
    """Turn blocks that an owner holds by hand, single or huge, into pages `indexes` of its region."""
    for i in range(pages.shape[0]):
        idx = pages[i]
        list_del(pg.next, pg.prev, idx)
        pg.pgoff[idx] = i64(indexes[i]) & ~HUGE_INDEX
        pg.mapcount[idx] = 1
        lru_cache_add(pg, page_zone(pg, idx), idx, anon, dirty)
