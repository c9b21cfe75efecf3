"""Splitting a huge page of a region (``split_huge_page`` of mm/huge_memory.c)."""

from __future__ import annotations

from numa_service.mm.jit import i64, kernel
from numa_service.mm.lists import list_add_tail
from numa_service.mm.pgdata import PgData


@kernel
def split_huge_page(pg: PgData, idx: int) -> None:
    """Make single pages of a huge page, on the same list: reclaim comes to the first of them first.

    They are pages of the same region, with indexes one behind the other; counters do not change, as a huge
    page counts as all of its pages.
    """
    pages, flags, owner = 1 << i64(pg.order[idx]), pg.flags[idx], pg.owner[idx]
    pg.order[idx] = 0
    for part in range(pages - 1, 0, -1):
        at = idx + part
        pg.flags[at] = flags
        pg.order[at] = 0
        pg.refcount[at] = 1
        pg.owner[at] = owner
        pg.pgoff[at] = pg.pgoff[idx] + part
        pg.mapcount[at] = 1
        list_add_tail(pg.next, pg.prev, at, idx)
