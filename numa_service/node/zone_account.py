"""What an Alloc op did to the zones of one node, for whoever asks why.

Changes nothing. The walk itself writes down what it compared in each zone, and why it went on to the next
(``mm/zone_watermark.py``); a kernel puts down before and after what the op may change (``mm/zone_look.py``).
What happened in between follows from the difference: an op of one order takes whole blocks of that order
from a zone's buddy lists, and each split moves counts between orders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numa_client import WatermarkCheck, ZoneVisit
from numa_client._explanation_steps import LeftBecause

from numa_service.mm.fallback import ALLOC_CMA
from numa_service.mm.mmzone import MIGRATE_MOVABLE, NR_ORDERS
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import zone_pageblocks
from numa_service.mm.zone_look import ZoneLook
from numa_service.mm.zone_watermark import (
    ALLOC_NO_WATERMARKS,
    ALLOC_WMARK_MASK,
    CHECK_BOOST,
    CHECK_CMA,
    CHECK_FREE,
    CHECK_HALVINGS,
    CHECK_HARDER_PART,
    CHECK_HIGH_PART,
    CHECK_LARGEST_FREE_ORDER,
    CHECK_LEFT,
    CHECK_LOWMEM_RESERVE,
    CHECK_MADE,
    CHECK_MARK,
    CHECK_OK,
    CHECK_ORDER_COST,
    CHECK_TOO_SMALL,
    CHECK_UNUSABLE,
    LEFT_BELOW_MARK,
    LEFT_COMPLETE,
    LEFT_NO_BLOCK,
    LEFT_RESERVED,
    LEFT_WOULD_MIX,
)
from numa_service.node.explain import MARK_NAMES, NodeAccount, migratetype_name

_LEFT: dict[int, LeftBecause] = {
    LEFT_COMPLETE: "complete",
    LEFT_BELOW_MARK: "below_mark",
    LEFT_NO_BLOCK: "no_block",
    LEFT_WOULD_MIX: "would_mix",
    LEFT_RESERVED: "reserved",
}


def watermark_check(words: Sequence[int], alloc_flags: int) -> WatermarkCheck:
    """A comparison that a kernel wrote down: CHECK_* words."""
    return WatermarkCheck(
        "" if alloc_flags & ALLOC_NO_WATERMARKS else MARK_NAMES[alloc_flags & ALLOC_WMARK_MASK],
        words[CHECK_FREE],
        words[CHECK_UNUSABLE],
        words[CHECK_ORDER_COST],
        words[CHECK_MARK],
        words[CHECK_BOOST],
        words[CHECK_HIGH_PART],
        words[CHECK_HARDER_PART],
        words[CHECK_LOWMEM_RESERVE],
        words[CHECK_LARGEST_FREE_ORDER],
        bool(words[CHECK_OK]),
        words[CHECK_CMA],
        words[CHECK_TOO_SMALL],
        words[CHECK_HALVINGS],
    )


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
        self._ask = cpu, order, highest_zoneidx, alloc_flags
        self._migratetypes = pgdat.pg.pb_migratetype.tobytes()
        pgdat.explain(True)
        self._before = pgdat.look(*self._ask)

    def since(self, got: int, steals: int) -> NodeAccount:
        """What the op did that got that many blocks; `steals` is one of its counters."""
        pgdat = self._pgdat
        pgdat.explain(False)
        looks = pgdat.look(*self._ask, got)
        migratetypes = pgdat.pg.pb_migratetype.tobytes()
        visits: list[ZoneVisit] = []
        for zone in self._zones:
            first, last = pgdat.checks(zone)
            if not first[CHECK_MADE]:
                continue  # the walk did not come here
            before, after = ZoneLook.of(self._before, zone), ZoneLook.of(looks, zone)
            served = (after.allocated - before.allocated) >> self._order
            visits.append(
                ZoneVisit(
                    pgdat.zone_names[zone],
                    watermark_check(first, self._alloc_flags),
                    watermark_check(last, self._alloc_flags),
                    served,
                    _LEFT[last[CHECK_LEFT]],
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
