"""Splitting an allocated block, so that a part can be freed alone (``split_page`` of mm/page_alloc.c)."""

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
