"""Data of the reference implementation: zones, pagesets and allocated blocks."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from numa_service.mm.mmzone import (
    MIGRATE_CMA,
    MIGRATE_HIGHATOMIC,
    MIGRATE_MOVABLE,
    MIGRATE_RECLAIMABLE,
    MIGRATE_UNMOVABLE,
    NR_ORDERS,
)

# alloc_flags of 6.1's mm/internal.h
WMARK_MASK = 0x03
NO_WATERMARKS = 0x04
OOM = 0x08
HARDER = 0x10
HIGH = 0x20
CMA = 0x80
NOFRAGMENT = 0x100
HIGHATOMIC = 0x200
KSWAPD = 0x800
COLD = 0x10000

FALLBACKS = {
    MIGRATE_UNMOVABLE: (MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE),
    MIGRATE_RECLAIMABLE: (MIGRATE_UNMOVABLE, MIGRATE_MOVABLE),
    MIGRATE_MOVABLE: (MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE),
}
TYPES = (MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE)
#: MIGRATE_RESERVE of 3.0 has the number of MIGRATE_HIGHATOMIC.
RESERVE = MIGRATE_HIGHATOMIC
ALL_TYPES = (*TYPES, MIGRATE_HIGHATOMIC, MIGRATE_CMA)
PCP_LISTS = 14
MAX_BATCH_SCALE = 5

#: A list of blocks by pfn, head first.
Blocks = OrderedDict[int, None]


def push(blocks: Blocks, pfn: int, tail: bool = False) -> None:
    blocks[pfn] = None
    if not tail:
        blocks.move_to_end(pfn, last=False)


def first(blocks: Blocks) -> int:
    return next(iter(blocks))


@dataclass
class Pageset:
    """struct per_cpu_pages; counts are pages."""

    lists: list[Blocks] = field(default_factory=lambda: [OrderedDict() for _ in range(PCP_LISTS)])
    count: int = 0
    #: free_count in 6.12
    free_factor: int = 0
    # 6.12
    high: int = 0
    alloc_factor: int = 0
    after_high_order: bool = False


@dataclass
class Zone:
    """A zone, pfns [start, end); `marks` are MIN, LOW, HIGH, `reserve` is lowmem_reserve by class zone."""

    start: int
    end: int
    managed: int
    marks: tuple[int, int, int]
    reserve: tuple[int, ...]
    batch: int
    high: int
    free: int = 0
    boost: int = 0
    boosted: bool = False
    reclaim_active: bool = False
    high_max: int = 0
    below_high: bool = False
    reserved_highatomic: int = 0
    lists: list[dict[int, Blocks]] = field(
        default_factory=lambda: [{mt: OrderedDict() for mt in ALL_TYPES} for _ in range(NR_ORDERS)]
    )
    pagesets: dict[int, Pageset] = field(default_factory=dict)
    hit: int = 0
    miss: int = 0
    local: int = 0
    other: int = 0
    interleave: int = 0
    pgalloc: int = 0

    def free_of(self, mt: int) -> int:
        return sum(len(lists[mt]) << order for order, lists in enumerate(self.lists))


@dataclass
class Held:
    """An allocated block; `lru` is 1 for an anonymous page of a region, 2 for a file page, else 0."""

    owner: int
    order: int
    zone: int
    lru: int
    index: int


def refill(zone: Zone, pageset: Pageset, order: int) -> int:
    """6.12: pages of a refill (nr_pcp_alloc); doubles each time while nothing is freed."""
    pageset.high = min(max(pageset.high, zone.high), max(zone.high_max, zone.high))
    if pageset.high < zone.batch:
        return 1
    batch = zone.batch if order else zone.batch * 2**pageset.alloc_factor
    if zone.high < zone.high_max and not zone.below_high:
        pageset.high = min(pageset.high + batch, zone.high_max)
    if order:
        return batch
    room = max(pageset.high - pageset.count - zone.batch, zone.batch)
    if batch <= room and pageset.alloc_factor < MAX_BATCH_SCALE:
        pageset.alloc_factor += 1
    return min(batch, room)
