"""The zones of one node before and after an Alloc op, in the numbers that the allocator compared.

Changes nothing. A kernel puts down what the op may change (``mm/zone_look.py``); what is made of it, is made
for the zones that the walk came to. What happened in between follows from the difference: an op of one order
takes whole blocks of that order from a zone's buddy lists, and each split moves counts between orders.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numa_client import WatermarkCheck, ZoneVisit
from numa_client._explanation_steps import LeftBecause

from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_PCPTYPES,
    NR_ORDERS,
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
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import TUNE_WATERMARK, zone_pageblocks
from numa_service.mm.profile import WMARK_FREE_RESERVE, WMARK_PER_ORDER
from numa_service.mm.zone_look import ZoneLook
from numa_service.node.explain import MARK_NAMES, NodeAccount, migratetype_name


def watermark_check(
    pgdat: Pgdat, zone: int, order: int, highest_zoneidx: int, alloc_flags: int
) -> WatermarkCheck:
    """What ``zone_watermark_fast`` compares for a request of this node's zone now, by the profile's rules."""
    rules = int(pgdat.pg.tune[TUNE_WATERMARK])
    types = _usable_types(rules, alloc_flags)
    looks = pgdat.look(pgdat.cpus[0], alloc_flags & ALLOC_WMARK_MASK, highest_zoneidx, types)
    return _check(ZoneLook.of(looks, zone), rules, order, alloc_flags)


def _check(look: ZoneLook, rules: int, order: int, alloc_flags: int) -> WatermarkCheck:
    """The same at the time of a look."""
    wmark = alloc_flags & ALLOC_WMARK_MASK
    none = bool(alloc_flags & ALLOC_NO_WATERMARKS)
    per_order = rules == WMARK_PER_ORDER
    mark, boost = (0, 0) if none else (look.mark, look.boost)
    high_part, harder_part = _reductions(rules, mark + boost, alloc_flags)
    check = WatermarkCheck(
        "" if none else MARK_NAMES[wmark],
        look.free,
        _highatomic(look, rules, alloc_flags),
        (1 << order) + 1 if per_order else (1 << order) - 1,
        mark,
        boost,
        high_part,
        harder_part,
        look.lowmem_reserve,
        look.largest_free_order,
        True,  # ok, so far
        0 if per_order or alloc_flags & ALLOC_CMA else look.free_cma,
    )
    # the most urgent requests of one page do not wait for defragmentation
    urgent = ALLOC_HIGH if rules == WMARK_FREE_RESERVE else ALLOC_HARDER
    if boost and order == 0 and alloc_flags & urgent and wmark == WMARK_MIN and not check.above_mark:
        high_part, harder_part = _reductions(rules, mark, alloc_flags)
        check = replace(check, boost_pages=0, high_part_pages=high_part, harder_part_pages=harder_part)
    if per_order:
        check = _order_by_order(look.nr_free, check, order)
    ok = none or (check.above_mark and (order == 0 or check.largest_free_order >= order))
    return check if ok else replace(check, ok=False)


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


def _highatomic(look: ZoneLook, rules: int, alloc_flags: int) -> int:
    if rules == WMARK_FREE_RESERVE:
        return 0 if alloc_flags & ALLOC_RESERVES else look.free_highatomic
    if rules == WMARK_PER_ORDER or alloc_flags & (ALLOC_HARDER | ALLOC_OOM):
        return 0
    return look.reserved_highatomic


@lru_cache(maxsize=256)
def _usable_types(rules: int, alloc_flags: int) -> int:
    """Types whose free lists a request may use, as bits (has_free_block)."""
    types = (1 << MIGRATE_PCPTYPES) - 1
    entitled = ALLOC_OOM | (ALLOC_HIGHATOMIC if rules == WMARK_FREE_RESERVE else ALLOC_HARDER)
    if alloc_flags & ALLOC_CMA:
        types |= 1 << MIGRATE_CMA
    if alloc_flags & entitled or rules == WMARK_PER_ORDER:
        types |= 1 << MIGRATE_HIGHATOMIC
    return types


def _order_by_order(nr_free: tuple[int, ...], check: WatermarkCheck, order: int) -> WatermarkCheck:
    """3.0: blocks below the asked order do not count, and the mark halves with each."""
    too_small = 0
    for lower in range(order):
        if not check.above_mark or not check.mark_name:
            break
        too_small += nr_free[lower] << lower
        check = replace(check, too_small_pages=too_small, halvings=lower + 1)
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
        self._order = order
        self._migratetype = migratetype
        if migratetype == MIGRATE_MOVABLE:
            alloc_flags |= ALLOC_CMA  # gfp_to_alloc_flags_cma
        self._alloc_flags = alloc_flags
        self._zones = zones
        self._rules = rules = int(pgdat.pg.tune[TUNE_WATERMARK])
        types = _usable_types(rules, alloc_flags)
        self._ask = cpu, alloc_flags & ALLOC_WMARK_MASK, highest_zoneidx, types
        self._migratetypes = pgdat.pg.pb_migratetype.tobytes()
        self._before = pgdat.look(*self._ask)

    def since(self, wanted: int, got: int, steals: int) -> NodeAccount:
        """What the op did that was to get so many blocks and got these; `steals` is one of its counters."""
        visits: list[ZoneVisit] = []
        looks = self._pgdat.look(*self._ask, got)
        migratetypes = self._pgdat.pg.pb_migratetype.tobytes()
        left = got
        for zone in self._zones:
            if got == wanted and not left:
                break  # the walk did not come here
            before, after = ZoneLook.of(self._before, zone), ZoneLook.of(looks, zone)
            served = (after.allocated - before.allocated) >> self._order
            left -= served
            check = _check(after, self._rules, self._order, self._alloc_flags)
            because: LeftBecause = "complete"
            if left or got < wanted:
                because = self._why_left(check, went_on=left > 0)
            visits.append(
                ZoneVisit(
                    self._pgdat.zone_names[zone],
                    _check(before, self._rules, self._order, self._alloc_flags),
                    check,
                    served,
                    because,
                    before.on_pageset,
                    after.on_pageset,
                    # from the lists: the counter of free pages may lag behind them
                    (before.listed - after.listed) >> self._order,
                    self._splits(before.nr_free, after.nr_free),
                    {} if migratetypes == self._migratetypes else self._claims(zone, migratetypes),
                    self._foreign(after.served) if served else {},
                )
            )
        return NodeAccount(tuple(visits), steals)

    def _why_left(self, check: WatermarkCheck, went_on: bool) -> LeftBecause:
        """`went_on`: a later zone of the node served."""
        if not check.above_mark:
            return "below_mark"
        if check.largest_free_order < self._order:
            return "no_block"
        mixing_is_last = went_on and self._alloc_flags & ALLOC_NOFRAGMENT
        return "would_mix" if mixing_is_last else "reserved"

    def _splits(self, was: tuple[int, ...], now: tuple[int, ...]) -> dict[int, int]:
        """Blocks taken off lists above the request's order, to be split (expand), by order.

        A halving puts one block on the list below, and its other half is halved on, or is what was wanted.
        """
        splits: dict[int, int] = {}
        if was == now:
            return splits
        halved = 0
        for order in range(NR_ORDERS - 1, self._order, -1):
            if taken := halved - now[order] + was[order]:
                splits[order] = taken
                halved += taken
        return splits

    def _claims(self, zone: int, migratetypes: bytes) -> dict[str, int]:
        was, now = (np.frombuffer(types, np.uint8) for types in (self._migratetypes, migratetypes))
        changed = (was != now).nonzero()[0]
        changed = changed[np.isin(changed, zone_pageblocks(self._pgdat.pg, zone))]
        pairs = Counter(zip(was[changed].tolist(), now[changed].tolist(), strict=True))
        return {f"{self._type(a)} -> {self._type(b)}": n for (a, b), n in sorted(pairs.items())}

    def _foreign(self, served: tuple[int, ...]) -> dict[str, int]:
        """`served` is by migratetype."""
        return {self._type(mt): n for mt, n in enumerate(served) if n and mt != self._migratetype}

    def _type(self, migratetype: int) -> str:
        return migratetype_name(self._pgdat.profile, migratetype)
