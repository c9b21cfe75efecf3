"""Taking a page with bad memory out of use, and the numbers of such pages of a node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numa_service.mm.buddy import count_reserve, del_from_free_list, free_range, mod_zone_free_pages
from numa_service.mm.lists import list_add_tail, owner_list
from numa_service.mm.mmzone import MIGRATE_ISOLATE, NR_ORDERS, PAGEBLOCK_ORDER
from numa_service.mm.pgdata import PG_BUDDY, PG_HELD, PgData

#: How memory errors were handled, as files of a node's ``memory_failure`` (``mf_stats``).
ENDS = ("ignored", "failed", "delayed", "recovered")


@dataclass(slots=True)
class MemoryFailure:
    """PG_hwpoison of a node's pages, and its ``mf_stats``."""

    #: Pages with PG_hwpoison, in the order in which they got it.
    pages: list[int] = field(default_factory=list)
    #: Errors by how they were handled. Pages that were taken off-line softly are not errors.
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENDS, 0))
    #: Pages of tasks with contents that are lost, of which their home has not heard yet: (*owner, index).
    untold: dict[tuple[int, int, int, int], None] = field(default_factory=dict)

    def snapshot(self) -> dict[str, int]:
        """The numbers that files show: the pages, and the errors with their total."""
        return {"poisoned": len(self.pages), "total": sum(self.counts.values()), **self.counts}

    def dump(self) -> list[Any]:
        """All of it as plain data, for :meth:`load`."""
        return [list(self.pages), sorted(self.counts.items()), list(self.untold)]

    def load(self, dumped: list[Any]) -> None:
        """Replace all of it by what :meth:`dump` returned."""
        pages, counts, untold = dumped
        self.pages, self.counts = list(pages), dict(counts)
        self.untold = dict.fromkeys(untold)


def free_block_of(pg: PgData, idx: int) -> tuple[int, int] | None:
    """Return (first page, order) of the free block that a page is part of, as indexes; None if it is not."""
    for order in range(NR_ORDERS):
        head = idx & ~((1 << order) - 1)
        if order >= PAGEBLOCK_ORDER:
            if pg.pb_order[head >> PAGEBLOCK_ORDER] == order + 1:
                return head, order
        elif pg.flags[head] & PG_BUDDY and pg.order[head] == order:
            return head, order
    return None


def take_page_off_buddy(pg: PgData, zone: int, idx: int, owner: int) -> bool:
    """Take one free page out of the buddy lists, for an owner that never frees it.

    (Function of that name; break_down_buddy_pages.) The rest of its block stays free. False, and nothing is
    changed, if the page is not on a free list.
    """
    found = free_block_of(pg, idx)
    if found is None:
        return False
    head, order = found
    migratetype = int(pg.pb_migratetype[head >> PAGEBLOCK_ORDER])
    del_from_free_list(pg, zone, head, order)
    if migratetype != MIGRATE_ISOLATE:
        mod_zone_free_pages(pg, zone, -1, -(1 << order))
    count_reserve(pg, zone, migratetype, -(1 << order))
    pg.flags[idx] = PG_HELD
    pg.order[idx] = 0
    pg.refcount[idx] = 1
    pg.owner[idx] = owner
    list_add_tail(pg.next, pg.prev, idx, int(owner_list(pg, owner)))
    pg.owner_pages[owner] += 1
    for low, high in ((head, idx), (idx + 1, head + (1 << order))):
        if low < high:
            free_range(pg, zone, low, high)
    pg.path[:] = 0
    return True
