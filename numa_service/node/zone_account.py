"""The zones of one node before and after an Alloc op, in the numbers that the allocator compared.

Reads the arrays, changes nothing. Before the op it only puts aside what the op may change, as cheaply as
that can be had; what is made of it afterwards, is made for the zones that the walk came to. What happened in
between follows from the difference: an op of one order takes whole blocks of that order from a zone's buddy
lists, and each split moves counts between orders.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np

from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    NR_ORDERS,
    PAGEBLOCK_ORDER,
    WMARK_MIN,
)
from numa_service.mm.page_alloc import (
    ALLOC_CMA,
    ALLOC_HARDER,
    ALLOC_HIGH,
    ALLOC_HIGHATOMIC,
    ALLOC_NO_WATERMARKS,
    ALLOC_NOFRAGMENT,
    ALLOC_OOM,
    ALLOC_RESERVES,
    ALLOC_WMARK_MASK,
)
from numa_service.mm.pgdat import Pfns, Pgdat
from numa_service.mm.pgdata import (
    FREE_CMA,
    FREE_HIGHATOMIC,
    HEAD_FREE,
    HEAD_PB,
    HEAD_PCP,
    RESERVED_HIGHATOMIC,
    TUNE_WATERMARK,
    in_zone,
    zone_pageblocks,
)
from numa_service.mm.profile import WMARK_FREE_RESERVE, WMARK_PER_ORDER
from numa_service.mm.vmstat import NR_FREE_PAGES, PATH_STEALS, PGALLOC
from numa_service.node.explain import (
    MARK_NAMES,
    LeftBecause,
    NodeAccount,
    WatermarkCheck,
    ZoneVisit,
    migratetype_name,
)

_NO_SPLITS = (0,) * NR_ORDERS


class _Look:
    """What an Alloc op may change of the zones of a node, by zone index."""

    __slots__ = ("_heads", "_pb_heads", "allocated", "boost", "free", "migratetypes", "nr_free", "reserves")

    def __init__(self, pgdat: Pgdat) -> None:
        pg = pgdat.pg
        self.free: list[int] = pg.vm_stat[:, NR_FREE_PAGES].tolist()
        self.nr_free: list[list[int]] = pg.nr_free.tolist()
        self.boost: list[int] = pg.watermark_boost.tolist()
        self.reserves: list[list[int]] = pg.reserves.tolist()
        self.allocated: list[int] = pg.vm_event[PGALLOC : PGALLOC + len(self.free)].tolist()
        self.migratetypes = pg.pb_migratetype.copy()
        #: First block of every free list, or the list's head where it is empty.
        first, end = pg.heads[HEAD_FREE], pg.heads[HEAD_PCP]
        self._heads = int(first), pg.next[first:end].copy()
        first = pg.heads[HEAD_PB]
        self._pb_heads = int(first), pg.pb_next[first:].copy()

    def has_block(self, zone: int, order: int, mt: int) -> bool:
        """Whether a free list had a block (first_free)."""
        if order >= PAGEBLOCK_ORDER:
            (head, first), nr_orders, order = (
                self._pb_heads,
                NR_ORDERS - PAGEBLOCK_ORDER,
                order - PAGEBLOCK_ORDER,
            )
        else:
            (head, first), nr_orders = self._heads, PAGEBLOCK_ORDER
        at = (zone * nr_orders + order) * MIGRATE_TYPES + mt
        return int(first.item(at)) != head + at

    def largest_free_order(self, zone: int, types: tuple[int, ...]) -> int:
        """Largest order with a block of one of these types; -1 without any."""
        nr_free = self.nr_free[zone]
        for order in range(NR_ORDERS - 1, -1, -1):
            if nr_free[order] and any(self.has_block(zone, order, mt) for mt in types):
                return order
        return -1


def watermark_check(
    pgdat: Pgdat, zone: int, order: int, highest_zoneidx: int, alloc_flags: int
) -> WatermarkCheck:
    """What ``zone_watermark_fast`` compares for a request of this node's zone now, by the profile's rules."""
    return _check(pgdat, _Look(pgdat), zone, order, highest_zoneidx, alloc_flags)


def _check(
    pgdat: Pgdat, look: _Look, zone: int, order: int, highest_zoneidx: int, alloc_flags: int
) -> WatermarkCheck:
    """The same at the time of a look. Marks and lowmem_reserve are not an op's to change."""
    pg = pgdat.pg
    rules = int(pg.tune[TUNE_WATERMARK])
    wmark = alloc_flags & ALLOC_WMARK_MASK
    none = bool(alloc_flags & ALLOC_NO_WATERMARKS)
    per_order = rules == WMARK_PER_ORDER

    def check(boost: int) -> WatermarkCheck:
        mark = 0 if none else int(pg.watermark[zone, wmark])
        high_part, harder_part = _reductions(rules, mark + boost, alloc_flags)
        return WatermarkCheck(
            mark_name="" if none else MARK_NAMES[wmark],
            free=look.free[zone],
            unusable=_highatomic(look.reserves[zone], rules, alloc_flags),
            order_cost=(1 << order) + 1 if per_order else (1 << order) - 1,
            mark=mark,
            boost=boost,
            high_part=high_part,
            harder_part=harder_part,
            lowmem_reserve=int(pg.lowmem_reserve[zone, highest_zoneidx]),
            largest_free_order=look.largest_free_order(zone, _usable_types(rules, alloc_flags)),
            order=order,
            cma=0 if per_order or alloc_flags & ALLOC_CMA else look.reserves[zone][FREE_CMA],
        )

    boost = 0 if none else look.boost[zone]
    found = check(boost)
    # the most urgent requests of one page do not wait for defragmentation
    urgent = ALLOC_HIGH if rules == WMARK_FREE_RESERVE else ALLOC_HARDER
    if boost and order == 0 and alloc_flags & urgent and wmark == WMARK_MIN and not found.ok:
        found = check(0)
    return _order_by_order(look.nr_free[zone], found) if per_order else found


