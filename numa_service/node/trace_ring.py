"""The ring buffer of a node's trace events, and the listeners that read it.

While somebody listens, compiled kernels write records into the ring (``mm/tracepoints.py``). A record holds
what the compiled code knows. What is the same for all records of an op (its task, CPU, gfp flags and time) is
written once, as the op's context, when the op begins. Listeners read at their own speed; a slow one misses
the events that have been overwritten, and is told how many. Tracing is not part of the node's state and does
not change it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from numa_service.machine.latency import LatencyModel
from numa_service.mm import tracepoints as tp
from numa_service.mm.mmzone import LRU_INACTIVE_ANON, LRU_INACTIVE_FILE, MIGRATE_PCPTYPES, PAGEBLOCK_ORDER
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import (
    KSWAPD_HIGHEST_ZONEIDX,
    KSWAPD_ORDER,
    KSWAPD_WOKEN,
    NR_TRACE_CTL,
    TRACE_CONTEXT,
    TRACE_ON,
    TRACE_WORDS,
    TRACE_WRITTEN,
    TUNE_PCP_MAX_ORDER,
)
from numa_service.node import ops
from numa_service.node.ops.op import Op
from numa_service.node.owners import Owner
from numa_service.trace.tracepoint_formats import (
    MIGRATE_SYNC,
    NR_FIELDS,
    RECLAIM_WB_ANON,
    RECLAIM_WB_ASYNC,
    RECLAIM_WB_FILE,
    EmittedEvents,
)

I64 = npt.NDArray[np.int64]

#: Records in a node's ring, by default: with the contexts they take 4 MiB.
RING_EVENTS = 1 << 16
#: Most records of a ring: the number of a context has no more bits.
MAX_RING_EVENTS = 1 << 20
#: Records that one read of the ring goes through at most.
MAX_TAKE = 1 << 11

# Kinds of tasks: an owner (named after its home node), kswapd, and the worker of everything else.
_TASK_OWNER = 0
_TASK_KSWAPD = 1
_TASK_WORKER = 2
#: The pid of a kswapd or a worker is this plus its nid; that of an owner is the owner's id.
KSWAPD_PID = 1_000_000
WORKER_PID = 2_000_000

# Columns of the context of an op.
_TIME, _TASK, _PID, _CPU, _GFP = range(5)
_CONTEXT_WORDS = 5

_LOW = (1 << tp.CONTEXT_SHIFT) - 1


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a listener wants; a field that is None lets all events pass."""

    #: Tracepoints (``mm/tracepoints.py``).
    kinds: tuple[int, ...] | None = None
    #: Zone indexes, and orders. An event without a zone, or without an order, does not pass such a filter.
    zones: tuple[int, ...] | None = None
    orders: tuple[int, ...] | None = None

    def of(self, events: EmittedEvents) -> npt.NDArray[np.bool_]:
        """Return, for each event, whether it passes."""
        wanted = np.ones(len(events), dtype=np.bool_)
        for column, values in (
            (events.kind, self.kinds),
            (events.zone, self.zones),
            (events.order, self.orders),
        ):
            if values is not None:
                wanted &= np.isin(column, values)
        return wanted


@dataclass(frozen=True, slots=True)
class AllocatedObjects:
    """What the events of objects that one request got have in common. Sizes are bytes."""

    #: They are of kmalloc, else of kmem_cache_alloc.
    kmalloc: bool
    bytes_req: int
    bytes_alloc: int
    #: The node that was asked for; -1: none.
    nid: int
    #: A memory cgroup would be charged.
    accounted: bool


