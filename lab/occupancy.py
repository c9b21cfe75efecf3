"""Writing a state of memory into a freshly booted node: free lists, pagesets and held blocks.

Boot leaves free memory in the largest blocks. An exact replay starts from memory that has been in use; that
state is described block by block, and written into the node's arrays before anything happens on the node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.compiled import compiled
from numa_service.mm.buddy import add_to_free_list
from numa_service.mm.jit import flag, i64
from numa_service.mm.lists import list_add_tail, owner_list, pcp_list
from numa_service.mm.mmzone import MIGRATE_MOVABLE, MIGRATE_PCPTYPES
from numa_service.mm.pcp import order_to_pindex
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import HEAD_FREE, HEAD_PB, I64, PG_HELD, PG_PCP, PG_RESERVED, PgData
from numa_service.mm.vmstat import NR_FREE_PAGES


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of memory as columns; `idx` is the index of the first page in mem_map."""

    idx: I64
    order: I64
    #: Migratetype of the free list or pageset list that the block is on; without meaning for held blocks.
    migratetype: I64
    #: Position of the CPU whose pageset has the block; without meaning for others.
    cpu: I64

    @classmethod
    def of(cls, rows: list[tuple[int, int, int, int]]) -> Blocks:
        """Make columns of rows (idx, order, migratetype, cpu)."""
        table = np.array(rows, dtype=np.int64).reshape(-1, 4)
        return cls(*(np.ascontiguousarray(column) for column in table.T))

    @property
    def pages(self) -> int:
        """Number of pages in all blocks."""
        return int(np.left_shift(1, self.order).sum())


@dataclass(frozen=True, slots=True)
class ZoneState:
    """The state of one zone; blocks and reserved pages together are all of its RAM."""

    zone: int
    #: In the order of the lists, heads first.
    free: Blocks
    pageset: Blocks
    held: Blocks
    #: Indexes of reserved pages.
    reserved: I64
    #: Types of the zone's pageblocks, by number in the node.
    pageblocks: dict[int, int]


@compiled
def _clear_lists(pg: PgData, first_head: int, last_head: int, first_pb: int) -> None:
    """Make all lists empty."""
    for head in range(first_head, last_head):
        pg.next[head] = head
        pg.prev[head] = head
    for head in range(first_pb, pg.pb_next.shape[0]):
        pg.pb_next[head] = head
        pg.pb_prev[head] = head


@compiled
def _link_free(pg: PgData, zone: int, idx: I64, order: I64, mt: I64) -> None:
    """Append blocks to free lists."""
    for i in range(idx.shape[0]):
        add_to_free_list(pg, zone, idx[i], order[i], mt[i], flag(True))
        pg.vm_stat[zone, NR_FREE_PAGES] += 1 << order[i]


@compiled
def _link_pageset(pg: PgData, zone: int, idx: I64, order: I64, mt: I64, cpu: I64) -> None:
    """Append blocks to pageset lists."""
    for i in range(idx.shape[0]):
        page = idx[i]
        pg.flags[page] = PG_PCP
        pg.order[page] = order[i]
        pg.pcptype[page] = mt[i]
        listed = mt[i] if mt[i] < MIGRATE_PCPTYPES else i64(MIGRATE_MOVABLE)
        head = pcp_list(pg, cpu[i], zone, order_to_pindex(order[i], listed))
        list_add_tail(pg.next, pg.prev, page, head)
        pg.pcp_count[cpu[i], zone] += 1 << order[i]


@compiled
def _link_held(pg: PgData, owner: int, idx: I64, order: I64) -> None:
    """Append blocks to the owner's list."""
    head = owner_list(pg, owner)
    for i in range(idx.shape[0]):
        page = idx[i]
        pg.flags[page] = PG_HELD
        pg.order[page] = order[i]
        pg.refcount[page] = 1
        pg.owner[page] = owner
        list_add_tail(pg.next, pg.prev, page, head)
        pg.owner_pages[owner] += 1 << order[i]


def write_occupancy(pgdat: Pgdat, zones: list[ZoneState], owner: int) -> None:
    """Put a freshly booted node into this state; held blocks belong to `owner`, a slot.

    No other owner may have pages, and no page may be on an LRU list; pages that `owner` has already are
    dropped. ValueError, and nothing is changed, if a zone's blocks are not as many pages as it manages.
    """
    pg = pgdat.pg
    for state in zones:
        pages = state.free.pages + state.pageset.pages + state.held.pages
        if pages != pg.managed[state.zone]:
            name = pgdat.zone_names[state.zone]
            raise ValueError(f"zone {name}: {pages} pages in blocks, {pg.managed[state.zone]} managed")
    if int(pg.owner_pages.sum()) != int(pg.owner_pages[owner]):
        raise ValueError(f"node {pgdat.nid} is in use already")
    for column in (pg.flags, pg.order, pg.pcptype, pg.refcount, pg.mapcount, pg.owner, pg.pgoff):
        column[:] = 0
    pg.pb_order[:] = 0
    pg.nr_free[:] = 0
    pg.pcp_count[:] = 0
    pg.vm_stat[:, NR_FREE_PAGES] = 0
    pg.owner_pages[:] = 0
    _clear_lists(pg, int(pg.heads[HEAD_FREE]), len(pg.next), int(pg.heads[HEAD_PB]))
    for state in zones:
        pg.flags[state.reserved] = PG_RESERVED
        for block, migratetype in state.pageblocks.items():
            pg.pb_migratetype[block] = migratetype
        free, pageset, held = state.free, state.pageset, state.held
        _link_free(pg, state.zone, free.idx, free.order, free.migratetype)
        _link_pageset(pg, state.zone, pageset.idx, pageset.order, pageset.migratetype, pageset.cpu)
        _link_held(pg, owner, held.idx, held.order)
    pgdat.recount_reserves()