def _reductions(rules: int, mark: int, alloc_flags: int) -> tuple[int, int]:
    """What ALLOC_HIGH, and ALLOC_HARDER or ALLOC_OOM take off a mark."""
    high = mark // 2 if alloc_flags & ALLOC_HIGH else 0
    left = mark - high
    harder = 0
    if alloc_flags & ALLOC_HARDER and rules == WMARK_FREE_RESERVE:
        harder = left // 4 if alloc_flags & ALLOC_HIGH else 0
        if alloc_flags & ALLOC_OOM:
            harder += (left - harder) // 2
    elif alloc_flags & ALLOC_OOM and rules != WMARK_PER_ORDER:
        harder = left // 2
    elif alloc_flags & ALLOC_HARDER:
        harder = left // 4
    return high, harder


def _highatomic(reserves: list[int], rules: int, alloc_flags: int) -> int:
    if rules == WMARK_FREE_RESERVE:
        return 0 if alloc_flags & ALLOC_RESERVES else reserves[FREE_HIGHATOMIC]
    if rules == WMARK_PER_ORDER or alloc_flags & (ALLOC_HARDER | ALLOC_OOM):
        return 0
    return reserves[RESERVED_HIGHATOMIC]


@lru_cache(maxsize=256)
def _usable_types(rules: int, alloc_flags: int) -> tuple[int, ...]:
    """Types whose free lists a request may use (has_free_block)."""
    types = list(range(MIGRATE_PCPTYPES))
    entitled = ALLOC_OOM | (ALLOC_HIGHATOMIC if rules == WMARK_FREE_RESERVE else ALLOC_HARDER)
    if alloc_flags & ALLOC_CMA:
        types.append(MIGRATE_CMA)
    if alloc_flags & entitled or rules == WMARK_PER_ORDER:
        types.append(MIGRATE_HIGHATOMIC)
    return tuple(types)


def _order_by_order(nr_free: list[int], check: WatermarkCheck) -> WatermarkCheck:
    """3.0: blocks below the asked order do not count, and the mark halves with each."""
    too_small = 0
    for lower in range(check.order):
        if not check.above_mark or not check.mark_name:
            break
        too_small += nr_free[lower] << lower
        check = replace(check, too_small=too_small, halvings=lower + 1)
    return check


