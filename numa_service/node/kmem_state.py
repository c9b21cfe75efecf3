"""Objects of slab caches on one node: what the three allocators have in common there.

A slab, or a page that objects are cut from, is of the node that has the pages; what a CPU has at hand is of
the CPU's node, its home. A home takes objects from a node and gives them back: which home has each is kept
beside the slabs, so that those of a home that has crashed can be taken back. What an allocator does with them
is in ``kmem_slub.py``, ``kmem_slab.py`` and ``kmem_slob.py``; what passes between nodes in ``kmem.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

import numpy as np

from numa_service.machine.booted import BootedMachine
from numa_service.machine.record import SlabCaches, changed_cache
from numa_service.machine.slab_caches import slab_caches_of
from numa_service.mm.gfp import GFP_KERNEL, Gfp, gfp_zone
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import PG_SLAB
from numa_service.mm.slab.cache import Cache
from numa_service.mm.slab.kmem_cache import SLAB_ARCH, get_order
from numa_service.mm.slab.pages import NUMA_NO_NODE, page_address, virt_to_pfn
from numa_service.mm.slab.slub_place import SlabRef
from numa_service.mm.slab.snapshot import SlabNodeSnapshot
from numa_service.mm.vmstat import NR_SLAB_RECLAIMABLE, NR_SLAB_UNRECLAIMABLE
from numa_service.node.errors import InvalidRequest, NotFound, Precondition
from numa_service.node.kmem_calls import (
    GIVING,
    LARGE,
    MAX_LARGE_ORDER,
    CpuAlloc,
    CpuFree,
    GiveBack,
    KmemAnswer,
    Question,
    Shutdown,
    SlabView,
    large_order,
    pack,
    unpack,
)
from numa_service.node.owners import Owner, OwnerSlots
from numa_service.node.session_state import Held, Session

#: Objects that the sessions of one home can hold together.
MAX_OBJECTS = 1 << 20


class Holder(Protocol):
    """The node, as far as its slabs need it (:class:`numa_service.node.state.NodeState`)."""

    machine: BootedMachine
    nid: int
    lineage: int
    kernel: Owner
    pgdat: Pgdat
    slots: OwnerSlots
    sessions: dict[int, Session]

    def slot_of(self, owner: Owner) -> int:
        """The number that marks an owner's pages."""

    def forget_if_empty(self, owner: Owner) -> None:
        """Free the slot of an owner that has no pages."""


