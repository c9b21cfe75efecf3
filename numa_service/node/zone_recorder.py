"""Records what an Alloc op does in each zone of its node, for requests that ask for an explanation.

Recording changes no state. The compiled walk writes down what it compared in each zone and why it left the
zone (``mm/zone_watermark.py``). The counts that an Alloc may change are read before and after the op
(``mm/zone_look.py``), and the rest follows from the difference: an op of one order takes whole blocks of that
order from a zone's free lists, and each split moves blocks from one order to lower ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numa_client import WatermarkCheck, ZoneVisit
from numa_client._explanation_steps import LeftBecause

from numa_service.mm.internal import ALLOC_CMA, ALLOC_NO_WATERMARKS, ALLOC_WMARK_MASK
from numa_service.mm.mmzone import MIGRATE_MOVABLE, NR_ORDERS
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import zone_pageblocks
from numa_service.mm.zone_look import ZoneLook
from numa_service.mm.zone_watermark import (
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
    LEFT_FAIR_SHARE,
    LEFT_NO_BLOCK,
    LEFT_RESERVED,
    LEFT_WOULD_MIX,
)
from numa_service.node.explanation_recorder import MARK_NAMES, NodeAccount, migratetype_name

_LEFT: dict[int, LeftBecause] = {
    LEFT_COMPLETE: "complete",
    LEFT_BELOW_MARK: "below_mark",
    LEFT_NO_BLOCK: "no_block",
    LEFT_WOULD_MIX: "would_mix",
    LEFT_RESERVED: "reserved",
    LEFT_FAIR_SHARE: "fair_share",
}


def watermark_check(words: Sequence[int], alloc_flags: int) -> WatermarkCheck:
    """Return a watermark comparison as the client's type; `words` are the walk's, indexed by CHECK_*."""
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


class ZoneRecorder:
    """Records one Alloc op: it is made before the op is applied, and :meth:`finish` is called after it."""

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

    def finish(self, got: int, steals: int) -> NodeAccount:
        """Return what the op did in each zone. It got `got` blocks; `steals` is its PATH_STEALS counter."""
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
                    # counted on the free lists: NR_FREE_PAGES may lag behind them
                    (before.listed - after.listed) >> self._order,
                    self._splits(before.nr_free, after.nr_free),
                    {} if migratetypes == self._migratetypes else self._claims(zone, migratetypes),
                    self._foreign(after.served) if served else {},
                )
            )
        return NodeAccount(tuple(visits), steals)

    def _splits(self, was: tuple[int, ...], now: tuple[int, ...]) -> dict[int, int]:
        """Return how many blocks above the request's order were split (expand), by order.

        `was` and `now` are free blocks by order. Splitting a block puts one half on the list of the next
        lower order; the other half is split further, until it has the request's order.
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
        """Return how many pageblocks of a zone changed their migratetype, by "old -> new"."""
        was, now = (np.frombuffer(types, np.uint8) for types in (self._migratetypes, migratetypes))
        changed = (was != now).nonzero()[0]
        changed = changed[np.isin(changed, zone_pageblocks(self._pgdat.pg, zone))]
        pairs = Counter(zip(was[changed].tolist(), now[changed].tolist(), strict=True))
        return {f"{self._type(a)} -> {self._type(b)}": n for (a, b), n in sorted(pairs.items())}

    def _foreign(self, served: tuple[int, ...]) -> dict[str, int]:
        """Return the blocks that other migratetypes served, by name; `served` is by migratetype."""
        return {self._type(mt): n for mt, n in enumerate(served) if n and mt != self._migratetype}

    def _type(self, migratetype: int) -> str:
        return migratetype_name(self._pgdat.profile, migratetype)
