"""The state of one node: everything that decides what a later op or request leads to.

Only ops (``ops/``) change it. What is derived from it, and what only watches, is in ``node.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache, partial

import msgpack
import numpy as np

from numa_service.machine.booted import BootedMachine
from numa_service.mm.invariants import check_pgdat
from numa_service.mm.pgdat import MAX_OWNERS, Pgdat
from numa_service.mm.pgdat_dump import dump_pgdat, load_pgdat
from numa_service.mm.pgdata import KSWAPD_ORDER, KSWAPD_WOKEN, PG_HELD, PG_LRU, SWAP_USED
from numa_service.mm.zonelist_cache import ZonelistCache
from numa_service.node.cost import Cost
from numa_service.node.errors import NotFound, Precondition
from numa_service.node.first_replies import FirstReplies
from numa_service.node.kswapd import Kswapd, KswapdRun
from numa_service.node.load import Load
from numa_service.node.outbox import Outbox
from numa_service.node.owners import ID_BITS, Owner, OwnerSlots, unknown_session
from numa_service.node.pfns import unpack_pfns
from numa_service.node.session import Region, Session

#: Of the layout of snapshots; another one is not read.
SNAPSHOT_VERSION = 1


class NodeState:
    """What ops read and change."""

    def __init__(self, machine: BootedMachine, nid: int, lineage: int, epoch: int) -> None:
        """The state of a node that has just booted.

        `lineage` says whose pages these are: it begins with a boot from nothing, and outlives a process whose
        state is restored. `epoch` says which process speaks, and is never used twice.
        """
        self.machine = machine
        self.nid = nid
        self.lineage = lineage
        self.epoch = epoch
        self.pgdat: Pgdat = machine.pgdats[nid]
        #: Version of the machine's record up to which this node has every sysctl that was written.
        self.record_version = 0
        self.sessions: dict[int, Session] = {}
        self.regions: dict[int, Region] = {}
        #: A number is not used again by a later lineage: who holds on to a session that died finds none.
        self._next_id = ((lineage - 1) << ID_BITS) + 1
        self.slots = OwnerSlots(nid, lineage)
        self.replies = FirstReplies()
        self.outbox = Outbox()
        self.kswapd = Kswapd()
        self.load = Load(machine.spec, nid)
        #: Zonelist caches (3.0) of the fallback lists that requests of this node walk, by the lists' nodes.
        self._zonelist_caches: dict[int, ZonelistCache] = {}
        #: What it costs to get pages here, and to free blocks. Kept, and not to be changed:
        #: most requests cost what others did. Derived, like everything that a cache holds.
        model, kept = machine.spec.latency, lru_cache(maxsize=1 << 10)
        self.cost_of_pages: Callable[..., Cost] = kept(partial(Cost.of_pages_here, model, self.load))
        self.cost_of_free: Callable[..., Cost] = kept(partial(Cost.of_free, model))

    # owners

    def session(self, session: int) -> Session:
        """A living session; NotFound."""
        if session not in self.sessions:
            raise unknown_session(self.nid, self.lineage, session)
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
        return Owner(self.nid, self.lineage, id)

    def take_id(self) -> int:
        """A number for a session or region, never used before."""
        id = self._next_id
        self._next_id += 1
        return id

    def slot_of(self, owner: Owner) -> int:
        """The number of an owner; of one with nothing here a number that marks no page."""
        return self.slots.get(owner, MAX_OWNERS)

    def drop_owner(self, owner: Owner) -> int:
        """Free all that an owner has here, and its number; pages freed."""
        slot = self.slots.free(owner)
        return 0 if slot is None else self.pgdat.free_owner(slot)

    def forget_if_empty(self, owner: Owner) -> None:
        """Free the number of an owner that has nothing here: nobody will come to free it."""
        slot = self.slots[owner]
        if not self.pgdat.pg.owner_pages[slot] and not self.pgdat.pg.owner_swap[slot]:
            self.drop_owner(owner)

    def expired(self, now_ns: int) -> list[int]:
        """Sessions whose lease has run out, oldest number first."""
        return [s.id for s in self.sessions.values() if s.expires_ns <= now_ns]

    def held_pages(self) -> int:
        """Pages that owners have on this node."""
        return int(self.pgdat.pg.owner_pages.sum())

    def may_free(self, owner: Owner, order: int, pfns: bytes) -> bool:
        """Whether Free would take these blocks; nothing changes."""
        pg, pages = self.pgdat.pg, unpack_pfns(pfns).astype(np.int64) - self.pgdat.base_pfn
        if pages.min() < 0 or pages.max() >= len(pg.flags) or len(np.unique(pages)) != len(pages):
            return False
        held = (pg.flags[pages] & (PG_HELD | PG_LRU)) == PG_HELD
        theirs = (pg.owner[pages] == self.slot_of(owner)) & (pg.order[pages] == order)
        return bool((held & theirs).all())

    # what ops measure and look up

    def forget_path(self) -> None:
        """Clear the work counters: what frees and drains did before is not this op's work."""
        self.pgdat.pg.path[:] = 0

    def take_path(self) -> tuple[int, ...]:
        """Work done since the counters were cleared, by PATH_*; clears them."""
        return tuple(self.pgdat.take_path().tolist())

    def zonelist_cache(self, nid: int) -> ZonelistCache:
        """The cache of a fallback list; an empty one for a list that was built anew."""
        refs = self.machine.zonelists[nid].fallback
        cache = self._zonelist_caches.get(nid)
        if cache is None or cache.zonerefs != refs:
            cache = self._zonelist_caches[nid] = ZonelistCache(refs)
        return cache

    @property
    def kswapd_wanted(self) -> bool:
        """Whether kswapd was woken, and has not gone to sleep since."""
        return self.pgdat.kswapd[KSWAPD_WOKEN] != 0

    @property
    def kswapd_order(self) -> int:
        """Order that kswapd works for, or, between its runs, is wanted for."""
        run = self.kswapd.run
        return run.order if run else self.pgdat.kswapd[KSWAPD_ORDER]

    @property
    def swap_used(self) -> int:
        """Swap slots in use on this node's share, in pages."""
        return int(self.pgdat.pg.reclaim_stat[SWAP_USED])

    # the whole of it

    def snapshot(self) -> bytes:
        """All of the state, as msgpack; see :meth:`restore`."""
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
            self._next_id,
            self.slots.dump(),
            [session.dump() for session in self.sessions.values()],
            [region.dump() for region in self.regions.values()],
            asdict(run) if run else None,
            self.load.dump(),
            caches,
            self.replies.dump(),
            self.outbox.dump(),
        ]
        packed: bytes = msgpack.packb(parts)
        return packed

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot of a node of the same machine, in one that has just booted.

        The lineage goes on, too; the epoch is this process's own. ValueError for what is no snapshot of this
        node, or does not lead to the digest that it names; the node is of no use then.
        """
        version, *parts = msgpack.unpackb(snapshot, strict_map_key=False)
        if version != SNAPSHOT_VERSION:
            raise ValueError(f"a snapshot of version {version}: {SNAPSHOT_VERSION} is read")
        (nid, lineage, digest), machine, pgdat, next_id, slots, sessions, regions, run, load = parts[:9]
        caches, replies, outbox = parts[9:]
        if nid != self.nid:
            raise ValueError(f"a snapshot of node {nid}, not {self.nid}")
        self.lineage = lineage
        load_pgdat(self.pgdat, pgdat)
        self.machine.load(machine)
        # that has computed some of the arrays anew, as at boot: they are what they were
        load_pgdat(self.pgdat, pgdat)
        self._next_id = next_id
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
        if self.digest() != digest:
            raise ValueError("the snapshot does not lead to the state that it is of")

    def check_memory(self) -> list[str]:
        """Violated invariants of pages, zones and counters."""
        return check_pgdat(self.pgdat)

    def digest(self) -> str:
        """blake2b over pages, zones, owners, sessions and regions."""
        digest = hashlib.blake2b(self.pgdat.digest().encode(), digest_size=16)
        digest.update(repr((self._next_id, *self.slots.state)).encode())
        digest.update(repr((self.record_version, self.machine.sysctls.as_dict())).encode())
        machine = self.machine
        for known in (machine.managed, machine.populated, machine.memory_news):
            digest.update(repr(sorted(known.items())).encode())
        digest.update(repr(self.pgdat.extents).encode())
        for nid, cache in sorted(self._zonelist_caches.items()):
            if cache.fullzones or cache.last_full_zap_ns:
                digest.update(repr((nid, cache.fullzones, cache.last_full_zap_ns)).encode())
        digest.update(repr(self.load.state).encode())
        digest.update(repr(self.kswapd.run).encode())
        digest.update(self.replies.digest().encode())
        digest.update(repr(self.outbox.dump()).encode())
        for session in self.sessions.values():
            digest.update(repr(session.state).encode())
        for region in self.regions.values():
            fixed = (region.id, region.session, region.lru_kind, region.policy, sorted(region.holdings))
            digest.update(repr(fixed).encode())
            digest.update(region.nids.tobytes())
        return digest.hexdigest()
