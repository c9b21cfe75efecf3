"""Tracepoints of the memory model: events that kernels record (``include/trace/events``).

Each node has one ring of fixed-size records (``PgData.trace``), in which a new record overwrites the oldest.
A tracepoint tests ``trace_ctl[TRACE_ON]``, which is 0 while nobody listens, once for a block or a run of
blocks. The ring is not part of the state: digests leave it out, and the model never reads it.
"""

from __future__ import annotations

from numa_service.mm.jit import i64, kernel
from numa_service.mm.pgdata import I64, TRACE_CONTEXT, TRACE_WRITTEN, PgData

# Kinds of events; the first six have the numbers of ``trace.events.EventKind``.
MM_PAGE_ALLOC = 0
MM_PAGE_FREE = 1
MM_PAGE_FREE_BATCHED = 2
MM_PAGE_ALLOC_ZONE_LOCKED = 3
MM_PAGE_PCPU_DRAIN = 4
MM_PAGE_ALLOC_EXTFRAG = 5
MM_VMSCAN_KSWAPD_WAKE = 6
MM_VMSCAN_KSWAPD_SLEEP = 7
MM_VMSCAN_WAKEUP_KSWAPD = 8
MM_VMSCAN_DIRECT_RECLAIM_BEGIN = 9
MM_VMSCAN_DIRECT_RECLAIM_END = 10
MM_VMSCAN_LRU_ISOLATE = 11
MM_VMSCAN_LRU_SHRINK_INACTIVE = 12
MM_VMSCAN_LRU_SHRINK_ACTIVE = 13
MM_VMSCAN_WRITE_FOLIO = 14
MM_MIGRATE_PAGES = 15
KMALLOC = 16
KMALLOC_NODE = 17
KFREE = 18
KMEM_CACHE_ALLOC = 19
KMEM_CACHE_ALLOC_NODE = 20
KMEM_CACHE_FREE = 21
NR_TRACEPOINTS = 22

# A record is four words: head, context << 40 | page index (or LRU list), b, c. The head has, from bit 0:
# kind, order, migratetype, zone index + 1 (8 bits each), position of the CPU + 1 (16 bits; 0: the context's
# CPU).
HEAD_ORDER_SHIFT = 8
HEAD_MIGRATETYPE_SHIFT = 16
HEAD_ZONE_SHIFT = 24
HEAD_CPU_SHIFT = 32
CONTEXT_SHIFT = 40
#: Value of order or migratetype for an event that has none.
NO_FIELD = 0xFF


@kernel
def trace_record(ring: I64, ctl: I64, head: int, a: int, b: int, c: int) -> None:
    """Write a record into the ring, over the oldest one; `a` is the page index or LRU list."""
    written = ctl[TRACE_WRITTEN]
    at = written & (ring.shape[0] - 1)
    ring[at, 0] = head
    ring[at, 1] = (ctl[TRACE_CONTEXT] << CONTEXT_SHIFT) | a
    ring[at, 2] = b
    ring[at, 3] = c
    ctl[TRACE_WRITTEN] = written + 1


@kernel
def trace_page(pg: PgData, kind: int, zone: int, idx: int, order: int, mt: int) -> None:
    """Record an event of one block."""
    head = (
        kind | (order << HEAD_ORDER_SHIFT) | (mt << HEAD_MIGRATETYPE_SHIFT) | ((zone + 1) << HEAD_ZONE_SHIFT)
    )
    trace_record(pg.trace, pg.trace_ctl, head, idx, i64(0), i64(0))


@kernel
def trace_pages(
    pg: PgData, kind: int, zone: int, pages: I64, start: int, end: int, order: int, mt: int
) -> None:
    """Record the same event for each of the blocks pages[start:end]."""
    head = (
        kind | (order << HEAD_ORDER_SHIFT) | (mt << HEAD_MIGRATETYPE_SHIFT) | ((zone + 1) << HEAD_ZONE_SHIFT)
    )
    context = pg.trace_ctl[TRACE_CONTEXT] << CONTEXT_SHIFT
    mask = pg.trace.shape[0] - 1
    at = pg.trace_ctl[TRACE_WRITTEN]
    for i in range(start, end):
        row = at & mask
        pg.trace[row, 0] = head
        pg.trace[row, 1] = context | pages[i]
        at += 1
    pg.trace_ctl[TRACE_WRITTEN] = at


@kernel
def trace_drain(pg: PgData, zone: int, cpu: int, idx: int, order: int, mt: int) -> None:
    """Record mm_page_pcpu_drain: a block left the pageset of `cpu`, which need not be the running CPU."""
    head = (
        MM_PAGE_PCPU_DRAIN
        | (order << HEAD_ORDER_SHIFT)
        | (mt << HEAD_MIGRATETYPE_SHIFT)
        | ((zone + 1) << HEAD_ZONE_SHIFT)
        | ((cpu + 1) << HEAD_CPU_SHIFT)
    )
    trace_record(pg.trace, pg.trace_ctl, head, idx, i64(0), i64(0))


@kernel
def trace_extfrag(
    pg: PgData, zone: int, idx: int, order: int, mt: int, fallback_order: int, fallback_mt: int, owned: bool
) -> None:
    """Record mm_page_alloc_extfrag: a request of type `mt` is served by a block of type `fallback_mt`.

    `owned` says whether the block's pageblock is of type `mt` now (change_ownership).
    """
    head = (
        MM_PAGE_ALLOC_EXTFRAG
        | (order << HEAD_ORDER_SHIFT)
        | (mt << HEAD_MIGRATETYPE_SHIFT)
        | ((zone + 1) << HEAD_ZONE_SHIFT)
    )
    fallback = fallback_order | (fallback_mt << 8) | (i64(owned) << 16)
    trace_record(pg.trace, pg.trace_ctl, head, idx, fallback, i64(0))


@kernel
def trace_vmscan(pg: PgData, kind: int, zone: int, lru: int, b: int, c: int) -> None:
    """Record an event of an LRU list; `b` and `c` have its counts, 16 bits each (``node/trace_ring.py``)."""
    head = (
        kind
        | (NO_FIELD << HEAD_ORDER_SHIFT)
        | (NO_FIELD << HEAD_MIGRATETYPE_SHIFT)
        | ((zone + 1) << HEAD_ZONE_SHIFT)
    )
    trace_record(pg.trace, pg.trace_ctl, head, lru, b, c)
