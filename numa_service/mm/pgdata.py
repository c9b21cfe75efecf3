"""The state of one node as arrays: ``struct pglist_data``, ``struct zone`` and ``struct page`` by column.

``mem_map`` is one array for each field of ``struct page``, indexed by ``pfn - base_pfn``; a zone is an index
along an axis, not an object. Every per-page array starts as zeros, which mean "nothing", so that the host
uses memory only for pages that have been touched.

All lists are circular and doubly linked through ``next``/``prev``, like the kernel's ``list_head``; list
heads are extra entries behind the pages. Free blocks of pageblock size and above are linked through
``pb_next``/``pb_prev`` instead, with one entry for each pageblock, so that a huge empty node needs little.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from numa_service.mm.array_table import layout_of, table_of
from numa_service.mm.mmzone import (
    MAX_ORDER_NR_PAGES,
    MIGRATE_PCPTYPES,
    MIGRATE_TYPES,
    NR_LRU_LISTS,
    NR_ORDERS,
    NR_WMARK,
    PAGEBLOCK_ORDER,
)
from numa_service.mm.vmstat import NODE_STAT_NAMES, NR_PATH, NR_VM_EVENTS, NUMA_EVENT_NAMES, ZONE_STAT_NAMES

# page flags; some are the model's own
PG_BUDDY = 1  # head of a free block below pageblock size (PageBuddy)
PG_PCP = 2  # head of a block on a pageset
PG_HELD = 4  # head of an allocated block
PG_RESERVED = 8  # never given to the buddy system
PG_LRU = 16
PG_ACTIVE = 32
PG_REFERENCED = 64
PG_DIRTY = 128
PG_SWAPBACKED = 256  # anonymous
PG_YOUNG = 512  # accessed through its page table since reclaim last looked (pte_young)
PG_HOLE = 1024  # no memory here: a hole in a pageblock that has some
PG_SLAB = 1 << 11  # head of a slab (PageSlab), besides PG_HELD
PG_VISITED = 1 << 15  # set only during the validation of one call to free pages

# zone flags
ZONE_BOOSTED_WATERMARK = 1
ZONE_RECLAIM_ACTIVE = 2
ZONE_BELOW_HIGH = 4
ZONE_FAIR_DEPLETED = 8

#: NR_PCP_LISTS: lists of a pageset. Orders 0 to 3 have one for each of three migratetypes, and huge pages
#: have two: 6.1 uses the first for all of them, 6.12 the second for movable ones.
NR_PCP_LISTS = 4 * MIGRATE_PCPTYPES + 2
PCP_THP = NR_PCP_LISTS - 2
PCP_THP_MOVABLE = NR_PCP_LISTS - 1

# columns of `reserves`, by zone: memory that only some requests may use
RESERVED_HIGHATOMIC = 0  # pages of the pageblocks reserved for high-order atomic requests
FREE_HIGHATOMIC = 1  # free pages in them (nr_free_highatomic; under 3.0 in MIGRATE_RESERVE pageblocks)
FREE_CMA = 2  # NR_FREE_CMA_PAGES
NR_ISOLATE_PAGEBLOCKS = 3
MAY_BE_UNMERGED = 4  # 1: free pageblocks changed their type, so that free buddies may be unmerged
NR_RESERVES = 5

# columns of `drift`, by zone: how far NR_FREE_PAGES may be off
STAT_THRESHOLD = 0  # stat_threshold: pages that a CPU may keep to itself; 0: the counter is exact
DRIFT_MARK = 1  # percpu_drift_mark
NR_DRIFT = 2

# columns of `pcp_tuning`: fields of one struct per_cpu_pages
PCP_HIGH_NOW = 0  # high, where it is auto-tuned (6.12)
PCP_ALLOC_FACTOR = 1
PCP_PREV_FREE_HIGH_ORDER = 2  # PCPF_PREV_FREE_HIGH_ORDER
PCP_EXPIRE = 3  # vmstat ticks until a pageset for another node's zone is drained
PCP_ACTIVE = 4  # the CPU changed this zone's counters since its last vmstat tick
NR_PCP_TUNING = 5

#: Length of `bad_pages`: the FREE_* reasons of ``mm/page_alloc.py`` are all below this.
NR_FREE_REASONS = 16

#: Owners (sessions and regions with pages here) that a node can know at one time.
MAX_OWNERS = 1 << 16

# kswapd: fields of pg_data_t
KSWAPD_ORDER = 0
KSWAPD_HIGHEST_ZONEIDX = 1
KSWAPD_FAILURES = 2
KSWAPD_WOKEN = 3  # 1: kswapd has been woken and has not gone back to sleep
NR_KSWAPD = 4

# struct scan_control: one pass over the LRU lists, kept between the steps of the pass
SC_LEFT = 0  # four words, one for each evictable LRU list: pages that the pass has yet to scan (nr)
SC_TARGETS = 4  # four words: pages of each list that the pass was to scan when it began (targets)
SC_RECLAIM_IDX = 8
SC_PRIORITY = 9
SC_MAY_WRITE = 10  # may_writepage and may_swap
SC_KSWAPD = 11  # 1: kswapd's pass, 0: direct reclaim's
SC_NR_TO_RECLAIM = 12
SC_NR_SCANNED = 13
SC_NR_RECLAIMED = 14
NR_SCAN_CONTROL = 15

# reclaim cost (lruvec.anon_cost, file_cost) and swap, in pages
ANON_COST = 0
FILE_COST = 1
SWAP_TOTAL = 2
SWAP_USED = 3
NR_RECLAIM_STAT = 4

I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]


class _Arrays(NamedTuple):
    """The fields of :class:`PgData`. [Z] zone, [C] CPU of the machine, [P] page, [B] pageblock."""

    # struct page, by column: [P]
    flags: npt.NDArray[np.uint16]
    order: npt.NDArray[np.uint8]
    #: Migratetype of the free list that a block on a pageset goes back to (page->index; 3.0: page_private).
    pcptype: npt.NDArray[np.uint8]
    refcount: npt.NDArray[np.int32]
    mapcount: npt.NDArray[np.int32]
    #: page->lru: links of a free list, pageset list, LRU list or owner list. [P + list heads]
    next: U32
    prev: U32
    #: Slot of the owner that holds the page; for LRU pages it plays the part of page->mapping.
    owner: U32
    #: page->index: offset in the region, in pages.
    pgoff: U32
    # pageblocks: [B]
    pb_migratetype: npt.NDArray[np.uint8]
    #: zone index + 1; 0 where a zone begins or ends inside the pageblock, or where no memory is on-line.
    pb_zone: npt.NDArray[np.uint8]
    #: order + 1 of the free block (order >= pageblock_order) that starts here; 0: none does.
    pb_order: npt.NDArray[np.uint8]
    pb_next: U32  # [B + list heads]
    pb_prev: U32
    # struct zone: [Z]. Spans may overlap after memory hotplug; `pb_zone` decides which zone a page is in.
    zone_start: I64  # index of the first page, relative to base_pfn
    zone_end: I64
    managed: I64
    watermark: I64  # [Z, NR_WMARK]
    watermark_boost: I64
    lowmem_reserve: I64  # [Z, Z]
    zone_flags: I64
    #: NR_ALLOC_BATCH (3.12 to 4.7): pages that the zone gives before others of its node have their turn.
    alloc_batch: I64
    nr_free: I64  # [Z, NR_ORDERS]
    vm_stat: I64  # [Z, zone_stat_item]
    numa_event: I64  # [Z, numa_stat_item]
    # pagesets
    pcp_high: I64  # [Z]
    pcp_batch: I64
    pcp_count: I64  # [C, Z]
    #: per_cpu_pages.free_factor (6.1) or .free_count (6.12): halved at each allocation. [C, Z]
    pcp_free_factor: I64
    pcp_high_max: I64  # [Z]: high_max of 6.12; there pcp_high is high_min
    pcp_tuning: I64  # [C, Z, NR_PCP_TUNING]
    cpu_local: I64  # [C]: 1 = a CPU of this node
    # beside NR_FREE_PAGES
    reserves: I64  # [Z, NR_RESERVES]
    drift: I64  # [Z, NR_DRIFT]
    free_delta: I64  # [C, Z]: part of NR_FREE_PAGES that a CPU keeps to itself
    # node
    node_stat: I64
    vm_event: I64
    kswapd: I64
    #: SC_*: the pass over the LRU lists that kswapd is in the middle of; zeros between passes.
    scan_control: I64
    reclaim_stat: I64
    owner_pages: I64  # [MAX_OWNERS]: pages that each owner has on this node
    owner_swap: I64  # [MAX_OWNERS]: pages of each owner that are in swap
    #: HEAD_*: index of the first list head of each kind, in next/prev or (HEAD_PB) in pb_next/pb_prev.
    heads: I64
    #: TUNE_*: sysctls and rules of the profile that kernels read.
    tune: I64
    #: PATH_* (``mm/vmstat.py``): work counters of the running operation; not state.
    path: I64
    #: Refused frees by FREE_* reason; not state.
    bad_pages: I64
    #: Ring of trace events; N is a power of two, or 0 while nobody listens. [N, TRACE_WORDS]
    trace: I64
    #: TRACE_*, EXPLAIN_ON: whether somebody listens, and how far the ring has been written; not state.
    trace_ctl: I64
    #: CALL_* and REPORT_* (mm/serve.py): arguments and results of one call by a request; not state.
    call: I64
    #: pfns of the blocks that the call frees or has allocated, and their indexes in the owner's region.
    call_pfns: I64
    call_indexes: U32
    looks: I64  # [Z, LOOK_WORDS]: what look_at_zones() (mm/zone_look.py) has recorded
    #: Terms of the watermark check at a walk's first and last visit to each zone. [Z, 2, CHECK_WORDS]
    checks: I64


class PgData(_Arrays):
    """State of one node: a tuple of arrays, and the table of their addresses by which kernels find them.

    The arrays change in place; to exchange one, `_replace` makes another PgData with a table of its own.
    """

    @cached_property
    def table(self) -> I64:
        """The address of each array's data followed by its shape, array after array in the order of LAYOUT.

        TypeError names an array that kernels would misread: one of another dtype, or not C-contiguous.
        """
        return table_of("PgData", self._asdict(), LAYOUT)

    @cached_property
    def address(self) -> int:
        """Address of the table, which is what a kernel is passed; valid while this PgData exists."""
        return self.table.ctypes.data

    def __reduce__(self) -> tuple[type[PgData], tuple[npt.NDArray[Any], ...]]:
        """Pickle the arrays without the cached table and address: a copy has its own."""
        return type(self), tuple(self)


HEAD_FREE = 0
HEAD_PCP = 1
HEAD_LRU = 2
HEAD_OWNER = 3
HEAD_PB = 4

TUNE_SWAPPINESS = 0
TUNE_BOOST_FACTOR = 1
TUNE_MOBILITY_DISABLED = 2
TUNE_PCP_MAX_ORDER = 3
TUNE_BLOCKS = 4  # BLOCKS_* of variants.py
TUNE_WATERMARK = 5  # WMARK_*
TUNE_PAGESET = 6  # PAGESET_*
TUNE_DIRTY = 7  # DIRTY_*
TUNE_PASS = 8  # PASS_*
TUNE_FAIR = 9  # 1: zones of a node give pages in turn (fair_zones)
NR_TUNE = 10

# words of `trace_ctl` (mm/tracepoints.py)
#: 1: somebody listens to events.
TRACE_ON = 0
#: Number of records ever written.
TRACE_WRITTEN = 1
#: Number of the context (task, CPU, time) in which the running operation was begun; kept outside the model.
TRACE_CONTEXT = 2
#: 1: an explanation is wanted, so walks record what they compare (mm/zone_watermark.py).
EXPLAIN_ON = 3
NR_TRACE_CTL = 4
TRACE_WORDS = 4

#: Length of `call`; mm/serve.py asserts that every CALL_* and REPORT_* word fits.
CALL_WORDS = 64
#: Initial length of `call_pfns` and `call_indexes`; they grow when a call has more blocks.
CALL_BLOCKS = 1024

#: Words of `looks` for one zone; see ``zone_look.py``.
LOOK_WORDS = 3 + NR_ORDERS + MIGRATE_TYPES
#: Words of `checks` for one comparison; see ``zone_watermark.py``.
CHECK_WORDS = 15

#: Fields of PgData that are not state, and are left out of digests and snapshots.
SCRATCH_FIELDS = frozenset(
    {"path", "bad_pages", "trace", "trace_ctl", "call", "call_pfns", "call_indexes", "looks", "checks"}
)


def alloc_pgdata(base_pfn: int, end_pfn: int, nr_zones: int, nr_cpus: int) -> PgData:
    """Allocate the arrays for pages [base_pfn, end_pfn): all zeros, lists empty, no zone initialized.

    `base_pfn` is a multiple of MAX_ORDER_NR_PAGES (1024), so that buddies are found by XOR of indexes.
    """
    assert base_pfn % MAX_ORDER_NR_PAGES == 0
    pages = -(-(end_pfn - base_pfn) // MAX_ORDER_NR_PAGES) * MAX_ORDER_NR_PAGES
    blocks = pages >> PAGEBLOCK_ORDER
    free_heads = nr_zones * PAGEBLOCK_ORDER * MIGRATE_TYPES
    pcp_heads = nr_cpus * nr_zones * NR_PCP_LISTS
    lru_heads = nr_zones * NR_LRU_LISTS
    pb_heads = nr_zones * (NR_ORDERS - PAGEBLOCK_ORDER) * MIGRATE_TYPES
    heads = np.array(
        [
            pages,
            pages + free_heads,
            pages + free_heads + pcp_heads,
            pages + free_heads + pcp_heads + lru_heads,
            blocks,
        ],
        dtype=np.int64,
    )
    links = pages + free_heads + pcp_heads + lru_heads + MAX_OWNERS

    def z(*shape: int, dtype: Any = np.int64) -> Any:
        return np.zeros(shape, dtype=dtype)

    pg = PgData(
        flags=z(pages, dtype=np.uint16),
        order=z(pages, dtype=np.uint8),
        pcptype=z(pages, dtype=np.uint8),
        refcount=z(pages, dtype=np.int32),
        mapcount=z(pages, dtype=np.int32),
        next=z(links, dtype=np.uint32),
        prev=z(links, dtype=np.uint32),
        owner=z(pages, dtype=np.uint32),
        pgoff=z(pages, dtype=np.uint32),
        pb_migratetype=z(blocks, dtype=np.uint8),
        pb_zone=z(blocks, dtype=np.uint8),
        pb_order=z(blocks, dtype=np.uint8),
        pb_next=z(blocks + pb_heads, dtype=np.uint32),
        pb_prev=z(blocks + pb_heads, dtype=np.uint32),
        zone_start=z(nr_zones),
        zone_end=z(nr_zones),
        managed=z(nr_zones),
        watermark=z(nr_zones, NR_WMARK),
        watermark_boost=z(nr_zones),
        lowmem_reserve=z(nr_zones, nr_zones),
        zone_flags=z(nr_zones),
        alloc_batch=z(nr_zones),
        nr_free=z(nr_zones, NR_ORDERS),
        vm_stat=z(nr_zones, len(ZONE_STAT_NAMES)),
        numa_event=z(nr_zones, len(NUMA_EVENT_NAMES)),
        pcp_high=z(nr_zones),
        pcp_batch=z(nr_zones),
        pcp_count=z(nr_cpus, nr_zones),
        pcp_free_factor=z(nr_cpus, nr_zones),
        pcp_high_max=z(nr_zones),
        pcp_tuning=z(nr_cpus, nr_zones, NR_PCP_TUNING),
        cpu_local=z(nr_cpus),
        reserves=z(nr_zones, NR_RESERVES),
        drift=z(nr_zones, NR_DRIFT),
        free_delta=z(nr_cpus, nr_zones),
        node_stat=z(len(NODE_STAT_NAMES)),
        vm_event=z(NR_VM_EVENTS),
        kswapd=z(NR_KSWAPD),
        scan_control=z(NR_SCAN_CONTROL),
        reclaim_stat=z(NR_RECLAIM_STAT),
        owner_pages=z(MAX_OWNERS),
        owner_swap=z(MAX_OWNERS),
        heads=heads,
        tune=z(NR_TUNE),
        path=z(NR_PATH),
        bad_pages=z(NR_FREE_REASONS),
        trace=z(0, TRACE_WORDS),
        trace_ctl=z(NR_TRACE_CTL),
        call=z(CALL_WORDS),
        call_pfns=z(CALL_BLOCKS),
        call_indexes=z(CALL_BLOCKS, dtype=np.uint32),
        looks=z(nr_zones, LOOK_WORDS),
        checks=z(nr_zones, 2, CHECK_WORDS),
    )
    for array, first in ((pg.next, pages), (pg.prev, pages), (pg.pb_next, blocks), (pg.pb_prev, blocks)):
        array[first:] = np.arange(first, len(array), dtype=np.uint32)
    return pg


LAYOUT = layout_of(alloc_pgdata(0, 1, 1, 1)._asdict())


def zone_pageblocks(pg: PgData, zone: int) -> I64:
    """Pageblocks in a zone's span that do not belong to another zone, ascending."""
    first, last = int(pg.zone_start[zone]) >> PAGEBLOCK_ORDER, -(-int(pg.zone_end[zone]) >> PAGEBLOCK_ORDER)
    whose = pg.pb_zone[first:last]
    return np.flatnonzero((whose == 0) | (whose == zone + 1)).astype(np.int64) + first


def in_zone(pg: PgData, zone: int, pages: I64) -> npt.NDArray[np.bool_]:
    """Which of `pages`, indexes in mem_map, belong to a zone."""
    whose = pg.pb_zone[np.clip(pages >> PAGEBLOCK_ORDER, 0, len(pg.pb_zone) - 1)]
    spanned = (pages >= pg.zone_start[zone]) & (pages < pg.zone_end[zone])
    return np.asarray(spanned & ((whose == zone + 1) | (whose == 0)))