class Tracer:
    """The ring of one node while somebody listens, and the clock by which its events are stamped."""

    def __init__(self, pgdat: Pgdat, model: LatencyModel, now: Callable[[], int], ring_events: int) -> None:
        """Start recording into a ring of `ring_events` records, a power of two.

        `now` returns the shell's virtual time in ns, or always 0 if the shell has no virtual clock.
        """
        assert ring_events & (ring_events - 1) == 0
        assert ring_events <= MAX_RING_EVENTS
        self._pgdat = pgdat
        self._now = now
        self._contexts = np.zeros((ring_events, _CONTEXT_WORDS), dtype=np.int64)
        self._mask = ring_events - 1
        self._context = 0
        self._begun_at = -1
        self._was_woken = False
        self._op_at = 0
        #: The clock in virtual ns; and by CPU, what it was when the CPU's current request began.
        self.clock_ns = now()
        self._started: dict[int, int] = {}
        #: Names of slab caches that frees are of; records have their places here.
        self._caches: dict[str, int] = {}
        self._cost = np.zeros(tp.NR_TRACEPOINTS, dtype=np.int64)
        for kind in (tp.MM_PAGE_ALLOC, tp.MM_PAGE_FREE):
            self._cost[kind] = model.pageset_hit_ns
        for kind in (tp.MM_PAGE_ALLOC_ZONE_LOCKED, tp.MM_PAGE_PCPU_DRAIN):
            self._cost[kind] = model.buddy_block_ns
        self._cost[tp.MM_VMSCAN_WRITE_FOLIO] = model.swap_page_ns
        self._scan_ns = model.reclaim_page_ns
        self._free_ns = model.pageset_hit_ns
        self._cpus = np.array(pgdat.all_cpus, dtype=np.int64)
        self._set_ring(ring_events)
        pgdat.pg.trace_ctl[TRACE_ON] = 1
        self._begin(_TASK_WORKER, WORKER_PID + pgdat.nid, None, 0)

    def stop(self) -> None:
        """Stop recording and release the ring."""
        self._pgdat.pg.trace_ctl[TRACE_ON] = 0
        self._set_ring(0)

    def _set_ring(self, ring_events: int) -> None:
        """Give the node a new, empty ring.

        It has control words of its own, so that a caller that still has the old ring cannot write into the
        new one by them.
        """
        self._pgdat.trace_into(
            np.zeros((ring_events, TRACE_WORDS), dtype=np.int64), np.zeros(NR_TRACE_CTL, dtype=np.int64)
        )

    @property
    def written(self) -> int:
        """Number of records written since recording began, including those that were overwritten."""
        return int(self._pgdat.pg.trace_ctl[TRACE_WRITTEN])

    # called by the node

    def op_begins(self, op: Op[Any]) -> None:
        """Begin the context of the events that the op will emit."""
        begins = _BEGINS.get(type(op))
        if begins is not None:
            begins(self, op)
        self._was_woken = bool(self._pgdat.pg.kswapd[KSWAPD_WOKEN])
        self._op_at = self.written

    def op_ends(self, op: Op[Any], result: Any) -> None:
        """Emit the op's events that compiled code does not emit, and advance the clock by the op's work."""
        ring, written = self._pgdat.pg.trace, self.written
        first = max(self._op_at, written - len(ring))
        if first < written:
            self.clock_ns += int(self._costs(ring[np.arange(first, written) & self._mask]).sum())
        if isinstance(op, ops.Alloc) and result.spent:
            self._spent(op.cpu, result.spent.latency_ns)
        elif isinstance(op, ops.Free) and op.spends and op.cpu is not None:
            self._spent(op.cpu, len(op.pfns) // 8 * self._free_ns)
        if isinstance(op, ops.KswapdStep):
            self._kswapd_stepped(result)
        if self._pgdat.pg.kswapd[KSWAPD_WOKEN] and not self._was_woken:
            if isinstance(op, ops.WakeKswapd):
                self._contexts[self._context & self._mask, _GFP] = op.gfp
            state = self._pgdat.pg.kswapd
            zone, order = int(state[KSWAPD_HIGHEST_ZONEIDX]), int(state[KSWAPD_ORDER])
            self._emit(tp.MM_VMSCAN_WAKEUP_KSWAPD, zone, order=order)

    def _kswapd_stepped(self, result: ops.KswapdStepResult) -> None:
        if result.did is ops.KswapdDid.BEGAN:
            self._emit(tp.MM_VMSCAN_KSWAPD_WAKE, result.highest_zoneidx, order=result.order)
        elif not result.runs_on:
            self._emit(tp.MM_VMSCAN_KSWAPD_SLEEP)

    def failed(self, owner: Owner, cpu: int, gfp: int, order: int, migratetype: int) -> None:
        """Emit the mm_page_alloc of an allocation that failed: its page is NULL, and it has no zone."""
        self._request(owner, cpu, gfp)
        self._emit(tp.MM_PAGE_ALLOC, order=order, migratetype=migratetype)

    def direct_reclaim_begin(self, owner: Owner, cpu: int, gfp: int, order: int) -> None:
        """Emit that a request begins direct reclaim."""
        self._request(owner, cpu, gfp)
        self._emit(tp.MM_VMSCAN_DIRECT_RECLAIM_BEGIN, order=order)

    def direct_reclaim_end(self, owner: Owner, cpu: int, gfp: int, reclaimed: int) -> None:
        """Emit that a request has ended direct reclaim; `reclaimed` are pages of all nodes."""
        self._request(owner, cpu, gfp)
        self._emit(tp.MM_VMSCAN_DIRECT_RECLAIM_END, reclaimed)

    def objects_allocated(
        self, owner: Owner, cpu: int, gfp: int, objects: list[int], what: AllocatedObjects
    ) -> None:
        """Emit that an owner got objects of a slab cache."""
        self._request(owner, cpu, gfp)
        kind = tp.KMALLOC if what.kmalloc else tp.KMEM_CACHE_ALLOC
        if what.nid >= 0 and self._pgdat.profile.traces_kmem_node:
            kind = tp.KMALLOC_NODE if what.kmalloc else tp.KMEM_CACHE_ALLOC_NODE
        self._emit_objects(
            kind, objects, what.nid + 1 | what.accounted << 16, what.bytes_req << 32 | what.bytes_alloc
        )

    def objects_freed(self, owner: Owner, cpu: int, objects: list[int], cache: str) -> None:
        """Emit that objects were freed; `cache` is "" for kfree."""
        self._request(owner, cpu, 0)
        place = self._caches.setdefault(cache, len(self._caches)) if cache else 0
        self._emit_objects(tp.KMEM_CACHE_FREE if cache else tp.KFREE, objects, place, 0)

    def _emit_objects(self, kind: int, objects: list[int], a: int, c: int) -> None:
        """Write a record for each object, whose address is its word b."""
        pg = self._pgdat.pg
        at = int(pg.trace_ctl[TRACE_WRITTEN])
        rows = np.arange(at, at + len(objects)) & self._mask
        pg.trace[rows, 0] = (
            kind | tp.NO_FIELD << tp.HEAD_ORDER_SHIFT | tp.NO_FIELD << tp.HEAD_MIGRATETYPE_SHIFT
        )
        pg.trace[rows, 1] = (self._context & self._mask) << tp.CONTEXT_SHIFT | a
        pg.trace[rows, 2] = np.array(objects, np.uint64).view(np.int64)
        pg.trace[rows, 3] = c
        pg.trace_ctl[TRACE_WRITTEN] = at + len(objects)

    def migrated(self, succeeded: int, failed: int, reason: int) -> None:
        """Emit the result of one pass of migrate_pages(), in pages; `reason` is an MR_* number."""
        self._worker(None)
        self._emit(tp.MM_MIGRATE_PAGES, succeeded, failed, MIGRATE_SYNC | reason << 8)

    def _emit(
        self,
        kind: int,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        order: int = tp.NO_FIELD,
        migratetype: int = tp.NO_FIELD,
    ) -> None:
        """Write a record of an event that no compiled kernel emits; it has no zone."""
        pg = self._pgdat.pg
        at = int(pg.trace_ctl[TRACE_WRITTEN])
        head = kind | order << tp.HEAD_ORDER_SHIFT | migratetype << tp.HEAD_MIGRATETYPE_SHIFT
        pg.trace[at & self._mask] = head, (self._context & self._mask) << tp.CONTEXT_SHIFT | a, b, c
        pg.trace_ctl[TRACE_WRITTEN] = at + 1

    def _request(self, owner: Owner, cpu: int | None, gfp: int) -> None:
        """Begin a context for events of an owner's request."""
        self._begin(_TASK_OWNER | owner.nid << 8, owner.id & 0x7FFF_FFFF, cpu, gfp)
        if cpu in self._pgdat.cpus:
            self._started.setdefault(cpu, self.clock_ns)

    def spend(self, op: ops.Spend) -> None:
        """Advance the clock at the end of a request, whose op Spend says how long all of it took.

        The time counts from the request's beginning: other CPUs may have advanced the clock since.
        """
        self._spent(op.cpu, op.ns)

    def _spent(self, cpu: int, ns: int) -> None:
        began = self._started.pop(cpu, self.clock_ns)
        self.clock_ns = max(self.clock_ns, began + ns)

    def _begin(self, task: int, pid: int, cpu: int | None, gfp: int) -> None:
        ctl = self._pgdat.pg.trace_ctl
        if self._begun_at != ctl[TRACE_WRITTEN]:  # else the last context has no events and is overwritten
            self._context += 1
            self._begun_at = int(ctl[TRACE_WRITTEN])
            ctl[TRACE_CONTEXT] = self._context & self._mask
        self.clock_ns = max(self.clock_ns, self._now())
        if cpu is None:
            cpu = (*self._pgdat.cpus, *self._pgdat.all_cpus)[0]
        self._contexts[self._context & self._mask] = self.clock_ns, task, pid, cpu, gfp

    def _owner(self, op: Any) -> None:
        self._request(op.owner, getattr(op, "cpu", None), getattr(op, "gfp", 0))

    def _kswapd(self, _: Any) -> None:
        nid = self._pgdat.nid
        self._begin(_TASK_KSWAPD | nid << 8, KSWAPD_PID + nid, None, 0)

    def _worker(self, _: Any) -> None:
        nid = self._pgdat.nid
        self._begin(_TASK_WORKER | nid << 8, WORKER_PID + nid, None, 0)

    # reading

    def read(self, position: int, last_ns: int) -> tuple[EmittedEvents, int, int]:
        """Return events from a position on, the number of records lost before them, and the next position.

        Event times are at least `last_ns`.
        """
        ring, written = self._pgdat.pg.trace, self.written
        first = max(position, written - len(ring))
        end = min(written, first + MAX_TAKE)
        at = np.arange(first, end) & self._mask
        return self._events(ring[at], last_ns), first - position, end

    def _events(self, records: I64, last_ns: int) -> EmittedEvents:
        """Return records, completed by their contexts, as events."""
        head = records[:, 0]
        kind = (head & 0xFF).astype(np.uint8)
        number = records[:, 1] >> tp.CONTEXT_SHIFT
        context = self._contexts[number]
        cpu = head >> tp.HEAD_CPU_SHIFT
        order = (head >> tp.HEAD_ORDER_SHIFT) & 0xFF
        tasks, comm = np.unique(context[:, _TASK], return_inverse=True)
        # first, so that the places in the records are places among all names
        caches = tuple(self._caches) if (kind == tp.KMEM_CACHE_FREE).any() else ()
        return EmittedEvents(
            nid=self._pgdat.nid,
            kind=kind,
            time_ns=self._times(number, context[:, _TIME], records, last_ns),
            cpu=np.where(cpu > 0, self._cpus[np.maximum(cpu - 1, 0)], context[:, _CPU]),
            pid=context[:, _PID],
            comm=comm.astype(np.int64) + len(caches),
            zone=((head >> tp.HEAD_ZONE_SHIFT) & 0xFF) - 1,
            order=np.where(order == tp.NO_FIELD, -1, order),
            values=self._values(kind, records, context[:, _GFP]),
            comms=(*caches, *(_comm(task) for task in tasks.tolist())),
        )

    def _costs(self, records: I64) -> I64:
        """Return the virtual ns that the work behind each event took, by the latency model."""
        kind = records[:, 0] & 0xFF
        cost: I64 = self._cost[kind]
        scans = (kind == tp.MM_VMSCAN_LRU_SHRINK_INACTIVE) | (kind == tp.MM_VMSCAN_LRU_SHRINK_ACTIVE)
        cost[scans] = (records[scans, 2] & 0xFFFF) * self._scan_ns
        return cost

    def _times(self, number: I64, begun: I64, records: I64, last_ns: int) -> I64:
        """Return the time of each event: its op's beginning plus the costs of the op's events up to it."""
        if not len(records):
            return begun
        cost = self._costs(records)
        total = np.cumsum(cost)
        new = np.concatenate([[True], number[1:] != number[:-1]])
        before = (total - cost)[new][np.cumsum(new) - 1]
        return np.maximum(np.maximum.accumulate(begun + total - before), last_ns)

    def _values(self, kind: npt.NDArray[np.uint8], records: I64, gfp: I64) -> I64:
        counts = NR_FIELDS[kind]
        ends = np.cumsum(counts)
        values = np.zeros(int(ends[-1]) if len(ends) else 0, dtype=np.int64)
        for which in np.unique(kind).tolist():
            rows = np.flatnonzero(kind == which)
            fields = self._fields(which, records[rows], gfp[rows])
            places = (ends[rows] - counts[rows])[:, None] + np.arange(len(fields))
            values[places] = np.stack([np.broadcast_to(column, len(rows)) for column in fields], axis=1)
        return values

    def _fields(self, kind: int, records: I64, gfp: I64) -> tuple[Any, ...]:
        """Return the fields of events of one kind, in the order of the tracepoint's format file.

        Each is a column, or one number that all events have.
        """
        head, b, c = records[:, 0], records[:, 2], records[:, 3]
        a = records[:, 1] & _LOW
        order, mt = (head >> tp.HEAD_ORDER_SHIFT) & 0xFF, (head >> tp.HEAD_MIGRATETYPE_SHIFT) & 0xFF
        nid = self._pgdat.nid
        pfn = a + self._pgdat.base_pfn
        match kind:
            case tp.MM_PAGE_ALLOC:
                # a failed allocation has no zone
                return np.where((head >> tp.HEAD_ZONE_SHIFT) & 0xFF, pfn, 0), order, gfp, mt
            case tp.MM_PAGE_FREE:
                return pfn, order
            case tp.MM_PAGE_FREE_BATCHED:
                return (pfn,)
            case tp.MM_PAGE_ALLOC_ZONE_LOCKED:
                return pfn, order, mt, self._refills(order) & (mt < MIGRATE_PCPTYPES)
            case tp.MM_PAGE_PCPU_DRAIN:
                return pfn, order, mt
            case tp.MM_PAGE_ALLOC_EXTFRAG:
                return pfn, order, b & 0xFF, mt, (b >> 8) & 0xFF, b >> 16
            case tp.MM_VMSCAN_KSWAPD_WAKE:
                return nid, a, order
            case tp.MM_VMSCAN_KSWAPD_SLEEP:
                return (np.full(len(a), nid),)
            case tp.MM_VMSCAN_WAKEUP_KSWAPD:
                return nid, a, order, gfp
            case tp.MM_VMSCAN_DIRECT_RECLAIM_BEGIN:
                return order, gfp
            case tp.MM_VMSCAN_DIRECT_RECLAIM_END:
                return (a,)
            case tp.MM_VMSCAN_LRU_ISOLATE:
                taken = (b >> 16) & 0xFFFF
                return b >> 32, 0, b & 0xFFFF, taken, 0, taken, a
            case tp.MM_VMSCAN_LRU_SHRINK_INACTIVE:
                anon, activated = a == LRU_INACTIVE_ANON, (c >> 16) & 0xFFFF
                return (
                    nid,
                    b & 0xFFFF,
                    (b >> 16) & 0xFFFF,
                    b >> 32,
                    *(0, 0, 0),  # no page is under writeback: writes complete at once
                    np.where(anon, activated, 0),
                    np.where(anon, 0, activated),
                    c & 0xFFFF,
                    0,
                    c >> 32,
                    _shrink_flags(a),
                )
            case tp.MM_VMSCAN_LRU_SHRINK_ACTIVE:
                return nid, b, 0, b, 0, c >> 32, _shrink_flags(a)
            case tp.MM_VMSCAN_WRITE_FOLIO:
                return pfn, np.where(mt, RECLAIM_WB_ANON, RECLAIM_WB_FILE) | RECLAIM_WB_ASYNC
            case tp.MM_MIGRATE_PAGES:
                return a, b, 0, 0, 0, 0, c & 0xFF, c >> 8
            case tp.KMALLOC | tp.KMALLOC_NODE | tp.KMEM_CACHE_ALLOC | tp.KMEM_CACHE_ALLOC_NODE:
                return 0, b, c >> 32, c & 0xFFFF_FFFF, gfp, (a & 0xFFFF) - 1, a >> 16
            case tp.KFREE:
                return 0, b
            case tp.KMEM_CACHE_FREE:
                return 0, b, a
        raise AssertionError(kind)

    def _refills(self, order: I64) -> Any:
        most = int(self._pgdat.pg.tune[TUNE_PCP_MAX_ORDER])
        return (order <= most) | ((order == PAGEBLOCK_ORDER) & (most > 0))


def _shrink_flags(lru: I64) -> Any:
    return np.where(lru >= LRU_INACTIVE_FILE, RECLAIM_WB_FILE, RECLAIM_WB_ANON) | RECLAIM_WB_ASYNC


def _comm(task: int) -> str:
    """Return the comm of a task: an owner has its home node's name, a kernel thread the kernel's name."""
    nid = task >> 8
    return (f"node{nid}", f"kswapd{nid}", f"kworker/{nid}")[task & 0xFF]


_BEGINS: dict[type[Op[Any]], Callable[[Tracer, Any], None]] = {
    ops.Alloc: Tracer._owner,
    ops.Free: Tracer._owner,
    ops.FreeOwner: Tracer._owner,
    ops.Release: Tracer._owner,
    ops.ReleaseMigrated: Tracer._owner,
    ops.KswapdStep: Tracer._kswapd,
    ops.DrainPagesets: Tracer._worker,
    ops.VmstatTick: Tracer._worker,
    ops.OfflinePages: Tracer._worker,
    ops.Spend: Tracer.spend,
}


class Listener:
    """One reader of a node's events, with its own position in the ring."""

    def __init__(self, tracer: Tracer, wanted: EventFilter, close: Callable[[Listener], None]) -> None:
        self._tracer = tracer
        self._wanted = wanted
        self._position = tracer.written
        self._last_ns = 0
        self._close = close
        #: Number of events that were overwritten before this listener read them.
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Number of records that it has not read, including those that were overwritten."""
        return self._tracer.written - self._position

    def take(self) -> EmittedEvents:
        """Return the wanted ones among the next records, of which it reads MAX_TAKE at most."""
        events, dropped, self._position = self._tracer.read(self._position, self._last_ns)
        self.dropped += dropped
        if len(events):
            self._last_ns = int(events.time_ns[-1])
        return _selected(events, self._wanted.of(events))

    def close(self) -> None:
        """Stop listening. The node stops recording when its last listener is closed."""
        self._close(self)


def _selected(events: EmittedEvents, wanted: npt.NDArray[np.bool_]) -> EmittedEvents:
    if wanted.all():
        return events
    columns = ("kind", "time_ns", "cpu", "pid", "comm", "zone", "order")
    kept: dict[str, Any] = {name: getattr(events, name)[wanted] for name in columns}
    values = events.values[np.repeat(wanted, NR_FIELDS[events.kind])]
    return EmittedEvents(nid=events.nid, values=values, comms=events.comms, **kept)


class Tracepoints:
    """The tracepoints of one node, which are on while there are listeners."""

    def __init__(self, pgdat: Pgdat, model: LatencyModel) -> None:
        self._pgdat = pgdat
        self._model = model
        self._listeners: list[Listener] = []
        #: Returns the shell's virtual time in ns, if it has a virtual clock. Otherwise event times advance
        #: only by what the node's work takes.
        self.now: Callable[[], int] = lambda: 0
        #: The ring, while there are listeners.
        self.tracer: Tracer | None = None

    @property
    def listeners(self) -> int:
        """Number of listeners."""
        return len(self._listeners)

    def listen(self, wanted: EventFilter | None = None, ring_events: int = RING_EVENTS) -> Listener:
        """Add a listener to the events from now on.

        The first listener determines the size of the ring, in records; for the others `ring_events` is
        ignored.
        """
        if self.tracer is None:
            self.tracer = Tracer(self._pgdat, self._model, self.now, ring_events)
        listener = Listener(self.tracer, wanted or EventFilter(), self._left)
        self._listeners.append(listener)
        return listener

    def _left(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)
            if not self._listeners and self.tracer:
                self.tracer.stop()
                self.tracer = None
