"""The state of one node and the ops that change it: one writer, one ordered log."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from functools import lru_cache, partial, singledispatchmethod
from typing import Any, TypeVar

import numpy as np

from numa_service.machine.boot import Machine, start_kernel
from numa_service.machine.hotplug import MemoryState, memory_notify, memory_state
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.mm.invariants import check_pgdat
from numa_service.mm.memory_hotplug import BusyError
from numa_service.mm.mmzone import MIGRATE_CMA
from numa_service.mm.page_alloc import (
    ALLOC_NO_WATERMARKS,
    LRU_KIND_ANON,
    take_boosted,
)
from numa_service.mm.pgdat import MAX_OWNERS, BadPageError, Pgdat
from numa_service.mm.pgdata import (
    KSWAPD_FAILURES,
    KSWAPD_HIGHEST_ZONEIDX,
    KSWAPD_ORDER,
    KSWAPD_WOKEN,
    PG_HELD,
    PG_LRU,
    SWAP_USED,
)
from numa_service.mm.vmscan import kswapd_target
from numa_service.mm.vmstat import (
    ALLOCSTALL,
    PAGEOUTRUN,
    PATH_STEALS,
    PATH_SWAPPED,
    PGFAULT,
    PGMAJFAULT,
    PGMIGRATE_SUCCESS,
    PGPGIN,
)
from numa_service.mm.zonelist_cache import ZonelistCache, ZonelistScan
from numa_service.node import ops
from numa_service.node.books import (
    KswapdStats,
    Region,
    Session,
    check_pfns,
    pageblocks_around,
    unpack_indexes,
    unpack_pfns,
)
from numa_service.node.cost import Cost
from numa_service.node.errors import Busy, InvalidRequest, NotFound, Precondition, TooMany
from numa_service.node.load import Load
from numa_service.node.mempolicy import Walk
from numa_service.node.ops import Op, Owner
from numa_service.node.owners import ID_BITS, OwnerSlots, check_owners, unknown_session
from numa_service.node.prepare import PreparedRequests
from numa_service.node.replies import FirstReplies
from numa_service.node.tracepoints import Tracepoints
from numa_service.node.zone_account import Account

R = TypeVar("R")

#: Ops kept in the log in memory, and bytes of page numbers that they may hold.
LOG_LIMIT = 1 << 14
LOG_BYTES_LIMIT = 64 << 20
#: Ops kept of a log that was longer, up to twice as many: it can be replayed no more, and memory that is
#: always new makes every request slower.
LOG_TAIL = 1 << 9
MAX_SESSIONS = 1 << 14
MAX_REGION_PAGES = 1 << 24
#: Page-table entries of all regions together: 10 bytes each.
MAX_MAPPED_PAGES = 1 << 26


Observer = Callable[[int, Op[Any], Any], None]


class Node:
    """One NUMA node of a machine."""

    def __init__(self, machine: Machine, nid: int, incarnation: int = 1) -> None:
        self.machine = machine
        self.nid = nid
        self.incarnation = incarnation
        self.pgdat: Pgdat = machine.pgdats[nid]
        self.prepared = PreparedRequests(machine, nid)
        self.sessions: dict[int, Session] = {}
        self.regions: dict[int, Region] = {}
        #: A number is not used again by a later incarnation: who holds on to a session that died finds none.
        self._next_id = ((incarnation - 1) << ID_BITS) + 1
        self._slots = OwnerSlots(nid, incarnation)
        #: Every op in order, with nothing else; see `log_dropped`.
        self.log: deque[Op[Any]] = deque()
        #: Ops that are no longer in the log; it is replayable while this is 0.
        self.log_dropped = 0
        self._log_bytes = 0
        self._log_room = LOG_LIMIT
        self.replies = FirstReplies(lambda: self.clock())
        self.kswapd = KswapdStats()
        self.load = Load(machine.spec, nid)
        #: What it costs to get pages here, and to free blocks. Kept, and not to be changed:
        #: most requests cost what others did.
        model, kept = machine.spec.latency, lru_cache(maxsize=1 << 10)
        self.cost_of_pages = kept(partial(Cost.of_pages_here, model, self.load))
        self.cost_of_free = kept(partial(Cost.of_free, model))
        self.alloc_failures: dict[int, int] = {}  #: order → blocks that nobody had; not state
        self.tracepoints = Tracepoints(self.pgdat, machine.spec.latency)
        #: Questions asked of other nodes: numbers their request ids.
        self.asked = 0
        #: Zonelist caches (3.0) of the fallback lists that requests of this node walk, by the lists' nodes.
        self._zonelist_caches: dict[int, ZonelistCache] = {}
        #: Now, in ns, as the shell around this node tells it; for what wears off with time.
        self.clock: Callable[[], int] = lambda: 0
        #: Told of every op and its result: transcripts, tests.
        self.observer: Observer | None = None
        #: Called after every op that leaves kswapd wanted.
        self.wake_kswapd: Callable[[], None] | None = None

    @classmethod
    def boot(cls, spec: MachineSpec, nid: int, incarnation: int = 1) -> Node:
        """Boot one node of a machine in this process."""
        return cls(start_kernel(spec, [nid]), nid, incarnation)

    @classmethod
    def replay(cls, spec: MachineSpec, nid: int, log: list[Op[Any]], incarnation: int = 1) -> Node:
        """A fresh node brought to the state that a log leads to."""
        node = cls.boot(spec, nid, incarnation)
        for op in log:
            node.apply(op)
        return node

    @property
    def log_length(self) -> int:
        """Ops applied since it booted."""
        return self.log_dropped + len(self.log)

    def apply(self, op: Op[R]) -> R:
        """Carry out one op. An op that raises has changed nothing and is not logged."""
        tracer = self.tracepoints.tracer
        if tracer:
            tracer.op_begins(op)
        kind = op.__class__
        result: R = (_STEPS.get(kind) or _step_of(kind))(self, op)
        if tracer:
            tracer.op_ends(op, result)
        log = self.log
        log.append(op)
        self._log_bytes += op.payload
        if len(log) > self._log_room or self._log_bytes > LOG_BYTES_LIMIT:
            self._cut_log()
        if self.observer:
            self.observer(self.nid, op, result)
        if self.wake_kswapd and self.pgdat.kswapd[KSWAPD_WOKEN]:
            self.wake_kswapd()
        return result

    def _cut_log(self) -> None:
        """Keep the end. Many ops at once: code that ran for every request would be cold each time."""
        self._log_room = 2 * LOG_TAIL
        log = self.log
        while len(log) > LOG_TAIL or self._log_bytes > LOG_BYTES_LIMIT // 2:
            self._log_bytes -= log.popleft().payload
            self.log_dropped += 1

    @property
    def kswapd_wanted(self) -> bool:
        """Whether kswapd was woken, and has not gone to sleep since."""
        return self.pgdat.kswapd[KSWAPD_WOKEN] != 0

    # lookups that change nothing

    def session(self, session: int) -> Session:
        """A living session; NotFound."""
        if session not in self.sessions:
            raise unknown_session(self, session)
        return self.sessions[session]

    def region(self, session: int, region: int) -> Region:
        """A region of a session; NotFound, or Precondition when it is somebody else's."""
        self.session(session)
        if region not in self.regions:
            raise NotFound("region", str(region))
        if self.regions[region].session != session:
            raise Precondition(f"region {region} belongs to another session")
        return self.regions[region]

    def owner(self, id: int) -> Owner:
        """A session or region of this node as an owner."""
        return Owner(self.nid, self.incarnation, id)

    def owners(self) -> tuple[Owner, ...]:
        """Everybody who has, or had, pages on this node."""
        return tuple(self._slots)

    def slots(self) -> tuple[tuple[Owner, int], ...]:
        """The small number under which each owner's pages are marked here."""
        return tuple(self._slots.items())

    def is_dead(self, owner: Owner) -> bool:
        """Whether the home of an owner has booted anew since, as far as this node has been told."""
        return self._slots.is_dead(owner)

    def expired(self, now_ns: int) -> list[int]:
        """Sessions whose lease has run out, oldest number first."""
        return [s.id for s in self.sessions.values() if s.expires_ns <= now_ns]

    def zonelist_scan(self, walk: Walk, alloc_flags: int) -> ZonelistScan | None:
        """How a walk uses the zonelist cache; None without one: later kernels, and __GFP_THISNODE."""
        if not self.machine.profile.zonelist_cache or walk.this_node:
            return None
        return ZonelistScan(
            self._zonelist_cache(walk.list_nid),
            nr_online_nodes=len(self.machine.populated),
            now_ns=self.clock(),
            watermarks=not alloc_flags & ALLOC_NO_WATERMARKS,
        )

    def _zonelist_cache(self, nid: int) -> ZonelistCache:
        """The cache of a fallback list; an empty one for a list that was built anew."""
        refs = self.machine.zonelists[nid].fallback
        cache = self._zonelist_caches.get(nid)
        if cache is None or cache.zonerefs != refs:
            cache = self._zonelist_caches[nid] = ZonelistCache(refs)
        return cache

    def held_pages(self) -> int:
        """Pages that owners have on this node."""
        return int(self.pgdat.pg.owner_pages.sum())

    def may_free(self, owner: Owner, order: int, pfns: bytes) -> bool:
        """Whether Free would take these blocks; nothing changes."""
        pg, pages = self.pgdat.pg, unpack_pfns(pfns).astype(np.int64) - self.pgdat.base_pfn
        if pages.min() < 0 or pages.max() >= len(pg.flags) or len(np.unique(pages)) != len(pages):
            return False
        held = (pg.flags[pages] & (PG_HELD | PG_LRU)) == PG_HELD
        theirs = (pg.owner[pages] == self._slots.get(owner, MAX_OWNERS)) & (pg.order[pages] == order)
        return bool((held & theirs).all())

    def check(self) -> list[str]:
        """Violated invariants, those of owners included."""
        return check_pgdat(self.pgdat) + check_owners(self)

    def digest(self) -> str:
        """blake2b over pages, zones, owners, sessions and regions."""
        digest = hashlib.blake2b(self.pgdat.digest().encode(), digest_size=16)
        digest.update(repr((self._next_id, *self._slots.state)).encode())
        digest.update(repr(self.machine.sysctls.as_dict()).encode())
        machine = self.machine
        for known in (machine.managed, machine.populated, machine.memory_news):
            digest.update(repr(sorted(known.items())).encode())
        digest.update(repr(self.pgdat.extents).encode())
        for nid, cache in sorted(self._zonelist_caches.items()):
            if cache.fullzones or cache.last_full_zap_ns:
                digest.update(repr((nid, cache.fullzones, cache.last_full_zap_ns)).encode())
        digest.update(repr(self.load.state).encode())
        for session in self.sessions.values():
            digest.update(repr(session.state).encode())
        for region in self.regions.values():
            fixed = (region.id, region.session, region.lru_kind, region.policy, sorted(region.holdings))
            digest.update(repr(fixed).encode())
            digest.update(region.nids.tobytes())
            digest.update(region.pfns.tobytes())
        return digest.hexdigest()

    # owners

    def _drop_owner(self, owner: Owner) -> int:
        slot = self._slots.free(owner)
        return 0 if slot is None else self.pgdat.free_owner(slot)

    def _forget_if_empty(self, owner: Owner) -> None:
        """Free the number of an owner that has nothing here: nobody will come to free it."""
        slot = self._slots[owner]
        if not self.pgdat.pg.owner_pages[slot] and not self.pgdat.pg.owner_swap[slot]:
            self._drop_owner(owner)

    def _forget_path(self) -> None:
        """What frees and drains did before is not this op's work."""
        self.pgdat.pg.path[:] = 0

    def _path(self) -> tuple[int, ...]:
        return tuple(self.pgdat.take_path().tolist())

    # ops

    @singledispatchmethod
    def _apply(self, op: Op[Any]) -> Any:
        raise TypeError(f"not an op: {op!r}")

    @_apply.register
    def _(self, op: ops.Alloc) -> ops.AllocResult:
        pgdat = self.pgdat
        before = None
        if op.explain:
            walk = op.zones, op.cpu, op.order, op.migratetype, op.highest_zoneidx, op.alloc_flags
            before = Account(pgdat, *walk)
        pfns, path, boosted, zones = pgdat.alloc_packed(
            op.zones,
            op.cpu,
            op.order,
            op.count,
            op.migratetype,
            op.highest_zoneidx,
            op.alloc_flags,
            op.numa_how,
            self._slots.get(op.owner) or self._slots.make(op.owner),
            op.lru_kind,
            op.indexes,
            op.dirty,
        )
        if not pfns:
            self._forget_if_empty(op.owner)
        account = before.since(op.count, len(pfns) // 8, path[PATH_STEALS]) if before else None
        if boosted and take_boosted(pgdat.pg):
            # rmqueue(): an allocation that mixed migratetypes wakes kswapd to defragment
            pgdat.wakeup_kswapd(0, op.highest_zoneidx)
        full = self._full_zones(op, pfns) if self.machine.profile.zonelist_cache else ()
        load = self.load
        if op.report:
            load.hear(op.report)
        wait_ns = load.memory.wait_ns
        spent = None
        if op.spends and len(pfns) == 8 * op.count:
            spent = self.cost_of_pages(path, op.count << op.order, wait_ns, op.gfp)
            load.spend(op.cpu, spent.latency_ns, spent.traffic.items())
        return ops.AllocResult(pfns, path, zones, account, full, wait_ns, spent)

    def _full_zones(self, op: ops.Alloc, pfns: bytes) -> tuple[int, ...]:
        """Zones that the walk left because they could not serve: all before the one that served last."""
        if len(pfns) // 8 < op.count:
            return op.zones
        return op.zones[: op.zones.index(self.pgdat.zone_of(int(unpack_pfns(pfns)[-1])))]

    @_apply.register
    def _(self, op: ops.Free) -> int:
        check_pfns(op.pfns)
        slot = self._slots.get(op.owner, MAX_OWNERS)  # an owner with nothing here owns no page
        try:
            freed = self.pgdat.free_packed(op.cpu, op.order, slot, op.pfns)
        except BadPageError as e:
            if e.not_found:
                raise NotFound("page", f"{e.pfn:#x} on node {self.nid}", e.reason) from None
            raise Precondition(f"page {e.pfn:#x} on node {self.nid}: {e.reason}") from None
        if op.spends and op.cpu is not None:
            self.load.spend(op.cpu, self.cost_of_free(len(op.pfns) // 8).latency_ns, ())
        return freed

    @_apply.register
    def _(self, op: ops.FreeOwner) -> int:
        slot = self._slots.get(op.owner, MAX_OWNERS)
        freed = self.pgdat.release(slot, unpack_pfns(op.pfns), unpack_indexes(op.indexes), None)
        return freed + self._drop_owner(op.owner)

    @_apply.register
    def _(self, op: ops.FreeDeadOwners) -> int:
        for session in self.sessions.values():
            if op.nid in session.holdings:
                session.lost.add(op.nid)
        return sum(self._drop_owner(owner) for owner in self._slots.restarted(op.nid, op.incarnation))

    @_apply.register
    def _(self, op: ops.Touch) -> ops.TouchResult:
        self._forget_path()
        slot = self._slots.get(op.owner, MAX_OWNERS)
        gone = self.pgdat.touch(slot, unpack_pfns(op.pfns), unpack_indexes(op.indexes), op.write)
        swapped = 0
        if slot != MAX_OWNERS:
            swapped = self.pgdat.swap_in(slot, int(gone.sum()))
        path = list(self._path())
        path[PATH_SWAPPED] += swapped
        if op.report:
            self.load.hear(op.report)
        return ops.TouchResult(gone.tobytes(), swapped, tuple(path), self.load.memory.wait_ns)

    @_apply.register
    def _(self, op: ops.Release) -> int:
        slot = self._slots.get(op.owner, MAX_OWNERS)
        freed = self.pgdat.release(slot, unpack_pfns(op.pfns), unpack_indexes(op.indexes), op.cpu)
        if slot != MAX_OWNERS:
            # pages that came too late for their region: its end has passed here, or passes this node by
            self._forget_if_empty(op.owner)
        return freed

    @_apply.register
    def _(self, op: ops.ZlcMarkFull) -> None:
        cache = self._zonelist_cache(op.list_nid)
        if op.setup_ns is not None:
            cache.setup(op.setup_ns)
        for position in op.positions:
            cache.mark_zone_full(position)

    @_apply.register
    def _(self, op: ops.ZlcClear) -> None:
        self._zonelist_cache(op.list_nid).clear_zones_full()

    @_apply.register
    def _(self, op: ops.CountForeign) -> None:
        self.pgdat.count_foreign(op.zone, op.count)

    @_apply.register
    def _(self, op: ops.WakeKswapd) -> bool:
        return self.pgdat.wakeup_kswapd(op.order, op.highest_zoneidx)

    @_apply.register
    def _(self, op: ops.Reclaim) -> ops.ReclaimResult:
        self._forget_path()
        scanned, reclaimed = self.pgdat.shrink(op.highest_zoneidx, op.priority, op.nr_to_reclaim, False)
        if reclaimed:
            self.pgdat.pg.kswapd[KSWAPD_FAILURES] = 0
        return ops.ReclaimResult(scanned, reclaimed, self._path())

    @_apply.register
    def _(self, op: ops.DrainPagesets) -> int:
        if op.zones:
            self.pgdat.unreserve_highatomic(op.zones, op.migratetype, op.force)
        pages = int(self.pgdat.pg.pcp_count.sum())
        self.pgdat.drain()
        return pages

    @_apply.register
    def _(self, op: ops.KswapdBegin) -> ops.KswapdWork:
        state = self.pgdat.pg.kswapd
        order, highest = int(state[KSWAPD_ORDER]), int(state[KSWAPD_HIGHEST_ZONEIDX])
        self.pgdat.set_reclaim_active(True)
        self.pgdat.pg.vm_event[PAGEOUTRUN] += 1
        self.kswapd.wakeups += 1
        self.kswapd.running = True
        boosts = tuple(self.pgdat.pg.watermark_boost[: highest + 1].tolist())
        return ops.KswapdWork(order, highest, int(kswapd_target(self.pgdat.pg, highest)), boosts)

    @_apply.register
    def _(self, op: ops.Balance) -> ops.BalanceResult:
        balanced = self.pgdat.balanced(op.order, op.highest_zoneidx)
        if balanced != op.boosted:
            return ops.BalanceResult(balanced, 0, 0)
        scanned, reclaimed = self.pgdat.shrink(
            op.highest_zoneidx, op.priority, op.nr_to_reclaim, True, may_write=not op.boosted
        )
        self.kswapd.cost.add_path(self.machine.spec.latency, self._path())
        self.kswapd.reclaimed += reclaimed
        return ops.BalanceResult(balanced, scanned, reclaimed)

    @_apply.register
    def _(self, op: ops.KswapdSleep) -> bool:
        state = self.pgdat.pg.kswapd
        for zone, boost in enumerate(op.boosts):
            # the boosts that it began with end, whether it got anywhere or not; increments since stay
            self.pgdat.pg.watermark_boost[zone] -= min(boost, int(self.pgdat.pg.watermark_boost[zone]))
        if op.reclaimed or op.balanced:
            state[KSWAPD_FAILURES] = 0
        else:
            state[KSWAPD_FAILURES] += 1
        state[KSWAPD_WOKEN] = 0
        order, highest = int(state[KSWAPD_ORDER]), int(state[KSWAPD_HIGHEST_ZONEIDX])
        state[KSWAPD_ORDER] = 0
        state[KSWAPD_HIGHEST_ZONEIDX] = 0
        self.pgdat.set_reclaim_active(False)
        self.kswapd.running = False
        return op.balanced and self.pgdat.wakeup_kswapd(order, highest)

    @_apply.register
    def _(self, op: ops.VmstatTick) -> int:
        return self.pgdat.tick()

    @_apply.register
    def _(self, op: ops.Spend) -> None:
        self.load.spend(op.cpu, op.ns, op.traffic)

    @_apply.register
    def _(self, op: ops.Rest) -> None:
        self.load.rest()

    # memory that comes and goes

    def _busy(self, error: BusyError) -> Busy:
        return Busy(f"EBUSY: page {error.idx + self.pgdat.base_pfn:#x} of node {self.nid} is {error}")

    @_apply.register
    def _(self, op: ops.IsolateMemory) -> None:
        try:
            self.pgdat.start_isolate(op.start_pfn, op.end_pfn)
        except BusyError as e:
            raise self._busy(e) from None
        except ValueError as e:
            raise InvalidRequest("block", f"EINVAL: {e}") from None

    @_apply.register
    def _(self, op: ops.UndoIsolation) -> None:
        self.pgdat.unisolate(op.start_pfn, op.end_pfn, op.migratetype)

    @_apply.register
    def _(self, op: ops.OfflinePages) -> MemoryState:
        try:
            self.pgdat.offline_pages(op.start_pfn, op.end_pfn)
        except BusyError as e:
            raise self._busy(e) from None
        return self._memory_changed()

    @_apply.register
    def _(self, op: ops.OnlinePages) -> MemoryState:
        try:
            self.pgdat.online_pages(op.start_pfn, op.end_pfn, op.online_type)
        except ValueError as e:
            raise InvalidRequest("block", f"EINVAL: {e}") from None
        return self._memory_changed()

    @_apply.register
    def _(self, op: ops.OfflineNode) -> MemoryState:
        if self.pgdat.cpus or any(extent.present for extent in self.pgdat.extents):
            raise Precondition(f"node {self.nid} has memory or CPUs")
        return self._memory_changed(online=False)

    def _memory_changed(self, online: bool = True) -> MemoryState:
        news = self.machine.memory_news.get(self.nid, self.incarnation << 32) + 1
        state = memory_state(self.pgdat, online)._replace(sequence=news)
        memory_notify(self.machine, state)
        return state

    @_apply.register
    def _(self, op: ops.MemoryNotify) -> None:
        memory_notify(self.machine, op.state)

    @_apply.register
    def _(self, op: ops.Remap) -> bytes:
        region = self.regions.get(op.owner.id)
        indexes = unpack_indexes(op.indexes)
        if region is None or op.owner != self.owner(op.owner.id):
            return bytes(len(indexes))
        entered = (region.nids[indexes] == op.from_nid + 1) & (
            region.pfns[indexes] == unpack_pfns(op.from_pfns)
        )
        region.nids[indexes[entered]] = op.to_nid + 1
        region.pfns[indexes[entered]] = unpack_pfns(op.to_pfns)[entered]
        if entered.any() and op.to_nid != self.nid:
            region.holdings.add(op.to_nid)
        return bytes(entered.astype(np.uint8))

    @_apply.register
    def _(self, op: ops.ReleaseMigrated) -> int:
        pfns = unpack_pfns(op.pfns)
        slot = self._slots.get(op.owner, MAX_OWNERS)
        freed = self.pgdat.release(slot, pfns, unpack_indexes(op.indexes), None)
        self.pgdat.pg.vm_event[PGMIGRATE_SUCCESS] += len(pfns)
        if slot != MAX_OWNERS and op.lru_kind == LRU_KIND_ANON:
            self.pgdat.swap_in(slot, len(pfns) - freed)
        return freed

    @_apply.register
    def _(self, op: ops.CmaIsolate) -> tuple[int, int]:
        areas = self.pgdat.cma_areas
        if not 0 <= op.area < len(areas):
            raise NotFound("CMA area", str(op.area), f"node {self.nid} has {len(areas)}")
        place = self.pgdat.find_contiguous(areas[op.area], op.count, op.align_order, op.from_pfn)
        if place is None:
            raise Busy(f"EBUSY: no {op.count} pages in a row that can be emptied in CMA area {op.area}")
        self.pgdat.isolate(*pageblocks_around(*place))
        return place

    @_apply.register
    def _(self, op: ops.CmaTake) -> None:
        slot = self._slots.make(op.owner)
        try:
            self.pgdat.take_contiguous(op.start_pfn, op.end_pfn, slot)
        except BusyError as e:
            self._forget_if_empty(op.owner)
            raise self._busy(e) from None
        self.pgdat.unisolate(*pageblocks_around(op.start_pfn, op.end_pfn), MIGRATE_CMA)

    @_apply.register
    def _(self, op: ops.WriteSysctl) -> None:
        try:
            self.machine.write_sysctl(op.key, op.value)
        except SpecError as e:
            raise InvalidRequest(op.key, str(e).removeprefix(f"{op.key}: ")) from None

    @_apply.register
    def _(self, op: ops.OpenSession) -> int:
        if len(self.sessions) >= MAX_SESSIONS:
            raise TooMany(f"node {self.nid} has {MAX_SESSIONS} sessions already")
        id = self._take_id()
        self.sessions[id] = Session(id, op.name, op.lease_ns, op.now_ns + op.lease_ns, self.owner(id))
        return id

    @_apply.register
    def _(self, op: ops.RenewSession) -> int:
        session = self.session(op.session)
        session.expires_ns = op.now_ns + session.lease_ns
        return session.lease_ns

    @_apply.register
    def _(self, op: ops.EndSession) -> int:
        session = self.session(op.session)
        freed = sum(self._end_region(region) for region in sorted(session.regions))
        freed += self._drop_owner(self.owner(session.id))
        del self.sessions[session.id]
        return freed

    @_apply.register
    def _(self, op: ops.MapRegion) -> int:
        session = self.session(op.session)
        id = self._take_id()
        self.regions[id] = Region(
            id,
            op.session,
            op.lru_kind,
            op.policy,
            nids=np.zeros(op.nr_pages, dtype=np.uint16),
            pfns=np.zeros(op.nr_pages, dtype=np.uint64),
        )
        session.regions.add(id)
        return id

    @_apply.register
    def _(self, op: ops.FillRegion) -> None:
        region = self.regions[op.region]
        at = unpack_indexes(op.indexes)
        if op.nid != self.nid:
            region.holdings.add(op.nid)
        region.nids[at] = op.nid + 1
        region.pfns[at] = unpack_pfns(op.pfns)

    @_apply.register
    def _(self, op: ops.EndRegion) -> int:
        return self._end_region(op.region)

    @_apply.register
    def _(self, op: ops.NoteHolding) -> None:
        self.session(op.session).holdings.add(op.nid)

    @_apply.register
    def _(self, op: ops.Interleave) -> int:
        session = self.session(op.session)
        before = session.interleaved
        session.interleaved += op.count
        return before

    @_apply.register
    def _(self, op: ops.CountEvents) -> None:
        event = self.pgdat.pg.vm_event
        event[PGFAULT] += op.faults
        event[PGMAJFAULT] += op.major_faults
        event[PGPGIN] += 4 * op.pages_in
        event[ALLOCSTALL] += op.stalls

    def _take_id(self) -> int:
        id = self._next_id
        self._next_id += 1
        return id

    def _end_region(self, id: int) -> int:
        """Drop a region: its own pages here go back by its page table, so that no list is searched."""
        region = self.regions.pop(id)
        self.sessions[region.session].regions.discard(id)
        owner = self.owner(id)
        slot = self._slots.get(owner)
        freed = 0
        if slot is not None:
            here = np.flatnonzero(region.nids == self.nid + 1).astype(np.uint32)
            freed = self.pgdat.release(slot, region.pfns[here], here, None)
        return freed + self._drop_owner(owner)

    @property
    def swap_used(self) -> int:
        """Swap slots in use on this node's share, in pages."""
        return int(self.pgdat.pg.reclaim_stat[SWAP_USED])


#: What applies an op of each type that was seen: `_apply` without what it does at every call.
_STEPS: dict[type[Op[Any]], Callable[[Node, Any], Any]] = {}


def _step_of(kind: type[Op[Any]]) -> Callable[[Node, Any], Any]:
    step: Callable[[Node, Any], Any] = Node.__dict__["_apply"].dispatcher.dispatch(kind)
    _STEPS[kind] = step
    return step
