"""Tracepoints of the memory model: what kernels put down while somebody listens (``include/trace/events``).

Events go to one ring of fixed-size records a node (``PgData.trace``), the oldest overwritten. Nobody listens:
the ring is empty and each place looks at one word, ``trace_ctl[TRACE_ON]``, once a run of pages or a block.
Not state: a digest does not see it, and nothing here is read back by the model.
"""

from __future__ import annotations

from numa_service.mm.jit import i64, kernel
from numa_service.mm.pgdata import I64, TRACE_CONTEXT, TRACE_WRITTEN, PgData

# Kinds of events; the first six are numbered as in ``trace.events.EventKind``.
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
NR_TRACEPOINTS = 16

# A record: [head, context << 40 | page index, b, c]. The head, from bit 0: kind, order, migratetype and zone
# + 1 (8 bits each), position of the CPU + 1 (16 bits; 0: the context's).
HEAD_ORDER_SHIFT = 8
HEAD_MIGRATETYPE_SHIFT = 16
HEAD_ZONE_SHIFT = 24
HEAD_CPU_SHIFT = 32
CONTEXT_SHIFT = 40
#: Order and migratetype of an event that has none.
NO_FIELD = 0xFF


@kernel
def trace_record(ring: I64, ctl: I64, head: int, a: int, b: int, c: int) -> None:
    """Write a record over the oldest one."""
    written = ctl[TRACE_WRITTEN]
    at = written & (ring.shape[0] - 1)
    ring[at, 0] = head
    ring[at, 1] = (ctl[TRACE_CONTEXT] << CONTEXT_SHIFT) | a
    ring[at, 2] = b
    ring[at, 3] = c
    ctl[TRACE_WRITTEN] = written + 1


@kernel
def trace_page(pg: PgData, kind: int, zone: int, idx: int, order: int, mt: int) -> None:
    """An event of one block."""
    head = (
        kind | (order << HEAD_ORDER_SHIFT) | (mt << HEAD_MIGRATETYPE_SHIFT) | ((zone + 1) << HEAD_ZONE_SHIFT)
    )
    trace_record(pg.trace, pg.trace_ctl, head, idx, i64(0), i64(0))


@kernel
def trace_pages(
    pg: PgData, kind: int, zone: int, pages: I64, start: int, end: int, order: int, mt: int
) -> None:
    """The same event of each block pages[start:end]."""
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
    """A block left the pageset of a CPU, which need not be the one that runs."""
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
    """A block of another migratetype serves; `owned`: its pageblock now has the request's."""
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
    """An event of one LRU list; `b` and `c` hold its counts, 16 bits each (``node/tracepoints.py``)."""
    head = (
        kind
        | (NO_FIELD << HEAD_ORDER_SHIFT)
        | (NO_FIELD << HEAD_MIGRATETYPE_SHIFT)
        | ((zone + 1) << HEAD_ZONE_SHIFT)
    )
    trace_record(pg.trace, pg.trace_ctl, head, lru, b, c)
