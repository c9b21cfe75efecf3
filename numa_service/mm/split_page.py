"""Splitting allocated blocks: one that is held, so that a part can be freed alone, and huge pages.

(``split_page`` of mm/page_alloc.c, ``split_huge_page`` of mm/huge_memory.c.)
"""

from __future__ import annotations

from numa_service.mm.jit import i64, kernel
from numa_service.mm.lists import list_add_tail, list_del, owner_list
from numa_service.mm.pgdata import PG_HELD, PgData


@kernel
def split_held(pg: PgData, idx: int, order: int, at: int, want: int) -> bool:
    """Split the held block `idx` of `order` until the part `at` of order `want` is a held block of its own.

    The rest stays held, in blocks as large as possible; split_page() would make order-0 pages of all. False,
    and nothing is changed, if there is no such held block or it has no such part.
    """
    if want >= order or at & ((1 << want) - 1) or at < idx or at >= idx + (1 << order):
        return False
    if not pg.flags[idx] & PG_HELD or pg.order[idx] != order:
        return False
    owner = i64(pg.owner[idx])
    head = owner_list(pg, owner)
    list_del(pg.next, pg.prev, idx)
    while True:
        half = idx + (1 << (order - 1))
        order -= 1
        other = idx if at >= half else half
        idx = half if at >= half else idx
        for part in (other, idx):
            pg.flags[part] = PG_HELD
            pg.order[part] = order
            pg.refcount[part] = 1
            pg.owner[part] = owner
        list_add_tail(pg.next, pg.prev, other, head)
        if order == want:
            list_add_tail(pg.next, pg.prev, idx, head)
            return True


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
