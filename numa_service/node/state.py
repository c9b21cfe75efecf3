"""The state of one node: everything that the result of a later op or request depends on.

Only ops (``ops/``) change the state. Caches derived from it, the log and the observers are in ``node.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache, partial

import msgpack
import numpy as np

from numa_service.machine.booted import BootedMachine
from numa_service.mm.highmem.highmem import Highmem, PkmapUsers
from numa_service.mm.highmem.rules import highmem_rules
from numa_service.mm.invariants import check_pgdat
from numa_service.mm.pgdat import MAX_OWNERS, Pgdat
from numa_service.mm.pgdat_dump import dump_pgdat, load_pgdat
from numa_service.mm.pgdata import KSWAPD_ORDER, KSWAPD_WOKEN, PG_HELD, PG_LRU, SWAP_USED
from numa_service.mm.vmalloc.vmalloc import Vmalloc
from numa_service.mm.zonelist_cache import ZonelistCache
from numa_service.node.cost import Cost
from numa_service.node.errors import NotFound, Precondition
from numa_service.node.first_replies import FirstReplies
from numa_service.node.hugetlb_state import HugetlbOfNode
from numa_service.node.kernel_log import KernelLog
from numa_service.node.kmem_slab import SlabKmem
from numa_service.node.kmem_slob import SlobKmem
from numa_service.node.kmem_slub import SlubKmem
from numa_service.node.kmem_state import Holder, Kmem
from numa_service.node.kswapd import Kswapd, KswapdRun
from numa_service.node.load import Load
from numa_service.node.outbox import Outbox
from numa_service.node.owners import ID_BITS, KERNEL_ID, OF_TASKS, Owner, OwnerSlots, unknown_session
from numa_service.node.page_bits import PageBits
from numa_service.node.pfns import pack_pfns, unpack_pfns
from numa_service.node.session_state import Region, Session
from numa_service.node.task_state import Tasks

#: Version of the layout of snapshots. A snapshot of another version is refused.
SNAPSHOT_VERSION = 7
#: By the name of the allocator.
_KMEM: dict[str, Callable[[Holder], Kmem]] = {"slub": SlubKmem, "slab": SlabKmem, "slob": SlobKmem}


class NodeState:
    """The part of a node that ops read and change."""

    def __init__(self, machine: BootedMachine, nid: int, lineage: int, epoch: int) -> None:
        """Make the state of a node that has just booted.

        A new `lineage` begins when a node boots with empty memory; it survives a restart of the process whose
        snapshot is restored. Owners of an earlier lineage have lost their pages. Each process of the node has
        its own `epoch`, which is never used again; request ids of the node's questions begin with it.
        """
        self.machine = machine
        self.nid = nid
        self.lineage = lineage
        self.epoch = epoch
        self.pgdat: Pgdat = machine.pgdats[nid]
        #: This node has applied every sysctl write of the machine's record up to this version.
        self.record_version = 0
        #: How often memory of this node has come on-line or gone off-line since it booted.
        self.memory_changes = 0
        self.sessions: dict[int, Session] = {}
        self.regions: dict[int, Region] = {}
        #: Ids of sessions and regions begin above those of earlier lineages, so that a client whose session
        #: died with an earlier lineage gets NotFound and not somebody else's session.
        self._next_id = ((lineage - 1) << ID_BITS) + 1
        #: The kernel of this node: the owner of the pages of its slabs.
        self.kernel = Owner(nid, lineage, KERNEL_ID)
        self.slots = OwnerSlots(nid, lineage)
        #: The tasks whose home is this node.
        self.tasks = Tasks(machine, nid, lineage)
        #: The node's part of hugetlb.
        self.hugetlb = HugetlbOfNode(self)
        self.replies = FirstReplies()
        self.outbox = Outbox()
        #: What the kernel of this node has printed since boot.
        self.kernel_log = KernelLog()
        self.kswapd = Kswapd()
        self.load = Load(machine.spec, nid)
        #: Which pages are locked, or under writeback.
        self.page_bits = PageBits()
        self.kmem: Kmem = _KMEM[machine.spec.slab](self)
        #: Mappings of high pages; the pool of kmap is on the node that keeps the kernel's addresses. None on
        #: a 64-bit machine.
        self.highmem: Highmem | None = None
        if "HighMem" in self.pgdat.zone_names:
            rules, pool = highmem_rules(machine.profile), None
            if nid == machine.vmalloc_nid:
                pool = PkmapUsers(rules, machine.memory_model.pfn_to_page)
            self.highmem = Highmem(rules, pool)
        #: Zonelist caches (linux-3.0) for requests of this node, by the node whose fallback list is walked.
        self._zonelist_caches: dict[int, ZonelistCache] = {}
        #: Cost of allocating pages of this node, and of freeing blocks, memoised because most requests cost
        #: the same as an earlier one. The returned Cost is shared: callers must not change it.
        model, kept = machine.spec.latency, lru_cache(maxsize=1 << 10)
        self.cost_of_pages: Callable[..., Cost] = kept(partial(Cost.of_pages_here, model, self.load))
        self.cost_of_free: Callable[..., Cost] = kept(partial(Cost.of_free, model))

    # owners

    def session(self, session: int) -> Session:
        """Return a session that has not ended; NotFound."""
        if session not in self.sessions:
            raise unknown_session(self.nid, self.lineage, session)
        return self.sessions[session]

    def region(self, session: int, region: int) -> Region:
        """Return a region of a session; NotFound, or Precondition when it belongs to another session."""
        self.session(session)
        if region not in self.regions:
            raise NotFound("region", str(region))
        if self.regions[region].session != session:
            raise Precondition(f"region {region} belongs to another session")
        return self.regions[region]

    def owner(self, id: int) -> Owner:
        """Return the owner that a session or region of this node is to all nodes of the machine."""
        return Owner(self.nid, self.lineage, id)

    @property
    def memory_sequence(self) -> int:
        """``MemoryState.sequence`` of this node's memory as it is now."""
        return (self.lineage << 32) + self.memory_changes

    def take_id(self) -> int:
        """Return a new id for a session or region; ids are never reused."""
        id = self._next_id
        self._next_id += 1
        return id

    def slot_of(self, owner: Owner) -> int:
        """Return the slot of an owner; MAX_OWNERS, which marks no page, for an owner without a slot."""
        return self.slots.get(owner, MAX_OWNERS)

    def drop_owner(self, owner: Owner) -> int:
        """Free everything that an owner has on this node, and its slot; return the number of pages freed."""
        self.hugetlb.drop_owner(owner)
        slot = self.slots.free(owner)
        return 0 if slot is None else self.pgdat.free_owner(slot)

    def forget_if_empty(self, owner: Owner) -> None:
        """Free the slot of an owner that has neither pages nor swap here.

        The end of the owner would not free it: a node that gave no pages is not told of that end.
        """
        slot = self.slots[owner]
        if not self.pgdat.pg.owner_pages[slot] and not self.pgdat.pg.owner_swap[slot]:
            self.drop_owner(owner)

    def forget_if_tasks_empty(self, owner: Owner) -> None:
        """The same for what all tasks of a home have together, which has no end: pages may be reclaimed."""
        if owner.id in OF_TASKS and owner in self.slots:
            self.forget_if_empty(owner)

    def free_swap(self, slot: int, pages: int) -> None:
        """Free up to `pages` slots of swap that an owner has here and that nobody will read."""
        pages = min(pages, int(self.pgdat.pg.owner_swap[slot]))
        self.pgdat.pg.owner_swap[slot] -= pages
        self.pgdat.pg.reclaim_stat[SWAP_USED] -= pages

    def expired(self, now_ns: int) -> list[int]:
        """Return the ids of the sessions whose lease has run out, ascending."""
        return [s.id for s in self.sessions.values() if s.expires_ns <= now_ns]

    def held_pages(self) -> int:
        """Return the number of pages of this node that sessions and regions have; slabs are the kernel's."""
        pages = self.pgdat.pg.owner_pages
        return int(pages.sum()) - int(pages[self.slots.get(self.kernel, 0)])

    def may_free(self, owner: Owner, order: int, pfns: bytes) -> bool:
        """Return whether the op Free would accept these blocks, without freeing them."""
        pg, pages = self.pgdat.pg, unpack_pfns(pfns).astype(np.int64) - self.pgdat.base_pfn
        if pages.min() < 0 or pages.max() >= len(pg.flags) or len(np.unique(pages)) != len(pages):
            return False
        held = (pg.flags[pages] & (PG_HELD | PG_LRU)) == PG_HELD
        theirs = (pg.owner[pages] == self.slot_of(owner)) & (pg.order[pages] == order)
        return bool((held & theirs).all())

    def own_blocks(self, owner: Owner, order: int, pfns: bytes) -> bytes:
        """Return those of these blocks that an owner holds: what was lost in a restart, it does not."""
        pg, pages = self.pgdat.pg, np.unique(unpack_pfns(pfns).astype(np.int64) - self.pgdat.base_pfn)
        pages = pages[(pages >= 0) & (pages < len(pg.flags))]
        held = (pg.flags[pages] & (PG_HELD | PG_LRU)) == PG_HELD
        theirs = (pg.owner[pages] == self.slot_of(owner)) & (pg.order[pages] == order)
        return pack_pfns(pages[held & theirs] + self.pgdat.base_pfn)

    @property
    def vmalloc(self) -> Vmalloc | None:
        """The machine's kernel addresses, if this is the node that keeps them."""
        return self.machine.vmalloc if self.nid == self.machine.vmalloc_nid else None

    def is_highmem(self, pfn: int) -> bool:
        """Whether a page, of any node, is one of high memory."""
        return pfn >= self.machine.max_low_pfn and self.pgdat.arch == "i386"

    # work counters and caches

    def forget_path(self) -> None:
        """Clear the work counters before an op is measured: earlier frees and drains have counted in them."""
        self.pgdat.pg.path[:] = 0

    def take_path(self) -> tuple[int, ...]:
        """Return the work counters, indexed by PATH_*, and clear them."""
        return tuple(self.pgdat.take_path().tolist())

    def zonelist_cache(self, nid: int) -> ZonelistCache:
        """Return the cache of the fallback list of node `nid`; an empty one if the list has been rebuilt."""
        refs = self.machine.zonelists[nid].fallback
        cache = self._zonelist_caches.get(nid)
        if cache is None or cache.zonerefs != refs:
            cache = self._zonelist_caches[nid] = ZonelistCache(refs)
        return cache

    @property
    def kswapd_wanted(self) -> bool:
        """Whether kswapd has been woken and has not gone back to sleep."""
        return self.pgdat.kswapd[KSWAPD_WOKEN] != 0

    @property
    def kswapd_order(self) -> int:
        """The order that kswapd is working for or, between two runs, the order it has been woken for."""
        run = self.kswapd.run
        return run.order if run else self.pgdat.kswapd[KSWAPD_ORDER]

    @property
    def swap_used(self) -> int:
        """Swap slots in use, of this node's share of swap; one slot holds one page."""
        return int(self.pgdat.pg.reclaim_stat[SWAP_USED])

    # snapshots and digests

    def snapshot(self) -> bytes:
        """Return the whole state as msgpack; :meth:`restore` reads it."""
        run = self.kswapd.run
        caches = [
            (nid, cache.fullzones, cache.last_full_zap_ns)
            for nid, cache in sorted(self._zonelist_caches.items())
        ]
        parts = [
            SNAPSHOT_VERSION,
            (self.nid, self.lineage, self.digest()),
            self.machine.dump(),
            dump_pgdat(self.pgdat),
            (self._next_id, self.record_version, self.memory_changes),
            self.slots.dump(),
            [session.dump() for session in self.sessions.values()],
            [region.dump() for region in self.regions.values()],
            asdict(run) if run else None,
            self.load.dump(),
            caches,
            self.replies.dump(),
            self.outbox.dump(),
            self.kmem.dump(),
            self.vmalloc.dump() if self.vmalloc else None,
            self.highmem.dump() if self.highmem else None,
            self.pgdat.hugetlb.dump(),
            self.page_bits.dump(),
            self.pgdat.memory_failure.dump(),
            self.tasks.dump(),
            self.kernel_log.dump(),
        ]
        packed: bytes = msgpack.packb(parts)
        return packed

    def restore(self, snapshot: bytes) -> None:
        """Replace the state of a node that has just booted by a snapshot of the same node.

        The lineage is the snapshot's, the epoch stays this process's own. ValueError if the bytes are not a
        snapshot of this node of this machine, or if the restored state does not have the digest that the
        snapshot names; the node must not be used after that.
        """
        version, *parts = msgpack.unpackb(snapshot, strict_map_key=False)
        if version != SNAPSHOT_VERSION:
            raise ValueError(f"a snapshot of version {version}: {SNAPSHOT_VERSION} is read")
        (nid, lineage, digest), machine, pgdat, counts, slots, sessions, regions, run, load = parts[:9]
        caches, replies, outbox, kmem, vmalloc, highmem, hugetlb, page_bits, failure, tasks, log = parts[9:]
        if nid != self.nid:
            raise ValueError(f"a snapshot of node {nid}, not {self.nid}")
        self.lineage = lineage
        self.kernel = Owner(nid, lineage, KERNEL_ID)
        load_pgdat(self.pgdat, pgdat)
        self.machine.load(machine)
        # machine.load() recomputes some of the arrays as at boot: put the saved ones back
        load_pgdat(self.pgdat, pgdat)
        self._next_id, self.record_version, self.memory_changes = counts
        self.slots.load(slots)
        self.sessions = {session.id: session for session in map(Session.load, sessions)}
        self.regions = {region.id: region for region in map(Region.load, regions)}
        self.kswapd.run = KswapdRun(**run | {"boosts": tuple(run["boosts"])}) if run else None
        self.load.load(load)
        for list_nid, fullzones, zapped_ns in caches:
            cache = self.zonelist_cache(list_nid)
            cache.fullzones, cache.last_full_zap_ns = fullzones, zapped_ns
        self.replies.load(replies)
        self.outbox.load(outbox)
        self.kmem.load(kmem)
        if self.vmalloc:
            self.vmalloc.load(vmalloc)
        if self.highmem:
            self.highmem.load(highmem)
        self.pgdat.hugetlb.load(hugetlb)
        self.page_bits.load(page_bits)
        self.pgdat.memory_failure.load(failure)
        self.tasks = Tasks(self.machine, self.nid, self.lineage)
        self.tasks.load(tasks)
        self.kernel_log.load(log)
        if self.digest() != digest:
            raise ValueError("the snapshot does not lead to the state that it is of")

    def check_memory(self) -> list[str]:
        """Return the violated invariants of pages, zones and counters."""
        return check_pgdat(self.pgdat) + self.kmem.check() + self.hugetlb.check() + self.tasks.check()

    def digest(self) -> str:
        """Return a blake2b digest of the whole state: two nodes with equal digests behave the same."""
        digest = hashlib.blake2b(self.pgdat.digest().encode(), digest_size=16)
        digest.update(repr((self._next_id, *self.slots.state)).encode())
        digest.update(
            repr((self.record_version, self.memory_changes, self.machine.sysctls.as_dict())).encode()
        )
        machine = self.machine
        for known in (machine.managed, machine.populated):
            digest.update(repr(sorted(known.items())).encode())
        digest.update(repr(self.pgdat.extents).encode())
        digest.update(repr((self.pgdat.size_locked, self.pgdat.span_sequence)).encode())
        for nid, cache in sorted(self._zonelist_caches.items()):
            if cache.fullzones or cache.last_full_zap_ns:
                digest.update(repr((nid, cache.fullzones, cache.last_full_zap_ns)).encode())
        digest.update(repr(self.load.state).encode())
        digest.update(repr(self.kswapd.run).encode())
        digest.update(self.replies.digest().encode())
        digest.update(repr(self.outbox.dump()).encode())
        digest.update(repr(self.kmem.dump()).encode())
        for session in self.sessions.values():
            digest.update(repr(session.state).encode())
        for region in self.regions.values():
            fixed = (region.id, region.session, region.lru_kind, region.areas, sorted(region.holdings))
            digest.update(repr(fixed).encode())
            digest.update(region.nids.tobytes())
        if self.vmalloc:
            digest.update(repr(self.vmalloc.dump()).encode())
        if self.highmem:
            digest.update(repr(self.highmem.dump()).encode())
        digest.update(repr(self.pgdat.hugetlb.dump()).encode())
        digest.update(repr(self.page_bits.dump()).encode())
        digest.update(repr(self.pgdat.memory_failure.dump()).encode())
        digest.update(msgpack.packb(self.tasks.dump()))
        digest.update(repr(self.kernel_log.dump()).encode())
        return digest.hexdigest()
