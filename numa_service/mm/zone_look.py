"""What an allocation may change of the zones of a node, and what it compares there, in words.

Put down before and after one for which somebody asks why; read with the watermark rules by
``node/zone_account.py``.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from numa_service.mm.buddy import first_free, page_zone
from numa_service.mm.jit import kernel
from numa_service.mm.mmzone import MIGRATE_TYPES, NR_ORDERS, PAGEBLOCK_ORDER
from numa_service.mm.pgdata import FREE_CMA, FREE_HIGHATOMIC, LOOK_WORDS, RESERVED_HIGHATOMIC
from numa_service.mm.pgref import pgdata_at
from numa_service.mm.vmstat import NR_FREE_PAGES, PGALLOC

#: Words of ``PgData.call`` that say what to look at.
(
    ASK_BASE_PFN,
    ASK_BLOCKS,
    ASK_CPU,
    ASK_MARK,
    ASK_HIGHEST_ZONEIDX,
    ASK_MIGRATETYPES,
) = range(6)
ASK = Struct("6q")

(
    LOOK_FREE,
    LOOK_ALLOCATED,
    LOOK_MARK,
    LOOK_BOOST,
    LOOK_LOWMEM_RESERVE,
    LOOK_RESERVED_HIGHATOMIC,
    LOOK_FREE_HIGHATOMIC,
    LOOK_FREE_CMA,
    LOOK_ON_PAGESET,
    LOOK_LARGEST_FREE_ORDER,
    LOOK_LISTED,
    LOOK_NR_FREE,
) = range(12)
LOOK_SERVED = LOOK_NR_FREE + NR_ORDERS
assert LOOK_WORDS == LOOK_SERVED + MIGRATE_TYPES

_ZONE = Struct(f"{LOOK_WORDS}q")


class ZoneLook(NamedTuple):
    """A zone at one time. Pages unless said otherwise."""

    free: int
    #: Since boot (pgalloc).
    allocated: int
    #: The watermark that was asked for, its boost, and lowmem_reserve of the class that was asked for.
    mark: int
    boost: int
    lowmem_reserve: int
    reserved_highatomic: int
    free_highatomic: int
    free_cma: int
    on_pageset: int
    #: With a block of one of the migratetypes that were asked for; -1 without any.
    largest_free_order: int
    #: On the free lists: what `free` says, but for what CPUs keep to themselves.
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
    """Put down what every zone has, and where the first ASK_BLOCKS blocks of the last call lie."""
    pg = pgdata_at(address)
    call, looks = pg.call, pg.looks
    cpu, mark, highest = call[ASK_CPU], call[ASK_MARK], call[ASK_HIGHEST_ZONEIDX]
    for zone in range(looks.shape[0]):
        looks[zone, LOOK_FREE] = pg.vm_stat[zone, NR_FREE_PAGES]
        looks[zone, LOOK_ALLOCATED] = pg.vm_event[PGALLOC + zone]
        looks[zone, LOOK_MARK] = pg.watermark[zone, mark]
        looks[zone, LOOK_BOOST] = pg.watermark_boost[zone]
        looks[zone, LOOK_LOWMEM_RESERVE] = pg.lowmem_reserve[zone, highest]
        looks[zone, LOOK_RESERVED_HIGHATOMIC] = pg.reserves[zone, RESERVED_HIGHATOMIC]
        looks[zone, LOOK_FREE_HIGHATOMIC] = pg.reserves[zone, FREE_HIGHATOMIC]
        looks[zone, LOOK_FREE_CMA] = pg.reserves[zone, FREE_CMA]
        looks[zone, LOOK_ON_PAGESET] = pg.pcp_count[cpu, zone]
        looks[zone, LOOK_LARGEST_FREE_ORDER] = -1
        looks[zone, LOOK_LISTED] = 0
        for order in range(NR_ORDERS):
            blocks = pg.nr_free[zone, order]
            looks[zone, LOOK_NR_FREE + order] = blocks
            looks[zone, LOOK_LISTED] += blocks << order
            if not blocks:
                continue
            for mt in range(MIGRATE_TYPES):
                if call[ASK_MIGRATETYPES] >> mt & 1 and first_free(pg, zone, order, mt) >= 0:
                    looks[zone, LOOK_LARGEST_FREE_ORDER] = order
        for mt in range(MIGRATE_TYPES):
            looks[zone, LOOK_SERVED + mt] = 0
    for i in range(call[ASK_BLOCKS]):
        page = pg.call_pfns[i] - call[ASK_BASE_PFN]
        looks[page_zone(pg, page), LOOK_SERVED + pg.pb_migratetype[page >> PAGEBLOCK_ORDER]] += 1
