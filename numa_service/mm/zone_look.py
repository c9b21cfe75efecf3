"""Records of a node's zones before and after an allocation that somebody wants explained.

A record has the counters that an allocation may change. What the allocation compares in between it records
itself (``zone_watermark.py``). ``node/zone_recorder.py`` makes text of both.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from numa_service.mm.buddy import page_zone
from numa_service.mm.jit import kernel
from numa_service.mm.mmzone import MIGRATE_TYPES, NR_ORDERS, PAGEBLOCK_ORDER
from numa_service.mm.pgdata import LOOK_WORDS
from numa_service.mm.pgref import pgdata_at
from numa_service.mm.vmstat import PGALLOC
from numa_service.mm.zone_watermark import (
    CHECK_LAST,
    CHECK_LEFT,
    LEFT_COMPLETE,
    is_above_mark,
    note_check,
)

#: Words of ``PgData.call`` with the arguments of :func:`look_at_zones`.
(
    ASK_BASE_PFN,
    ASK_BLOCKS,
    ASK_CPU,
    ASK_ORDER,
    ASK_HIGHEST_ZONEIDX,
    ASK_ALLOC_FLAGS,
) = range(6)
ASK = Struct("6q")

#: Words of ``PgData.looks`` for one zone.
(
    LOOK_ALLOCATED,
    LOOK_ON_PAGESET,
    LOOK_LISTED,
    LOOK_NR_FREE,
) = range(4)
LOOK_SERVED = LOOK_NR_FREE + NR_ORDERS
assert LOOK_WORDS == LOOK_SERVED + MIGRATE_TYPES

_ZONE = Struct(f"{LOOK_WORDS}q")


class ZoneLook(NamedTuple):
    """A zone at one moment. Numbers are pages unless said otherwise."""

    #: Pages allocated since boot (pgalloc of /proc/vmstat).
    allocated: int
    #: Pages on the pageset of the CPU that asks.
    on_pageset: int
    #: Pages on the free lists: NR_FREE_PAGES with the parts that CPUs keep to themselves.
    listed: int
    #: Free blocks, by order.
    nr_free: tuple[int, ...]
    #: Blocks that the last allocation got here, by the migratetype of their pageblocks.
    served: tuple[int, ...]

    @classmethod
    def of(cls, looks: bytes, zone: int) -> ZoneLook:
        """Unpack one zone's record from `looks`, the bytes that ``Pgdat.look`` returned."""
        words = _ZONE.unpack_from(looks, _ZONE.size * zone)
        return cls._make((*words[:LOOK_NR_FREE], words[LOOK_NR_FREE:LOOK_SERVED], words[LOOK_SERVED:]))


@kernel
def look_at_zones(address: int) -> None:
    """Record every zone in ``PgData.looks``; arguments are the ASK_* words of ``PgData.call``.

    Of the first ASK_BLOCKS blocks in ``PgData.call_pfns`` it counts how many lie in pageblocks of each type.
    It also records a watermark check made now in the last row of ``PgData.checks``, except for a zone that a
    walk has passed over: nothing has changed there since the walk's own check.
    """
    pg = pgdata_at(address)
    call, looks = pg.call, pg.looks
    cpu, order, highest, flags = (
        call[ASK_CPU],
        call[ASK_ORDER],
        call[ASK_HIGHEST_ZONEIDX],
        call[ASK_ALLOC_FLAGS],
    )
    for zone in range(looks.shape[0]):
        last = pg.checks[zone, CHECK_LAST]
        if last[CHECK_LEFT] == LEFT_COMPLETE:
            ok = is_above_mark(pg, zone, order, highest, flags)
            note_check(pg, last, zone, order, highest, flags, ok)
        looks[zone, LOOK_ALLOCATED] = pg.vm_event[PGALLOC + zone]
        looks[zone, LOOK_ON_PAGESET] = pg.pcp_count[cpu, zone]
        looks[zone, LOOK_LISTED] = 0
        for listed in range(NR_ORDERS):
            blocks = pg.nr_free[zone, listed]
            looks[zone, LOOK_NR_FREE + listed] = blocks
            looks[zone, LOOK_LISTED] += blocks << listed
        for mt in range(MIGRATE_TYPES):
            looks[zone, LOOK_SERVED + mt] = 0
    for i in range(call[ASK_BLOCKS]):
        page = pg.call_pfns[i] - call[ASK_BASE_PFN]
        looks[page_zone(pg, page), LOOK_SERVED + pg.pb_migratetype[page >> PAGEBLOCK_ORDER]] += 1
