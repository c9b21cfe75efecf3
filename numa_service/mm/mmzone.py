"""Constants of zones, migratetypes, watermarks and LRU lists (``include/linux/mmzone.h``)."""

from __future__ import annotations

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

#: Orders 0 … 10. The kernel's MAX_ORDER is 11 up to 6.3 and 10 from 6.4; NR_PAGE_ORDERS is 11 (6.8).
NR_ORDERS = 11
MAX_ORDER_NR_PAGES = 1 << (NR_ORDERS - 1)
PAGEBLOCK_ORDER = 9
PAGEBLOCK_NR_PAGES = 1 << PAGEBLOCK_ORDER

#: In the index of a page in a region: the huge page that begins there. Indexes end below it.
HUGE_INDEX = 1 << 31
PAGE_ALLOC_COSTLY_ORDER = 3

MIGRATE_UNMOVABLE = 0
MIGRATE_MOVABLE = 1
MIGRATE_RECLAIMABLE = 2
MIGRATE_PCPTYPES = 3
MIGRATE_HIGHATOMIC = 3
MIGRATE_CMA = 4
MIGRATE_ISOLATE = 5
MIGRATE_TYPES = 6

WMARK_MIN = 0
WMARK_LOW = 1
WMARK_HIGH = 2
WMARK_PROMO = 3
NR_WMARK = 4

LRU_INACTIVE_ANON = 0
LRU_ACTIVE_ANON = 1
LRU_INACTIVE_FILE = 2
LRU_ACTIVE_FILE = 3
LRU_UNEVICTABLE = 4
NR_LRU_LISTS = 5

#: Pages that reclaim takes off an LRU list at a time (``swap.h``), and the priority at which reclaim begins:
#: it scans a list's size >> priority pages, so 1/4096 of each list at first.
SWAP_CLUSTER_MAX = 32
DEF_PRIORITY = 12

#: Zone names in index order (``enum zone_type`` as configured), by architecture. Every zone index in this
#: project is a position in one of these rows.
ZONE_NAMES: dict[str, tuple[str, ...]] = {
    "x86_64": ("DMA", "DMA32", "Normal", "Movable", "Device"),
    "i386": ("DMA", "Normal", "HighMem", "Movable"),
}


def zone_index(arch: str, name: str) -> int:
    """Index of a zone by its kernel spelling; ValueError if that architecture has no such zone."""
    return ZONE_NAMES[arch].index(name)