class Account:
    """Made before an Alloc op is carried out, asked after it."""

    def __init__(
        self,
        pgdat: Pgdat,
        zones: tuple[int, ...],
        cpu: int,
        order: int,
        migratetype: int,
        highest_zoneidx: int,
        alloc_flags: int,
    ) -> None:
        self._pgdat = pgdat
        self._cpu = pgdat.cpu_index[cpu]
        self._order = order
        self._migratetype = migratetype
        if migratetype == MIGRATE_MOVABLE:
            alloc_flags |= ALLOC_CMA  # gfp_to_alloc_flags_cma
        self._rights = highest_zoneidx, alloc_flags
        self._zones = zones
        self._pagesets: list[int] = pgdat.pg.pcp_count[self._cpu].tolist()
        self._before = _Look(pgdat)

    def since(self, count: int, pfns: Pfns, path: tuple[int, ...]) -> NodeAccount:
        """What the op did that was to get `count` blocks and got `pfns`; `path` are its work counters."""
        visits: list[ZoneVisit] = []
        before, after = self._before, _Look(self._pgdat)
        served = {
            zone: (after.allocated[zone] - before.allocated[zone]) >> self._order for zone in self._zones
        }
        complete = len(pfns) == count
        last = max((i for i, zone in enumerate(self._zones) if served[zone]), default=-1)
        for i, zone in enumerate(self._zones):
            if complete and i > last:
                break  # the walk did not come here
            check = _check(self._pgdat, after, zone, self._order, *self._rights)
            because = LeftBecause.COMPLETE
            if not (complete and i == last):
                because = self._why_left(check, went_on=i < last)
            visits.append(self._visit(zone, after, check, served[zone], pfns, because))
        return NodeAccount(tuple(visits), path[PATH_STEALS], self._order)

    def _why_left(self, check: WatermarkCheck, went_on: bool) -> LeftBecause:
        """`went_on`: a later zone of the node served."""
        if not check.above_mark:
            return LeftBecause.BELOW_MARK
        if check.largest_free_order < self._order:
            return LeftBecause.NO_BLOCK
        mixing_is_last = went_on and self._rights[1] & ALLOC_NOFRAGMENT
        return LeftBecause.WOULD_MIX if mixing_is_last else LeftBecause.RESERVED

    def _visit(
        self, zone: int, now: _Look, check: WatermarkCheck, served: int, pfns: Pfns, because: LeftBecause
    ) -> ZoneVisit:
        was, is_ = self._before.nr_free[zone], now.nr_free[zone]
        return ZoneVisit(
            zone=self._pgdat.zone_names[zone],
            before=_check(self._pgdat, self._before, zone, self._order, *self._rights),
            after=check,
            served_blocks=served,
            left_because=because,
            pageset_before=self._pagesets[zone],
            pageset_after=int(self._pgdat.pg.pcp_count[self._cpu, zone]),
            # from the lists: the counter of free pages may lag behind them
            buddy_blocks=(_listed(was) - _listed(is_)) >> self._order,
            splits=self._splits(was, is_),
            claims=self._claims(zone, now),
            foreign_blocks=self._foreign(zone, pfns) if served else (),
        )

    def _splits(self, was: list[int], now: list[int]) -> tuple[int, ...]:
        """Blocks taken off each list above the request's order, to be split (expand).

        A halving puts one block on the list below, and its other half is halved on, or is what was wanted.
        """
        if was == now:
            return _NO_SPLITS
        taken = [0] * NR_ORDERS
        halved = 0
        for order in range(NR_ORDERS - 1, self._order, -1):
            taken[order] = halved - now[order] + was[order]
            halved += taken[order]
        return tuple(taken)

    def _claims(self, zone: int, now: _Look) -> tuple[tuple[str, str, int], ...]:
        was = self._before.migratetypes
        changed = (was != now.migratetypes).nonzero()[0]
        if not len(changed):
            return ()
        changed = changed[np.isin(changed, zone_pageblocks(self._pgdat.pg, zone))]
        pairs = Counter(zip(was[changed].tolist(), now.migratetypes[changed].tolist(), strict=True))
        return tuple((self._type(a), self._type(b), n) for (a, b), n in sorted(pairs.items()))

    def _foreign(self, zone: int, pfns: Pfns) -> tuple[tuple[str, int], ...]:
        pg = self._pgdat.pg
        pages = pfns.view(np.int64) - self._pgdat.base_pfn
        migratetypes = pg.pb_migratetype[pages >> PAGEBLOCK_ORDER]
        foreign = migratetypes != self._migratetype
        if not foreign.any():
            return ()
        types = Counter(migratetypes[foreign & in_zone(pg, zone, pages)].tolist())
        return tuple((self._type(mt), n) for mt, n in sorted(types.items()))

    def _type(self, migratetype: int) -> str:
        return migratetype_name(self._pgdat.profile, migratetype)


def _listed(nr_free: list[int]) -> int:
    """Pages on the free lists."""
    return sum(blocks << order for order, blocks in enumerate(nr_free))