class Kmem(ABC):
    """The caches of the machine, as far as they are on one node."""

    #: The questions that nodes of this allocator ask each other.
    calls: frozenset[str]

    def __init__(self, node: Holder) -> None:
        self._node = node
        #: Which caches are not as boot left them.
        self.changed = SlabCaches()
        self._enter(node.machine.slab_caches)
        #: By address, the home that has an object which is not in its slab: on a CPU, or in use.
        self.taken: MutableMapping[int, Owner] = {}
        #: By first page, the home a CPU of which has the slab; of SLUB only.
        self.frozen: Mapping[int, Owner] = {}
        #: By first page, the order of pages that kmalloc gave whole.
        self.large: dict[int, int] = {}
        #: Objects that sessions of this node hold.
        self.held = 0
        #: The CPU on whose pagesets pages go that are given back.
        self._cpu: int | None = None
        self._arch = SLAB_ARCH[node.pgdat.arch]
        #: The highest zone of which slabs can be: objects have their addresses all the time.
        self._highest_zone = gfp_zone(int(GFP_KERNEL), node.pgdat.arch)

    # caches

    def follow(self, changed: SlabCaches) -> None:
        """The machine's caches have become these. Those that are no more have no slabs here."""
        caches = slab_caches_of(self._node.machine.spec, changed)
        left = {cache.name for cache in caches}
        for name in [name for name in self.used if name not in left]:
            self._drop(name)
        self.changed = changed
        self._enter(caches)

    def _enter(self, caches: Iterable[Cache]) -> None:
        """These are the caches of the machine."""
        self._known = {cache.name: cache for cache in caches}
        self._aliases = {alias: cache.name for cache in self._known.values() for alias in cache.aliases}
        changed = self.changed.caches
        #: Names of creators that need their cache no more, while others that share it do.
        self._released = {
            change.name for change in changed if change.args and change.name not in change.users
        }
        self._dying = {change.name for change in changed if change.dying}

    def name(self, name: str) -> str:
        """The own name of the cache that a creator knows by this one, perhaps an alias. NotFound."""
        if name in self._released:
            raise NotFound("cache", name, "its creator has destroyed it, and others share it")
        return self.own_name(name)

    def own_name(self, name: str) -> str:
        """The own name of the cache that has this name, perhaps as an alias. NotFound."""
        own = self._aliases.get(name, name)
        if not self.knows(own):
            raise NotFound("cache", name, "the machine has no such slab cache")
        return own

    def check_lives(self, name: str) -> None:
        """Check that a cache, by its own name, gives objects. NotFound."""
        if name in self._dying or not self.knows(name):
            raise NotFound("cache", name, "it is being destroyed" if self.knows(name) else "it is no more")

    def check_gives(self, name: str) -> None:
        """Check the same for another node, which may not know it yet. Precondition."""
        if name in self._dying or not self.knows(name):
            raise Precondition(f"cache {name} is being destroyed")

    def check_dies(self, name: str) -> None:
        """Check that a cache, by its own name, is being destroyed. Precondition."""
        if name not in self._dying:
            raise Precondition(f"cache {name} is not being destroyed")

    @property
    def names(self) -> Iterable[str]:
        """The caches' own names, in the order of creation."""
        return self._known

    def cache(self, name: str) -> Cache:
        """A cache by its own name."""
        return self._known[name]

    def pages_per_object(self, name: str) -> float:
        """Pages of a slab over its objects."""
        order = large_order(name)
        if order is not None:
            return float(1 << order)
        cache = self.cache(name)
        return (1 << cache.order) / cache.objects

    def knows(self, name: str) -> bool:
        """Whether objects can be of that: a cache's own name, or the name of pages that kmalloc gives."""
        return name in self._known or large_order(name) is not None

    def kmalloc_name(self, size: int, gfp: int) -> str:
        """What kmalloc takes for so many bytes: a cache, or whole pages. InvalidRequest."""
        name = self._kmalloc_cache(size, gfp) if size > 0 else None
        if name is not None:
            return name
        if size <= 0 or get_order(size) > MAX_LARGE_ORDER:
            raise InvalidRequest("size", f"{size} is not in 1…{4096 << MAX_LARGE_ORDER}")
        return f"{LARGE}{get_order(size)}"

    def orders(self, name: str) -> tuple[int, int]:
        """The least and the largest order of slabs of a cache."""
        order = large_order(name)
        return self._orders(name) if order is None else (order, order)

    def page_requests(self, name: str, gfp: int, nid: int) -> list[tuple[int, int]]:
        """Order and gfp flags with which pages for a slab are asked for, at first and then."""
        order = large_order(name)
        return self._page_requests(name, gfp, nid) if order is None else [(order, gfp | Gfp.COMP)]

    def fallback_requests(self, name: str, gfp: int) -> list[tuple[int, int]]:
        """How pages are asked for when all nodes were asked for free objects in vain; of SLAB only."""
        return []

    def counts(self) -> dict[str, SlabNodeSnapshot]:
        """What /proc and /sys count of the caches that have been used here, by name."""
        return {name: self.count(name) for name in self.used}

    def first_node(self, cpu: int) -> int:
        """The nearest node with memory for slabs of a CPU of this node (numa_mem_id).

        On a 32-bit machine that is low memory, which perhaps one node has for all.
        """
        nid = self._node.nid
        for ref in self._node.machine.zonelists[nid].fallback:
            if ref.zone <= self._highest_zone:
                return ref.nid
        return nid

    def has_slabs(self, nid: int) -> bool:
        """Whether slabs can be of a node: it has memory that the kernel can use for them (slab_nodes)."""
        return any(zone <= self._highest_zone for zone in self._node.machine.populated.get(nid, ()))

    def wanted_node(self, nid: int) -> int:
        """The node that a request for objects of a node goes to: any, if slabs cannot be of it."""
        return nid if nid == NUMA_NO_NODE or self.has_slabs(nid) else NUMA_NO_NODE

    # what CPUs of this node do

    def install(
        self,
        name: str,
        cpu: int,
        slab: SlabRef,
        objects: Sequence[int],
        partial: Sequence[int],
        all_held: bool,
    ) -> CpuAlloc:
        """What a node gave comes to a CPU; what the caller gets of it is in the result.

        That is all of it, or else its last object.
        """
        if all_held or large_order(name) is not None:
            return CpuAlloc(self._runs(slab, objects), [])
        *others, first = objects
        back = self._install(name, cpu, slab, others, partial)
        return CpuAlloc(self._runs(slab, [first]), back)

    def cpu_alloc(self, name: str, cpu: int, nid: int, count: int, searched: bool) -> CpuAlloc:
        """Up to `count` objects for a CPU, from `nid` if it is one; it stops where more is needed.

        `searched`: the node that is asked first was asked in vain.
        """
        if large_order(name) is not None:
            return CpuAlloc([], [], "slab", nid=nid, most=1, direct=True)
        return self._cpu_alloc(name, cpu, nid, count, searched)

    @abstractmethod
    def cpu_free(self, cpu: int, objects: bytes, held: Sequence[Held]) -> CpuFree:
        """Packed objects come back, up to the first that another node has to hear of.

        `held` has what the session noted of each.
        """

    def _free_in_order(
        self,
        cpu: int,
        objects: bytes,
        held: Sequence[Held],
        free_some: Callable[[int, list[tuple[int, Held]]], list[GiveBack]],
    ) -> CpuFree:
        """Free objects, the first first; `free_some` takes those that are not large off what is left."""
        addresses = unpack(objects)
        left = list(zip(addresses, held, strict=True))
        back: list[GiveBack] = []
        while left and not back:
            address, (name, slab) = left[0]
            if large_order(name) is None:
                back += free_some(cpu, left)
            else:
                del left[0]
                back += self._send("free", name, cpu, slab, [address])
        freed = len(addresses) - len(left)
        return CpuFree(back, addresses[:freed], objects[8 * freed :])

    def _send(self, call: str, name: str, cpu: int, slab: SlabRef, objects: Sequence[int]) -> list[GiveBack]:
        """Objects of one node go back to it: at once, if it is this one."""
        node = self._node
        if slab.nid != node.nid:
            return [GiveBack(call, name, slab.nid, slab.lineage, (), pack(objects))]
        if slab.lineage == node.lineage:
            self.answer(Question(node.kernel, call, name, cpu, node.lineage, (), list(objects), 0))
        return []

    # what a node does with its slabs for any home

    def new_slab(self, name: str, pfn: int, order: int, home: Owner, most: int, cpu: int) -> tuple[int, ...]:
        """Pages become a slab, of whose objects the home gets at most so many, or with 0 all.

        The home gets nothing, and the pages have gone back, if there is no memory for the slab's free list.
        `cpu` is the one that asks.
        """
        self._cpu = cpu
        if large_order(name) is None:
            return self._new_slab(name, pfn, order, home, most)
        self.large[pfn] = order
        self._node.pgdat.pg.node_stat[NR_SLAB_UNRECLAIMABLE] += 1 << order
        address = page_address(pfn, self._arch)
        self.taken[address] = home
        return (address,)

    def check_call(self, asked: Question) -> None:
        """Check that a question names what it has to. InvalidRequest."""
        if asked.call not in self.calls:
            raise InvalidRequest("call", f"{asked.call!r:.40} is none")
        if large_order(asked.cache) is None or asked.call == "wrong_free":
            self._check_call(asked)
        elif asked.call not in ("free", "put_back") or len(asked.objects) != 1:
            raise InvalidRequest("call", "pages of kmalloc come back one by one")

    def answer(self, asked: Question) -> KmemAnswer:
        """Do what a home asks for. Precondition if it does not have what it speaks of."""
        now = self._node.lineage
        if asked.call == "wrong_free":
            return KmemAnswer(now, report=self.wrong_free(asked.cache, asked.objects[0]))
        if asked.call in GIVING and asked.call != "get_freelist":
            # a CPU that asks for the free objects of its slab has let go of the slab: it is served, and
            # gives back what it gets
            self.check_gives(asked.cache)
        if (asked.pfns or asked.objects) and asked.lineage != now:
            return KmemAnswer(now)  # they have gone with an earlier lineage
        self._check_home(asked)
        if large_order(asked.cache) is None:
            return self._answer(asked)
        self._cpu = asked.cpu
        self._free_large(asked.objects[0])
        return KmemAnswer(now)

    def _check_home(self, asked: Question) -> None:
        """Check that a home has these objects of a cache. Precondition."""
        order = large_order(asked.cache)
        for address in asked.objects:
            if self.taken.get(address) != asked.home:
                raise Precondition(f"node {asked.home.nid} does not have the object at {address:#x}")
            pfn = virt_to_pfn(address)
            if self.large.get(pfn) != order or (order is None and self._cache_at(address) != asked.cache):
                raise Precondition(f"page {pfn:#x} of node {self._node.nid} is no slab of {asked.cache}")

    def _free_large(self, address: int) -> None:
        pfn = virt_to_pfn(address)
        order = self.large.pop(pfn)
        del self.taken[address]
        self._node.pgdat.pg.node_stat[NR_SLAB_UNRECLAIMABLE] -= 1 << order
        self._give_pages(pfn, order)

    def _mark_slab(self, pfn: int, order: int, counter: int) -> None:
        """Pages become a slab (__folio_set_slab, account_slab)."""
        pgdat = self._node.pgdat
        pgdat.pg.flags[pfn - pgdat.base_pfn] |= PG_SLAB
        pgdat.pg.node_stat[counter] += 1 << order

    def _free_slab(self, pfn: int, order: int, counter: int) -> None:
        """The pages of a slab go back to their zone (__free_slab)."""
        pgdat = self._node.pgdat
        pgdat.pg.flags[pfn - pgdat.base_pfn] &= ~np.uint16(PG_SLAB)
        pgdat.pg.node_stat[counter] -= 1 << order
        self._give_pages(pfn, order)

    def _give_pages(self, pfn: int, order: int) -> None:
        node = self._node
        node.pgdat.free_packed(self._cpu, order, node.slots[node.kernel], pack([pfn]))
        node.forget_if_empty(node.kernel)

    def _returned(self, objects: Iterable[int]) -> None:
        for address in objects:
            del self.taken[address]

    def _runs(self, slab: SlabRef, objects: Sequence[int]) -> list[tuple[SlabRef, list[int]]]:
        """Objects of `slab`, or others of its node, with their slabs as a session notes them."""
        return [(slab._replace(pfn=virt_to_pfn(address)), [address]) for address in objects]

    # restarts

    def home_restarted(self, nid: int, lineage: int) -> None:
        """Take back what CPUs and sessions of a node had before it was restarted."""
        self._cpu = None
        back = [address for address, home in self.taken.items() if home.nid == nid and home.lineage < lineage]
        others = []
        for address in back:
            if virt_to_pfn(address) in self.large:
                self._free_large(address)
            else:
                others.append(address)
        thawed = [pfn for pfn, home in self.frozen.items() if home.nid == nid and home.lineage < lineage]
        self._take_back(others, thawed)

    def node_restarted(self, nid: int, lineage: int) -> set[int]:
        """Forget slabs and objects of a node from before its restart; ids of the sessions that lost some."""
        self._forget(nid, lineage)
        lost: set[int] = set()
        for session in self._node.sessions.values():
            gone = [
                address
                for address, held in session.objects.items()
                if held.slab.nid == nid and held.slab.lineage < lineage
            ]
            for address in gone:
                del session.objects[address]
            self.forget_written(gone)
            self.held -= len(gone)
            if gone:
                lost.add(session.id)
        return lost

    # snapshots, digests and checks

    def dump(self) -> list[Any]:
        """All of it as plain data in a fixed order, for digests and for :meth:`load`."""
        taken, frozen, large = self.taken.items(), self.frozen.items(), self.large.items()
        return [list(taken), list(frozen), list(large), self.held, self.changed, self._dump()]

    def load(self, dumped: list[Any]) -> None:
        """Fill an empty object with what :meth:`dump` returned."""
        taken, frozen, large, self.held, (changed,), rest = dumped
        self.follow(SlabCaches(tuple(changed_cache(*cache) for cache in changed)))
        self._load(rest, {pfn: Owner(*home) for pfn, home in frozen})
        self.taken.update({address: Owner(*home) for address, home in taken})
        self.large = dict(large)

    def check(self) -> list[str]:
        """The violated invariants of the slabs of this node, and of what its CPUs and sessions have."""
        node, pg = self._node, self._node.pgdat.pg
        base, problems = node.pgdat.base_pfn, []
        slabs = dict(self.slab_pages())
        heads = (np.flatnonzero(pg.flags & PG_SLAB) + base).tolist()
        if heads != sorted(slabs):
            problems.append(f"pages {heads} are slabs, {sorted(slabs)} are known")
        pages = {NR_SLAB_RECLAIMABLE: 0, NR_SLAB_UNRECLAIMABLE: 0}
        whole = {pfn: (order, NR_SLAB_UNRECLAIMABLE) for pfn, order in self.large.items()}
        for pfn, (order, counter) in (slabs | whole).items():
            pages[counter] += 1 << order
            if pg.owner[pfn - base] != node.slot_of(node.kernel) or pg.order[pfn - base] != order:
                problems.append(f"slab {pfn:#x} is not the kernel's, or of another order")
        for counter, count in pages.items():
            if pg.node_stat[counter] != count:
                problems.append(f"{pg.node_stat[counter]} pages of slabs are counted, {count} are there")
        mine = self.known_objects()
        if self.held != sum(len(session.objects) for session in node.sessions.values()):
            problems.append(f"{self.held} objects are counted as held")
        ours = {address for address, home in self.taken.items() if home == node.kernel}
        here_known = {a for a, slab in mine.items() if slab.nid == node.nid}
        if ours != here_known:
            problems.append(f"objects of this node here: {len(ours)} taken, {len(here_known)} known")
        out = {address for address in self.taken if virt_to_pfn(address) not in self.large}
        problems += self._check_slabs(out)
        return [f"node {node.nid}: {problem}" for problem in problems]

    def known_objects(self) -> dict[int, SlabRef]:
        """The objects that CPUs and sessions of this node have, each with its slab."""
        known: dict[int, SlabRef] = {}
        for _, objects, slab in self._on_cpus():
            known.update(dict.fromkeys(objects, slab))
        for session in self._node.sessions.values():
            known.update({address: held.slab for address, held in session.objects.items()})
        return known

    # what was written to where it should not be; only SLUB looks for it

    @abstractmethod
    def write(self, name: str, address: int, offset: int, data: bytes, inuse: bool) -> None:
        """Note bytes that were written around an object of a cache. InvalidRequest, TooMany."""

    def free_object(self, address: int) -> str | None:
        """The cache of a free object of a slab of this node; None if there is none at the address."""
        return None

    def written_among(self, addresses: Sequence[int]) -> list[int]:
        """Those of some objects around which bytes are known that were written."""
        return []

    def check_held(self, name: str, slab: SlabRef, address: int) -> tuple[str, ...]:
        """What is reported of an object that is to be freed; none if it can be."""
        return ()

    def validate(self, name: str) -> tuple[str, ...]:
        """What is reported of the objects of a cache that this node knows of."""
        return ()

    @abstractmethod
    def forget_written(self, addresses: Iterable[int]) -> None:
        """Objects come back or are lost."""

    def put_cpu_partial(self, name: str, cpu: int, slab: SlabRef, *, drain: bool) -> list[GiveBack]:
        """A frozen slab goes on a CPU's partial list; of SLUB only."""
        return []

    def known_slabs(self) -> list[SlabRef]:
        """The slabs that CPUs of this node have frozen; of SLUB only."""
        return []

    def at_hand(self, address: int) -> str | None:
        """The cache of an object that is at hand on a CPU of this node; None: it is on none."""
        return next((name for name, objects, _ in self._on_cpus() if address in objects), None)

    # what each allocator does in its own way

    def reap(self, now_ns: int) -> list[GiveBack]:
        """One round of the reapers of this node's CPUs; of SLAB only (cache_reap)."""
        return []

    def tune(self, name: str, limit: int, batchcount: int, shared: int) -> None:
        """Set the tunables of a cache; of SLAB only. Precondition."""
        raise Precondition(f"{self._node.machine.spec.slab} has no tunables")

    @property
    def reap_wanted(self) -> bool:
        """Whether a reaper would find anything."""
        return False

    @property
    @abstractmethod
    def used(self) -> Iterable[str]:
        """Names of the caches that have been used here."""

    @abstractmethod
    def _drop(self, name: str) -> None:
        """A cache that has been used here is no more."""

    @abstractmethod
    def shutdown(self, name: str) -> Shutdown:
        """Empty slabs of a cache that is destroyed are freed (__kmem_cache_shutdown)."""

    @property
    @abstractmethod
    def rcu_waits(self) -> bool:
        """Whether something is given back when a grace period is over."""

    @abstractmethod
    def rcu_callbacks(self) -> None:
        """A grace period is over."""

    @abstractmethod
    def count(self, name: str) -> SlabNodeSnapshot:
        """What /proc and /sys count of a cache."""

    @abstractmethod
    def view(self, pfn: int) -> SlabView | None:
        """The slab that begins at a page."""

    @abstractmethod
    def slab_pages(self) -> Mapping[int, tuple[int, int]]:
        """By first page, order and counter of each slab."""

    @abstractmethod
    def flush(self, name: str) -> list[GiveBack]:
        """What CPUs of this node have at hand of a cache goes back (flush_all)."""

    @abstractmethod
    def wrong_free(self, name: str, address: int) -> tuple[str, ...]:
        """What is reported of a free of an object that the caller does not have.

        Empty if a home has it: only there it is known whether it is in use.
        """

    @abstractmethod
    def wrong_cache(self, name: str, of: str) -> tuple[str, ...]:
        """What is reported of a free to another cache than the object's own."""

    @abstractmethod
    def already_free(self, name: str, address: int) -> tuple[str, ...]:
        """What is reported of a second free."""

    @abstractmethod
    def _kmalloc_cache(self, size: int, gfp: int) -> str | None: ...

    @abstractmethod
    def _orders(self, name: str) -> tuple[int, int]: ...

    @abstractmethod
    def _page_requests(self, name: str, gfp: int, nid: int) -> list[tuple[int, int]]: ...

    @abstractmethod
    def _new_slab(self, name: str, pfn: int, order: int, home: Owner, most: int) -> tuple[int, ...]: ...

    @abstractmethod
    def _cpu_alloc(self, name: str, cpu: int, nid: int, count: int, searched: bool) -> CpuAlloc: ...

    @abstractmethod
    def _install(
        self, name: str, cpu: int, slab: SlabRef, objects: Sequence[int], partial: Sequence[int]
    ) -> list[GiveBack]: ...

    @abstractmethod
    def _check_call(self, asked: Question) -> None: ...

    @abstractmethod
    def _answer(self, asked: Question) -> KmemAnswer: ...

    @abstractmethod
    def _cache_at(self, address: int) -> str | None:
        """The cache of the slab at an address."""

    @abstractmethod
    def _take_back(self, objects: Sequence[int], frozen: Sequence[int]) -> None:
        """Objects and frozen slabs come back that nobody frees, as their home is gone."""

    @abstractmethod
    def _forget(self, nid: int, lineage: int) -> None:
        """CPUs of this node lose what they had of a node before it was restarted."""

    @abstractmethod
    def _on_cpus(self) -> Iterator[tuple[str, Sequence[int], SlabRef]]:
        """Objects at hand on CPUs of this node, with their cache and their slab, or one of the same node."""

    @abstractmethod
    def _dump(self) -> list[Any]: ...

    @abstractmethod
    def _load(self, dumped: list[Any], frozen: Mapping[int, Owner]) -> None: ...

    @abstractmethod
    def _check_slabs(self, out: set[int]) -> list[str]:
        """The violated invariants of slabs; `out` are the objects that homes have."""


def slab_counter(reclaimable: bool) -> int:
    """Which counter has the pages of a cache's slabs (cache_vmstat_idx)."""
    return NR_SLAB_RECLAIMABLE if reclaimable else NR_SLAB_UNRECLAIMABLE
