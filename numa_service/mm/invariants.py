"""Invariants of a node's state, checked by recounting everything from the lists and pages themselves.

Tests and chaos runs check them after every step, and clients on demand. It is slow, as it relies on no
counter.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from numa_service.mm.lists import free_list, lru_list, owner_list, pcp_list
from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_ISOLATE,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    NR_LRU_LISTS,
    NR_ORDERS,
    PAGEBLOCK_ORDER,
)
from numa_service.mm.page_table import FREE_TABLE, NR_TABLES
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import (
    FREE_CMA,
    FREE_HIGHATOMIC,
    MAX_OWNERS,
    MAY_BE_UNMERGED,
    NR_ISOLATE_PAGEBLOCKS,
    NR_PCP_LISTS,
    PCP_THP,
    PG_BUDDY,
    PG_HELD,
    PG_LRU,
    PG_PCP,
    PG_RESERVED,
    STAT_THRESHOLD,
    SWAP_TOTAL,
    SWAP_USED,
    TUNE_BLOCKS,
    U32,
    in_zone,
    zone_pageblocks,
)
from numa_service.mm.swap import page_lru
from numa_service.mm.variants import BLOCKS_AGREE, BLOCKS_TAKE
from numa_service.mm.vmstat import (
    NR_FREE_PAGES,
    NR_ZONE_LRU_BASE,
    NUMA_HIT,
    NUMA_LOCAL,
    NUMA_MISS,
    NUMA_OTHER,
)

_Cover = npt.NDArray[np.int16]


def check_pgdat(pgdat: Pgdat) -> list[str]:
    """Violated invariants of a node, one line each; empty if there are none."""
    return _Audit(pgdat).run()


def _walk(nxt: U32, prv: U32, head: int, limit: int) -> list[int] | None:
    """Entries of a list, or None if its links are broken or it has more than `limit` entries."""
    entries: list[int] = []
    before, at = head, int(nxt[head])
    while at != head:
        if len(entries) > limit or int(prv[at]) != before:
            return None
        entries.append(at)
        before, at = at, int(nxt[at])
    return entries if int(prv[head]) == before else None


class _Audit:
    """One check of one node: collects `problems`, and counts by which its parts are compared."""

    def __init__(self, pgdat: Pgdat) -> None:
        self.pgdat = pgdat
        self.pg = pgdat.pg
        self.pages = len(self.pg.flags)
        self.problems: list[str] = []
        #: Difference array of the number of blocks (free, on a pageset, allocated) that a page is part of: at
        #: most 1.
        self.cover: _Cover = np.zeros(self.pages + 1, dtype=np.int16)
        self.rules = int(self.pg.tune[TUNE_BLOCKS])
        #: Free pages, by zone and the migratetype of their list.
        self.by_type = np.zeros((len(self.pg.managed), MIGRATE_TYPES), dtype=np.int64)

    def run(self) -> list[str]:
        """Make all checks."""
        free = self._free_lists()
        pageset = self._pagesets()
        held = self._held()
        self._lrus()
        self._owners()
        self._page_tables()
        self._conservation(free, pageset, held)
        self._counters()
        self._reserves()
        return self.problems

    def _bad(self, text: str) -> None:
        self.problems.append(f"node {self.pgdat.nid}: {text}")

    def _cover_blocks(self, heads: npt.NDArray[np.int64], order: int) -> None:
        """Note in `cover` that the pages of these blocks are in use."""
        np.add.at(self.cover, heads, 1)
        np.add.at(self.cover, heads + (1 << order), -1)

    def _in_zone(self, heads: npt.NDArray[np.int64], order: int, zone: int, what: str) -> None:
        """Check that the blocks of a list lie in its zone and are aligned."""
        inside = in_zone(self.pg, zone, heads) & in_zone(self.pg, zone, heads + (1 << order) - 1)
        if not inside.all():
            self._bad(f"{what} holds a block outside its zone")
        if len(heads) and (heads & ((1 << order) - 1)).any():
            self._bad(f"{what} holds a block that is not aligned")

    def _free_lists(self) -> npt.NDArray[np.int64]:
        """Check free lists and nr_free; returns free pages by zone."""
        pg = self.pg
        free = np.zeros(len(pg.managed), dtype=np.int64)
        free_heads: list[set[int]] = [set() for _ in range(NR_ORDERS)]
        listed = {False: 0, True: 0}
        for zone in range(len(pg.managed)):
            for order in range(NR_ORDERS):
                blocks = 0
                large = order >= PAGEBLOCK_ORDER
                links = (pg.pb_next, pg.pb_prev) if large else (pg.next, pg.prev)
                for mt in range(MIGRATE_TYPES):
                    what = f"free list zone {zone} order {order} type {mt}"
                    entries = _walk(*links, int(free_list(pg, zone, order, mt)), self.pages)
                    if entries is None:
                        self._bad(f"{what}: broken links")
                        continue
                    if not entries:
                        continue
                    heads = np.array(entries, dtype=np.int64) << (PAGEBLOCK_ORDER if large else 0)
                    self._in_zone(heads, order, zone, what)
                    marks = (
                        pg.pb_order[heads >> PAGEBLOCK_ORDER] == order + 1
                        if large
                        else (pg.flags[heads] == PG_BUDDY) & (pg.order[heads] == order)
                    )
                    if not marks.all():
                        self._bad(f"{what}: a block is not marked free at that order")
                    self._cover_blocks(heads, order)
                    free_heads[order].update(entries if not large else heads.tolist())
                    blocks += len(entries)
                    self.by_type[zone, mt] += len(entries) << order
                    listed[large] += len(entries)
                if blocks != pg.nr_free[zone, order]:
                    self._bad(
                        f"zone {zone} order {order}: nr_free {pg.nr_free[zone, order]}, counted {blocks}"
                    )
                free[zone] += blocks << order
        if listed[False] != np.count_nonzero(pg.flags & PG_BUDDY) or listed[True] != np.count_nonzero(
            pg.pb_order
        ):
            self._bad("a block marked free is on no free list")
        self._no_free_buddies(free_heads)
        return free

    def _no_free_buddies(self, free_heads: list[set[int]]) -> None:
        """Check that no two buddies that should have been merged are both free."""
        for order in range(NR_ORDERS - 1):
            for head in free_heads[order]:
                buddy = head ^ (1 << order)
                if head < buddy and buddy in free_heads[order] and self._could_merge(head, buddy, order):
                    self._bad(f"buddies {head:#x} and {buddy:#x} of order {order} are both free")

    def _could_merge(self, head: int, buddy: int, order: int) -> bool:
        """Whether two free buddies should have been merged, by zone and type."""
        pg = self.pg
        zones = [
            zone
            for zone, (start, end) in enumerate(
                zip(pg.zone_start.tolist(), pg.zone_end.tolist(), strict=True)
            )
            if start <= head < end and start <= buddy < end
        ]
        if not zones or order < PAGEBLOCK_ORDER or self.rules == BLOCKS_TAKE:
            return bool(zones)
        if pg.reserves[zones[0], MAY_BE_UNMERGED]:
            return False
        types = pg.pb_migratetype[[head >> PAGEBLOCK_ORDER, buddy >> PAGEBLOCK_ORDER]]
        return bool(types[0] == types[1] or (types < MIGRATE_PCPTYPES).all())

    def _pagesets(self) -> npt.NDArray[np.int64]:
        """Check pageset lists and counts; returns pages on pagesets by zone."""
        pg = self.pg
        pageset = np.zeros(len(pg.managed), dtype=np.int64)
        listed = 0
        for cpu in range(pg.pcp_count.shape[0]):
            for zone in range(pg.pcp_count.shape[1]):
                count = blocks = 0
                for pindex in range(NR_PCP_LISTS):
                    order = PAGEBLOCK_ORDER if pindex >= PCP_THP else pindex // MIGRATE_PCPTYPES
                    what = f"pageset cpu {cpu} zone {zone} list {pindex}"
                    entries = _walk(pg.next, pg.prev, int(pcp_list(pg, cpu, zone, pindex)), self.pages)
                    if entries is None:
                        self._bad(f"{what}: broken links")
                        continue
                    if not entries:
                        continue
                    heads = np.array(entries, dtype=np.int64)
                    self._in_zone(heads, order, zone, what)
                    if not ((pg.flags[heads] == PG_PCP) & (pg.order[heads] == order)).all():
                        self._bad(f"{what}: a page is not marked")
                    self._cover_blocks(heads, order)
                    count += len(entries) << order
                    blocks += len(entries)
                if count != pg.pcp_count[cpu, zone]:
                    self._bad(f"pageset cpu {cpu} zone {zone}: {pg.pcp_count[cpu, zone]}, counted {count}")
                pageset[zone] += count
                listed += blocks
        if listed != np.count_nonzero(pg.flags & PG_PCP):
            self._bad("a page marked as on a pageset is on none")
        return pageset

    def _held(self) -> npt.NDArray[np.int64]:
        """Check allocated blocks and owner_pages; returns allocated pages by zone."""
        pg = self.pg
        heads = np.flatnonzero(pg.flags & PG_HELD).astype(np.int64)
        orders = pg.order[heads].astype(np.int64)
        np.add.at(self.cover, heads, 1)
        np.add.at(self.cover, heads + (1 << orders), -1)
        if (pg.owner[heads] == 0).any():
            self._bad("a block is held by nobody")
        if (pg.refcount[heads] != 1).any():
            self._bad("a held block has no reference")
        counted = np.bincount(pg.owner[heads], weights=1 << orders, minlength=MAX_OWNERS).astype(np.int64)
        for owner in np.flatnonzero(counted != pg.owner_pages).tolist():
            self._bad(f"owner slot {owner}: {pg.owner_pages[owner]} pages, counted {counted[owner]}")
        held = np.zeros(len(pg.managed), dtype=np.int64)
        for zone in range(len(held)):
            held[zone] = (1 << orders[in_zone(pg, zone, heads)]).sum()
        return held

    def _lrus(self) -> None:
        """Check LRU lists and their counters."""
        pg = self.pg
        seen = 0
        for zone in range(len(pg.managed)):
            for lru in range(NR_LRU_LISTS):
                entries = _walk(pg.next, pg.prev, int(lru_list(pg, zone, lru)), self.pages)
                if entries is None:
                    self._bad(f"LRU zone {zone} list {lru}: broken links")
                    continue
                counted = int((1 << pg.order[entries].astype(np.int64)).sum()) if entries else 0
                if counted != pg.vm_stat[zone, NR_ZONE_LRU_BASE + lru]:
                    self._bad(f"LRU zone {zone} list {lru}: counter differs from {counted} pages")
                if any(page_lru(int(pg.flags[idx])) != lru for idx in entries):
                    self._bad(f"LRU zone {zone} list {lru}: a page belongs on another list")
                seen += len(entries)
        if seen != np.count_nonzero(pg.flags & PG_LRU):
            self._bad("a page marked LRU is on no LRU list")
        elsewhere = pg.flags & PG_LRU == 0
        if pg.mapcount[elsewhere].any() or pg.pgoff[elsewhere].any():
            self._bad("a page on no LRU list has a mapcount or an index in a region")

    def _owners(self) -> None:
        """Check the lists of blocks that owners hold by hand."""
        pg = self.pg
        by_hand = np.count_nonzero((pg.flags & (PG_HELD | PG_LRU)) == PG_HELD)
        listed = 0
        for owner in np.flatnonzero(pg.owner_pages).tolist():
            entries = _walk(pg.next, pg.prev, int(owner_list(pg, owner)), self.pages)
            if entries is None:
                self._bad(f"owner slot {owner}: broken links")
                continue
            if (pg.owner[entries] != owner).any():
                self._bad(f"owner slot {owner}: lists a block of another owner")
            listed += len(entries)
        if listed != by_hand:
            self._bad(f"{by_hand} blocks are held by hand, owners list {listed}")

    def _page_tables(self) -> None:
        """Check that every region page is in its owner's page table, and every table in use or free, once."""
        pg, tables = self.pg, self.pgdat.tables
        mapped = np.zeros(self.pages, dtype=np.bool_)
        places = np.zeros(len(tables.ptes), dtype=np.int64)
        places[0] = 1
        free = int(tables.ctl[FREE_TABLE])
        while free and not places[free]:
            places[free] += 1
            free = int(tables.ptes[free, 0])
        for owner in tables.owners():
            used = tables.directory(owner)
            np.add.at(places, used[used > 0], 1)
            if (tables.ptes[used] > self.pages).any():
                self._bad(f"owner slot {owner}: its page table names no page of this node")
                continue
            for _, pages in tables.mapped(pg, owner):
                mapped[pages] = True
        if (places[: tables.ctl[NR_TABLES]] != 1).any() or places[tables.ctl[NR_TABLES] :].any():
            self._bad("a table of pages is in two places, or in none")
        for idx in np.flatnonzero((pg.flags & PG_LRU != 0) & ~mapped).tolist():
            where = f"owner slot {pg.owner[idx]}, index {pg.pgoff[idx]}"
            self._bad(f"page index {idx:#x} is in no page table: {where}")

    def _conservation(
        self, free: npt.NDArray[np.int64], pageset: npt.NDArray[np.int64], held: npt.NDArray[np.int64]
    ) -> None:
        """Check that every managed page is in exactly one block, and NR_FREE_PAGES."""
        pg = self.pg
        for zone in range(len(pg.managed)):
            total = int(free[zone] + pageset[zone] + held[zone])
            if total != pg.managed[zone]:
                parts = f"free {free[zone]} + pagesets {pageset[zone]} + held {held[zone]}"
                self._bad(f"zone {zone}: {parts} = {total}, managed {pg.managed[zone]}")
            counted = int(free[zone])
            if self.rules != BLOCKS_TAKE:
                counted -= int(self.by_type[zone, MIGRATE_ISOLATE])  # isolated pages are free but not counted
            said = int(pg.vm_stat[zone, NR_FREE_PAGES] + pg.free_delta[:, zone].sum())
            if counted != said:
                self._bad(f"zone {zone}: NR_FREE_PAGES {said}, counted {counted}")
        cover = np.cumsum(self.cover[:-1])
        reserved = (pg.flags & PG_RESERVED) != 0
        if (cover > 1).any():
            self._bad(f"page index {int(np.argmax(cover > 1)):#x} is in two places")
        if (cover[reserved] != 0).any():
            self._bad("a reserved page was given out")

    def _reserves(self) -> None:
        """Check `PgData.reserves`, and the parts of NR_FREE_PAGES that CPUs keep to themselves."""
        pg = self.pg
        for zone, reserves in enumerate(pg.reserves):
            if reserves[FREE_CMA] != self.by_type[zone, MIGRATE_CMA]:
                self._bad(f"zone {zone}: {reserves[FREE_CMA]} free CMA pages, counted otherwise")
            highatomic = int(self.by_type[zone, MIGRATE_HIGHATOMIC])
            if self.rules >= BLOCKS_AGREE and reserves[FREE_HIGHATOMIC] != highatomic:
                self._bad(f"zone {zone}: {reserves[FREE_HIGHATOMIC]} free HIGHATOMIC, counted {highatomic}")
            isolated = np.count_nonzero(pg.pb_migratetype[zone_pageblocks(pg, zone)] == MIGRATE_ISOLATE)
            if reserves[NR_ISOLATE_PAGEBLOCKS] != isolated:
                self._bad(f"zone {zone}: {reserves[NR_ISOLATE_PAGEBLOCKS]} isolated, counted {isolated}")
        if (np.abs(pg.free_delta) > 125).any():
            self._bad("a CPU keeps more of NR_FREE_PAGES than any threshold allows")
        if pg.free_delta[:, pg.drift[:, STAT_THRESHOLD] == 0].any():
            self._bad("a CPU keeps part of a counter that is exact")

    def _counters(self) -> None:
        """Check NUMA events, swap, and that no counter is negative."""
        pg = self.pg
        placed = pg.numa_event[:, NUMA_HIT] + pg.numa_event[:, NUMA_MISS]
        near = pg.numa_event[:, NUMA_LOCAL] + pg.numa_event[:, NUMA_OTHER]
        if (placed != near).any():
            self._bad("numa_hit + numa_miss differs from local_node + other_node")
        used, total = int(pg.reclaim_stat[SWAP_USED]), int(pg.reclaim_stat[SWAP_TOTAL])
        if used != int(pg.owner_swap.sum()) or not 0 <= used <= total:
            self._bad(f"swap: {used} of {total} pages used, owners have {int(pg.owner_swap.sum())}")
        # CPUs' own parts may make the zone's counter negative, but not the sum of all
        counters = pg.vm_stat.copy()
        counters[:, NR_FREE_PAGES] += pg.free_delta.sum(axis=0)
        if (counters < 0).any() or (pg.node_stat < 0).any():
            self._bad("a counter is negative")
