"""The zones of one node before and after an Alloc op, in the numbers that the allocator compared.

Reads the arrays, changes nothing. What happened in between follows from the difference: an op of one order
takes whole blocks of that order from a zone's buddy lists, and each split moves counts between orders.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from numa_service.mm.buddy import first_free
from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
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


def watermark_check(
    pgdat: Pgdat, zone: int, order: int, highest_zoneidx: int, alloc_flags: int
) -> WatermarkCheck:
    """What ``zone_watermark_fast`` compares for a request of this node's zone now, by the profile's rules."""
    pg = pgdat.pg
    rules = int(pg.tune[TUNE_WATERMARK])
    wmark = alloc_flags & ALLOC_WMARK_MASK
    none = bool(alloc_flags & ALLOC_NO_WATERMARKS)

    def check(boost: int) -> WatermarkCheck:
        mark = 0 if none else int(pg.watermark[zone, wmark])
        high_part, harder_part = _reductions(rules, mark + boost, alloc_flags)
        per_order = rules == WMARK_PER_ORDER
        return WatermarkCheck(
            mark_name="" if none else MARK_NAMES[wmark],
            free=int(pg.vm_stat[zone, NR_FREE_PAGES]),
            unusable=_highatomic(pgdat, zone, rules, alloc_flags),
            order_cost=(1 << order) + 1 if per_order else (1 << order) - 1,
            mark=mark,
            boost=boost,
            high_part=high_part,
            harder_part=harder_part,
            lowmem_reserve=int(pg.lowmem_reserve[zone, highest_zoneidx]),
            largest_free_order=_largest_free_order(pgdat, zone, rules, alloc_flags),
            order=order,
            cma=0 if per_order or alloc_flags & ALLOC_CMA else int(pg.reserves[zone, FREE_CMA]),
        )

    boost = 0 if none else int(pg.watermark_boost[zone])
    found = check(boost)
    # the most urgent requests of one page do not wait for defragmentation
    urgent = ALLOC_HIGH if rules == WMARK_FREE_RESERVE else ALLOC_HARDER
    if not found.ok and boost and order == 0 and alloc_flags & urgent and wmark == WMARK_MIN:
        found = check(0)
    return _order_by_order(pgdat, zone, found) if rules == WMARK_PER_ORDER else found


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


def _highatomic(pgdat: Pgdat, zone: int, rules: int, alloc_flags: int) -> int:
    reserves = pgdat.pg.reserves[zone]
    if rules == WMARK_FREE_RESERVE:
        return 0 if alloc_flags & ALLOC_RESERVES else int(reserves[FREE_HIGHATOMIC])
    if rules == WMARK_PER_ORDER or alloc_flags & (ALLOC_HARDER | ALLOC_OOM):
        return 0
    return int(reserves[RESERVED_HIGHATOMIC])


def _largest_free_order(pgdat: Pgdat, zone: int, rules: int, alloc_flags: int) -> int:
    """Largest order with a block on a list that the request may use (has_free_block); -1 without any."""
    types = list(range(MIGRATE_PCPTYPES))
    entitled = ALLOC_OOM | (ALLOC_HIGHATOMIC if rules == WMARK_FREE_RESERVE else ALLOC_HARDER)
    if alloc_flags & ALLOC_CMA:
        types.append(MIGRATE_CMA)
    if alloc_flags & entitled or rules == WMARK_PER_ORDER:
        types.append(MIGRATE_HIGHATOMIC)
    for order in range(NR_ORDERS - 1, -1, -1):
        if pgdat.pg.nr_free[zone, order] and any(first_free(pgdat.pg, zone, order, mt) >= 0 for mt in types):
            return order
    return -1


def _order_by_order(pgdat: Pgdat, zone: int, check: WatermarkCheck) -> WatermarkCheck:
    """3.0: blocks below the asked order do not count, and the mark halves with each."""
    too_small = 0
    for lower in range(check.order):
        if not check.above_mark or not check.mark_name:
            break
        too_small += int(pgdat.pg.nr_free[zone, lower]) << lower
        check = replace(check, too_small=too_small, halvings=lower + 1)
    return check


@dataclass(frozen=True, slots=True)
class _Zone:
    check: WatermarkCheck
    pageset: int
    nr_free: npt.NDArray[np.int64]
    allocated: int
    pageblocks: npt.NDArray[np.uint8]


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
        self._before = {zone: self._look(zone) for zone in zones}

    def _look(self, zone: int) -> _Zone:
        pg = self._pgdat.pg
        blocks = zone_pageblocks(pg, zone)
        return _Zone(
            watermark_check(self._pgdat, zone, self._order, *self._rights),
            int(pg.pcp_count[self._cpu, zone]),
            pg.nr_free[zone].copy(),
            int(pg.vm_event[PGALLOC + zone]),
            pg.pb_migratetype[blocks].copy(),
        )

    def since(self, count: int, pfns: Pfns, path: tuple[int, ...]) -> NodeAccount:
        """What the op did that was to get `count` blocks and got `pfns`; `path` are its work counters."""
        visits: list[ZoneVisit] = []
        after = {zone: self._look(zone) for zone in self._zones}
        served = {
            zone: (after[zone].allocated - self._before[zone].allocated) >> self._order
            for zone in self._zones
        }
        complete = len(pfns) == count
        last = max((i for i, zone in enumerate(self._zones) if served[zone]), default=-1)
        for i, zone in enumerate(self._zones):
            if complete and i > last:
                break  # the walk did not come here
            because = LeftBecause.COMPLETE
            if not (complete and i == last):
                because = self._why_left(after[zone].check, went_on=i < last)
            visits.append(self._visit(zone, after[zone], served[zone], pfns, because))
        return NodeAccount(tuple(visits), path[PATH_STEALS], self._order)

    def _why_left(self, check: WatermarkCheck, went_on: bool) -> LeftBecause:
        """`went_on`: a later zone of the node served."""
        if not check.above_mark:
            return LeftBecause.BELOW_MARK
        if check.largest_free_order < self._order:
            return LeftBecause.NO_BLOCK
        mixing_is_last = went_on and self._rights[1] & ALLOC_NOFRAGMENT
        return LeftBecause.WOULD_MIX if mixing_is_last else LeftBecause.RESERVED

    def _visit(self, zone: int, now: _Zone, served: int, pfns: Pfns, because: LeftBecause) -> ZoneVisit:
        was = self._before[zone]
        return ZoneVisit(
            zone=self._pgdat.zone_names[zone],
            before=was.check,
            after=now.check,
            served_blocks=served,
            left_because=because,
            pageset_before=was.pageset,
            pageset_after=now.pageset,
            # from the lists: the counter of free pages may lag behind them
            buddy_blocks=(_listed(was.nr_free) - _listed(now.nr_free)) >> self._order,
            splits=self._splits(now.nr_free - was.nr_free),
            claims=self._claims(was.pageblocks, now.pageblocks),
            foreign_blocks=self._foreign(zone, pfns) if served else (),
        )

    def _splits(self, change: npt.NDArray[Any]) -> tuple[int, ...]:
        """Blocks taken off each list above the request's order, to be split (expand).

        A halving puts one block on the list below, and its other half is halved on, or is what was wanted.
        """
        taken = [0] * NR_ORDERS
        halved = 0
        for order in range(NR_ORDERS - 1, self._order, -1):
            taken[order] = halved - int(change[order])
            halved += taken[order]
        return tuple(taken)

    def _claims(self, was: npt.NDArray[Any], now: npt.NDArray[Any]) -> tuple[tuple[str, str, int], ...]:
        changed = np.flatnonzero(was != now)
        pairs = Counter(zip(was[changed].tolist(), now[changed].tolist(), strict=True))
        return tuple((self._type(a), self._type(b), n) for (a, b), n in sorted(pairs.items()))

    def _foreign(self, zone: int, pfns: Pfns) -> tuple[tuple[str, int], ...]:
        pg = self._pgdat.pg
        pages = pfns.astype(np.int64) - self._pgdat.base_pfn
        pages = pages[in_zone(pg, zone, pages)]
        types = Counter(pg.pb_migratetype[pages >> PAGEBLOCK_ORDER].tolist())
        return tuple((self._type(mt), n) for mt, n in sorted(types.items()) if mt != self._migratetype)

    def _type(self, migratetype: int) -> str:
        return migratetype_name(self._pgdat.profile, migratetype)


def _listed(nr_free: npt.NDArray[np.int64]) -> int:
    """Pages on the free lists."""
    return int((nr_free << np.arange(NR_ORDERS)).sum())
