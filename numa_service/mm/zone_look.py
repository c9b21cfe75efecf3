"""What an allocation may change of the zones of a node, in words.

Put down before and after one for which somebody asks why; what it compared in between, it writes down by
itself (``zone_watermark.py``). Made into words for people by ``node/zone_account.py``.
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

#: Words of ``PgData.call`` that say what to look at.
(
    ASK_BASE_PFN,
    ASK_BLOCKS,
    ASK_CPU,
    ASK_ORDER,
    ASK_HIGHEST_ZONEIDX,
    ASK_ALLOC_FLAGS,
) = range(6)
ASK = Struct("6q")

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
    """A zone at one time. Pages unless said otherwise."""

    #: Since boot (pgalloc).
    allocated: int
    on_pageset: int
    #: On the free lists: NR_FREE_PAGES, but for what CPUs keep to themselves.
    listed: int
    #: Blocks, by order.
    nr_free: tuple[int, ...]
    #: Blocks of the last allocation, by the migratetype of their pageblocks.
    served: tuple[int, ...]

    @classmethod
    def of(cls, looks: bytes, zone: int) -> ZoneLook:
        """One zone of a look at all of them."""
        words = _ZONE.unpack_from(looks, _ZONE.size * zone)
        return cls._make((*words[:LOOK_NR_FREE], words[LOOK_NR_FREE:LOOK_SERVED], words[LOOK_SERVED:]))


@kernel
def look_at_zones(address: int) -> None:
    """Put down what every zone has, and where the first ASK_BLOCKS blocks of the last call lie.

    And what would be compared there now, except where a walk has left: nothing has changed there since its
    last comparison.
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
