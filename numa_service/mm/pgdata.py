"""pg_data_t by column: one NamedTuple of arrays a node (``struct pglist_data``, ``zone``, ``page``).

``mem_map`` is an array per field of ``struct page``, indexed by ``pfn - base_pfn``; the zone is an axis, not
an object. Every per-page array starts zero and zero means "nothing": memory of the host is used only
for pages that were touched.

All lists are circular and doubly linked through ``next``/``prev`` like the kernel's ``list_head``; the
heads are extra entries behind the pages. Free blocks of pageblock size and above are linked through
``pb_next``/``pb_prev`` instead, one entry a pageblock, so that a huge empty node costs nothing.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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

# page flags
PG_BUDDY = 1  # head of a free block below pageblock size
PG_PCP = 2  # on a pageset
PG_HELD = 4  # head of an allocated block
PG_RESERVED = 8  # never given to the buddy system
PG_LRU = 16
PG_ACTIVE = 32
PG_REFERENCED = 64
PG_DIRTY = 128
PG_SWAPBACKED = 256  # anonymous
PG_YOUNG = 512  # accessed through its page table since reclaim last looked (pte_young)
PG_HOLE = 1024  # no memory here: a hole in a pageblock that has some
PG_VISITED = 1 << 15  # scratch mark of one validation pass

# zone flags
ZONE_BOOSTED_WATERMARK = 1
ZONE_RECLAIM_ACTIVE = 2
ZONE_BELOW_HIGH = 4

#: Pageset lists: orders 0-3 for each of three migratetypes, and two for huge pages: 6.1 uses the first of
#: them, 6.12 the second for movable ones.
NR_PCP_LISTS = 4 * MIGRATE_PCPTYPES + 2
PCP_THP = NR_PCP_LISTS - 2
PCP_THP_MOVABLE = NR_PCP_LISTS - 1

# free memory that not everybody may use, and what marks it, by zone
RESERVED_HIGHATOMIC = 0  # pages of the pageblocks reserved for high-order atomic requests
FREE_HIGHATOMIC = 1  # of those (3.0: of MIGRATE_RESERVE), free
FREE_CMA = 2
NR_ISOLATE_PAGEBLOCKS = 3
MAY_BE_UNMERGED = 4  # labels changed under free blocks: large buddies may both be free
NR_RESERVES = 5

# drift of NR_FREE_PAGES, by zone
STAT_THRESHOLD = 0  # what a CPU may keep to itself; 0 = counters are exact
DRIFT_MARK = 1  # percpu_drift_mark
NR_DRIFT = 2

# tuning of one pageset
PCP_HIGH_NOW = 0  # per_cpu_pages.high where it moves (6.12)
PCP_ALLOC_FACTOR = 1
PCP_PREV_FREE_HIGH_ORDER = 2
PCP_EXPIRE = 3  # vmstat ticks until a remote node's pageset is drained
PCP_ACTIVE = 4  # the CPU changed this zone's counters since its last vmstat tick
NR_PCP_TUNING = 5

#: Reasons why a free is refused: FREE_* of page_alloc, less than this.
NR_FREE_REASONS = 16

#: Owners that a node can know at one time: sessions and regions with pages here.
MAX_OWNERS = 1 << 16

# kswapd state
KSWAPD_ORDER = 0
KSWAPD_HIGHEST_ZONEIDX = 1
KSWAPD_FAILURES = 2
KSWAPD_WOKEN = 3
NR_KSWAPD = 4

# scan_control: one pass over the LRU lists, between its steps
SC_LEFT = 0  # of each LRU list that can be evicted, pages that the pass has yet to scan
SC_TARGETS = 4  # what it was to scan of each when it began
SC_RECLAIM_IDX = 8
SC_PRIORITY = 9
SC_MAY_WRITE = 10  # may_writepage and may_swap
SC_KSWAPD = 11  # whose pass it is: kswapd's, or direct reclaim's
SC_NR_TO_RECLAIM = 12
SC_NR_SCANNED = 13
SC_NR_RECLAIMED = 14
NR_SCAN_CONTROL = 15

# reclaim cost and swap
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
    #: Type of the list a free or pageset page is on (the kernel keeps it in page->index).
    pcptype: npt.NDArray[np.uint8]
    refcount: npt.NDArray[np.int32]
    mapcount: npt.NDArray[np.int32]
    #: list_head lru: free list, pageset, LRU or owner list. [P + list heads]
    next: U32
    prev: U32
    #: Owner slot that holds the page; for LRU pages that is page->mapping.
    owner: U32
    #: page->index: offset in the region, in pages.
    pgoff: U32
    # pageblocks: [B]
    pb_migratetype: npt.NDArray[np.uint8]
    #: zone index + 1; 0 where a zone begins or ends within the pageblock, and where no memory is on-line.
    pb_zone: npt.NDArray[np.uint8]
    #: order + 1 of the free block (order ≥ pageblock_order) that starts here; 0 = none.
    pb_order: npt.NDArray[np.uint8]
    pb_next: U32  # [B + list heads]
    pb_prev: U32
    # struct zone: [Z]; spans may overlap after hotplug: `pb_zone` says whose a page is
    zone_start: I64  # index of the first page, relative to base_pfn
    zone_end: I64
    managed: I64
    watermark: I64  # [Z, NR_WMARK]
    watermark_boost: I64
    lowmem_reserve: I64  # [Z, Z]
    zone_flags: I64
    nr_free: I64  # [Z, NR_ORDERS]
    vm_stat: I64  # [Z, items]
    numa_event: I64  # [Z, 6]
    # pagesets
    pcp_high: I64  # [Z]
    pcp_batch: I64
    pcp_count: I64  # [C, Z]
    #: free_factor (6.1) or free_count (6.12): halved at each allocation. [C, Z]
    pcp_free_factor: I64
    pcp_high_max: I64  # [Z]; pcp_high is the floor where there is a ceiling
    pcp_tuning: I64  # [C, Z, NR_PCP_TUNING]
    cpu_local: I64  # [C]: 1 = a CPU of this node
    # what the free page counter does not say
    reserves: I64  # [Z, NR_RESERVES]
    drift: I64  # [Z, NR_DRIFT]
    free_delta: I64  # [C, Z]: part of NR_FREE_PAGES that a CPU keeps to itself
    # node
    node_stat: I64
    vm_event: I64
    kswapd: I64
    #: SC_*: the pass that kswapd is in the middle of; zero between passes.
    scan_control: I64
    reclaim_stat: I64
    owner_pages: I64  # [MAX_OWNERS]
    owner_swap: I64  # [MAX_OWNERS]
    #: Where list heads start in next/prev: free lists, pagesets, LRUs, owners.
    heads: I64
    #: Tunables that kernels read: see TUNE_*.
    tune: I64
    #: Work counters of the running op; not state.
    path: I64
    #: Frees refused, by reason; not state.
    bad_pages: I64
    #: Ring of events, a power of two of records; empty while nobody listens. [N, TRACE_WORDS]
    trace: I64
    #: TRACE_*: whether somebody does, and where the ring stands; not state.
    trace_ctl: I64
    #: What a request asks of a kernel, and is told: CALL_* and REPORT_* (mm/serve.py); not state.
    call: I64
    #: The blocks that it names or gets, as pfns, and the region indexes that it gives them.
    call_pfns: I64
    call_indexes: U32
    looks: I64  # [Z, LOOK_WORDS]: what zone_look.py has put down
    #: What was compared at the first visit of a walk to a zone, and at the last. [Z, 2, CHECK_WORDS]
    checks: I64


class PgData(_Arrays):
    """State of one node: arrays, all of which kernels find by one table of where they are.

    Never changed but in the arrays: `_replace` makes another one, with a table of its own.
    """

    @cached_property
    def table(self) -> I64:
        """For each array in turn the address of its data, then its shape.

        TypeError names an array that kernels would misread: of another dtype, or not C-contiguous.
        """
        words: list[int] = []
        for name, array in self._asdict().items():
            dtype, ndim, _ = LAYOUT[name]
            if array.dtype != dtype or array.ndim != ndim:
                raise TypeError(f"PgData.{name}: {array.dtype}[{array.ndim}] instead of {dtype}[{ndim}]")
            if not (array.flags.carray and array.flags.writeable):
                raise TypeError(f"PgData.{name}: not C-contiguous, aligned and writeable")
            words += [array.ctypes.data, *array.shape]
        return np.array(words, dtype=np.int64)

    @cached_property
    def address(self) -> int:
        """Where the table is: a :class:`PgData` as kernels are passed it, while the PgData is kept."""
        return self.table.ctypes.data

    def __reduce__(self) -> tuple[type[PgData], tuple[npt.NDArray[Any], ...]]:
        """A copy has a table of its own: without what is cached."""
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
TUNE_BLOCKS = 4  # BLOCKS_* of profile.py
TUNE_WATERMARK = 5  # WMARK_*
TUNE_PAGESET = 6  # PAGESET_*
TUNE_DIRTY = 7  # DIRTY_*
TUNE_PASS = 8  # PASS_*
NR_TUNE = 9

# the ring of events (mm/tracepoints.py)
TRACE_ON = 0
#: Records ever written.
TRACE_WRITTEN = 1
#: Number of the running context: what a record leaves to whoever began the op.
TRACE_CONTEXT = 2
#: Whether somebody asks why: then a walk writes down what it compares (mm/zone_watermark.py).
EXPLAIN_ON = 3
NR_TRACE_CTL = 4
TRACE_WORDS = 4

#: Length of `call`, asserted in serve.py to hold every word of a call and of its report.
CALL_WORDS = 64
#: Blocks that there is room for before a call has more.
CALL_BLOCKS = 1024

#: Of one zone; see ``zone_look.py``.
LOOK_WORDS = 3 + NR_ORDERS + MIGRATE_TYPES
#: Of one comparison; see ``zone_watermark.py``.
CHECK_WORDS = 15

#: Fields that are not state: left out of the digest.
SCRATCH_FIELDS = frozenset(
    {"path", "bad_pages", "trace", "trace_ctl", "call", "call_pfns", "call_indexes", "looks", "checks"}
)


def alloc_pgdata(base_pfn: int, end_pfn: int, nr_zones: int, nr_cpus: int) -> PgData:
    """Arrays for the pages [base_pfn, end_pfn), all zero, lists empty. base_pfn is a multiple of 1024."""
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


def _layout() -> dict[str, tuple[np.dtype[Any], int, int]]:
    """Each array's dtype, dimensions, and where its words are in ``PgData.table``."""
    layout, at = {}, 0
    for name, array in alloc_pgdata(0, 1, 1, 1)._asdict().items():
        layout[name] = array.dtype, array.ndim, at
        at += 1 + array.ndim
    return layout


LAYOUT = _layout()


def zone_pageblocks(pg: PgData, zone: int) -> I64:
    """Pageblocks with pages of a zone, ascending: those in its span that are no other zone's."""
    first, last = int(pg.zone_start[zone]) >> PAGEBLOCK_ORDER, -(-int(pg.zone_end[zone]) >> PAGEBLOCK_ORDER)
    whose = pg.pb_zone[first:last]
    return np.flatnonzero((whose == 0) | (whose == zone + 1)).astype(np.int64) + first


def in_zone(pg: PgData, zone: int, pages: I64) -> npt.NDArray[np.bool_]:
    """Which of these pages, by index, are a zone's."""
    whose = pg.pb_zone[np.clip(pages >> PAGEBLOCK_ORDER, 0, len(pg.pb_zone) - 1)]
    spanned = (pages >= pg.zone_start[zone]) & (pages < pg.zone_end[zone])
    return np.asarray(spanned & ((whose == zone + 1) | (whose == 0)))
