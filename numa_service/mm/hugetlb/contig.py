"""Gigantic pages: ranges of consecutive pages that no free list has (``alloc_contig_pages``)."""

from __future__ import annotations

import numpy as np

from numa_service.mm.buddy import del_from_free_list
from numa_service.mm.lists import list_add_tail, owner_list
from numa_service.mm.memory_hotplug import free_blocks, unmovable
from numa_service.mm.mmzone import MIGRATE_CMA, MIGRATE_ISOLATE, PAGEBLOCK_ORDER
from numa_service.mm.page_alloc import NO_PAGEBLOCK
from numa_service.mm.pgdata import PG_HELD, PgData


def find_gigantic(pg: PgData, zone: int, base_pfn: int, order: int, from_pfn: int) -> int | None:
    """Return the first pfn from `from_pfn` on at which 2^`order` pages of a zone could be made free.

    The range is aligned to its size; all its pages are free or can be moved. None if there is none.
    """
    size = 1 << order
    start = max(int(pg.zone_start[zone]) + base_pfn, from_pfn)
    for pfn in range(-(-start // size) * size, int(pg.zone_end[zone]) + base_pfn - size + 1, size):
        first, end = pfn - base_pfn, pfn - base_pfn + size
        blocks = slice(first >> PAGEBLOCK_ORDER, end >> PAGEBLOCK_ORDER)
        labels = pg.pb_migratetype[blocks]
        if (pg.pb_zone[blocks] != zone + 1).any():
            continue
        if np.isin(labels, (NO_PAGEBLOCK, MIGRATE_ISOLATE, MIGRATE_CMA)).any():
            continue
        if not unmovable(pg, first, end).any():
            return pfn
    return None


def take_gigantic(pg: PgData, zone: int, start: int, end: int, owner: int) -> None:
    """Allocate an isolated range of free pages, given by indexes in mem_map, to an owner.

    They are held as the blocks that were free. BusyError, and nothing is changed, if a page is not free.
    """
    head = int(owner_list(pg, owner))
    for idx, order in free_blocks(pg, start, end):
        del_from_free_list(pg, zone, idx, order)
        pg.flags[idx] = PG_HELD
        pg.order[idx] = order
        pg.refcount[idx] = 1
        pg.owner[idx] = owner
        list_add_tail(pg.next, pg.prev, idx, head)
    pg.owner_pages[owner] += end - start


def parts_of(pg: PgData, idx: int, order: int) -> dict[int, list[int]]:
    """Return the held blocks that make up a huge page, by their order, as indexes in mem_map."""
    parts: dict[int, list[int]] = {}
    at, end = idx, idx + (1 << order)
    while at < end:
        block = int(pg.order[at])
        parts.setdefault(block, []).append(at)
        at += 1 << block
    return parts
