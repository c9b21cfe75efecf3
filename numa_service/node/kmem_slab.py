"""Objects of slab caches on one node with SLAB (``mm/slab.c``): its slabs, and arrays of its CPUs.

Slabs, their lists and the array that CPUs share are of the node that has the pages (``SlabNode``). The arrays
of CPUs, and those in which objects of other nodes wait to go home, are of the CPUs' home. What passes between
nodes are whole batches: a refill, the twelve objects of an alien array, and, of CPUs whose node has no
memory, a flush. A free list that is off its slab is an object of kmalloc of the node that has the slab,
which takes and frees it by itself: through the array of a CPU of its own, else straight from the slabs.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numa_service.mm.gfp import Gfp, gfp_migratetype
from numa_service.mm.internal import ALLOC_CPUSET, ALLOC_WMARK_LOW, ALLOC_WMARK_MIN
from numa_service.mm.page_alloc import NUMA_HOW_HIT, NUMA_HOW_LOCAL
from numa_service.mm.slab.cache import Cache
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.pages import NUMA_NO_NODE, virt_to_pfn
from numa_service.mm.slab.profile import slab_of
from numa_service.mm.slab.reports import still_has_objects
from numa_service.mm.slab.slab import Freelist, SlabCache
from numa_service.mm.slab.slab_alloc import (
    BATCHREFILL_LIMIT,
    HZ,
    REAPTIMEOUT_NODE,
    gfp_exact_node,
    page_flags,
)
from numa_service.mm.slab.slab_boot import counted_cpus
from numa_service.mm.slab.slab_node import ArrayCache, SlabNode, SlabPages, take_idle
from numa_service.mm.slab.slab_reports import double_free, no_object
from numa_service.mm.slab.slub_place import SlabRef
from numa_service.mm.slab.slub_reports import no_slab_page, wrong_cache
from numa_service.mm.slab.snapshot import SlabNodeSnapshot
from numa_service.node.errors import InvalidRequest
from numa_service.node.kmem_calls import (
    CpuAlloc,
    CpuFree,
    GiveBack,
    KmemAnswer,
    Question,
    Shutdown,
    SlabView,
    pack,
)
from numa_service.node.kmem_state import Holder, Kmem, slab_counter
from numa_service.node.owners import Owner
from numa_service.node.session_state import Held

_JIFFY_NS = 10**9 // HZ


@dataclass(slots=True)
class HomeArray(ArrayCache):
    """An array at home: all its objects are of one node, and of one lineage of it."""

    nid: int = -1
    lineage: int = 0

    @property
    def of(self) -> SlabRef:
        """Where the objects are from."""
        return SlabRef(0, self.nid, self.lineage)

    def put(self, of: SlabRef, objects: Sequence[int]) -> None:
        """Add objects of a node; those of an earlier lineage than others' are lost, and forgotten."""
        if not self.entry or of.lineage > self.lineage:
            self.nid, self.lineage = of.nid, of.lineage
            self.entry.clear()
        if of.lineage == self.lineage:
            self.entry += objects


class CacheHere:
    """A cache on one node (struct kmem_cache_node), and its arrays for the node's CPUs."""

    def __init__(self, cache: SlabCache, node: SlabNode, cpus: Iterable[int]) -> None:
        self.cache = cache
        self.node = node
        self.cpus: dict[int, HomeArray] = {}
        #: Objects of other nodes that CPUs of this one freed, by the node that they are of.
        self.alien: dict[int, HomeArray] = {}
        for cpu in cpus:
            self.cpus[cpu] = HomeArray(cache.limit, cache.batchcount)

    def arrays(self) -> Iterator[HomeArray]:
        """All arrays of objects at home."""
        yield from self.cpus.values()
        yield from self.alien.values()


class SlabKmem(Kmem):
    """SLAB on one node."""

    calls = frozenset(("take", "take_home", "free", "put_back", "shrink", "wrong_free"))

    def __init__(self, node: Holder) -> None:
        super().__init__(node)
        #: Those that have been used here, by name.
        self.here: dict[str, CacheHere] = {}
        #: The slab of each page that is one's.
        self.struct_pages: dict[int, SlabPages] = {}
        #: Slabs of SLAB_TYPESAFE_BY_RCU caches, oldest first, that wait for a grace period.
        self.rcu: deque[SlabPages] = deque()
        #: The node whose objects a CPU's reaper sends home next (slab_reap_node).
        self.reap_node = {cpu: self._next_node(node.nid) for cpu in node.pgdat.cpus}
        self._profile = slab_of(node.machine.profile.name, node.pgdat.arch)
        home = {cpu: nid for nid, cpus in node.machine.spec.own_cpus.items() for cpu in cpus}
        self._counted = counted_cpus(self._profile, self._caches, home, node.nid)

    def _enter(self, caches: Iterable[Cache]) -> None:
        super()._enter(caches)
        self._caches = {name: cache for name, cache in self._known.items() if isinstance(cache, SlabCache)}

    def _drop(self, name: str) -> None:
        del self.here[name]

    def shutdown(self, name: str) -> Shutdown:
        """Empty slabs are freed, also those that wait for a grace period. SLAB names no objects."""
        self._cpu = None
        here = self.here.get(name)
        if here is None:
            return Shutdown()
        if here.node.drain():
            return Shutdown(len(here.node.partial) + len(here.node.full), still_has_objects(name).report)
        self.rcu_callbacks()
        return Shutdown()

    def at(self, name: str) -> CacheHere:
        """What this node has of a cache."""
        here = self.here.get(name)
        if here is None:
            cache = dataclasses.replace(self._caches[name])
            nid, all_cpus = self._node.nid, len(self._node.machine.spec.own_cpus[self._node.nid])
            counted = self._counted.get(name, all_cpus)
            node = SlabNode(cache, nid, counted, (), REAPTIMEOUT_NODE, self.struct_pages, self._destroy)
            here = self.here[name] = CacheHere(cache, node, self._node.pgdat.cpus)
        return here

    @property
    def used(self) -> Iterable[str]:
        """Names of the caches that have been used here."""
        return self.here

    def _kmalloc_cache(self, size: int, gfp: int) -> str | None:
        return self._profile.kmalloc.cache_of(size, gfp)

    def _orders(self, name: str) -> tuple[int, int]:
        order = self._caches[name].order
        return order, order

    def first_node(self, cpu: int) -> int:
        """The node of a CPU, also if slabs cannot be of it: x86 has no HAVE_MEMORYLESS_NODES (numa_mem_id).

        Such a CPU has nothing in its array: each object comes from another node (fallback_alloc).
        """
        return self._node.nid

    def wanted_node(self, nid: int) -> int:
        """The node itself: if it has no slabs, others are asked, past all arrays (____cache_alloc_node)."""
        return nid

    def _page_requests(self, name: str, gfp: int, nid: int) -> list[tuple[int, int]]:
        cache = self._caches[name]
        if not self.has_slabs(self._node.nid if nid == NUMA_NO_NODE else nid):
            return []
        return [(cache.order, page_flags(cache, gfp_exact_node(gfp)))]

    def fallback_requests(self, name: str, gfp: int) -> list[tuple[int, int]]:
        """How pages of any node are asked for when no node has free objects (fallback_alloc)."""
        if name not in self._caches or gfp & Gfp.THISNODE:
            return []
        cache = self._caches[name]
        return [(cache.order, page_flags(cache, gfp))]

    def count(self, name: str) -> SlabNodeSnapshot:
        """What /proc counts of a cache (get_slabinfo)."""
        here = self.here.get(name)
        if here is None:
            return SlabNodeSnapshot()
        node, cache = here.node, here.cache
        return SlabNodeSnapshot(
            slabs=node.total_slabs,
            objects=node.total_slabs * cache.objects,
            partial=len(node.partial),
            partial_inuse=sum(slab.active for slab in node.partial.values()),
            free=node.free_objects,
            empty=len(node.empty),
            shared_available=len(node.shared.entry) if node.shared else 0,
            tunables=(cache.limit, cache.batchcount, cache.shared),
        )

    def view(self, pfn: int) -> SlabView | None:
        """The slab that begins at a page, and the list of its cache that it is on."""
        slab = self.struct_pages.get(pfn)
        if slab is None or slab.pfn != pfn:
            return None
        name, listed = slab.cache.name, None
        for kind, slabs in _lists(self.at(name).node):
            if pfn in slabs:
                listed = f"{kind} {name}", list(slabs)
        return SlabView(name, slab.active, slab.cache.objects, slab.free[-1] if slab.free else None, listed)

    def slab_pages(self) -> dict[int, tuple[int, int]]:
        """By first page, order and counter of each slab."""
        return {
            pfn: (slab.cache.order, _counter(slab.cache))
            for pfn, slab in self.struct_pages.items()
            if slab.pfn == pfn
        }

    @property
    def rcu_waits(self) -> bool:
        """Whether slabs wait for a grace period."""
        return bool(self.rcu)

    def rcu_callbacks(self) -> None:
        """A grace period is over for all slabs that wait (kmem_rcu_free)."""
        self._cpu = None
        while self.rcu:
            self._give_back(self.rcu.popleft())

    def wrong_cache(self, name: str, of: str) -> tuple[str, ...]:
        """What is reported of a free to another cache than the object's own."""
        return wrong_cache(name, of).report

    def already_free(self, name: str, address: int) -> tuple[str, ...]:
        """What is reported of a second free."""
        return double_free(name, address).report

    def wrong_free(self, name: str, address: int) -> tuple[str, ...]:
        """What is reported of a free of an object that the caller does not have."""
        slab = self.struct_pages.get(virt_to_pfn(address))
        if slab is None:
            return no_slab_page().report
        number, rest = divmod(address - slab.start, slab.cache.size)
        if rest or not 0 <= number < slab.cache.objects:
            return no_object(name or slab.cache.name, address).report
        return () if address in self.taken else double_free(slab.cache.name, address).report

    # slabs of this node, for any home

    def _new_slab(self, name: str, pfn: int, order: int, home: Owner, most: int) -> tuple[int, ...]:
        """Pages become a slab; `home` gets some of its objects (cache_grow_begin, cache_grow_end).

        It gets none if there is no memory for the slab's free list: the pages have gone back then.
        """
        node = self.at(name).node
        off_slab = None
        if node.cache.freelist is Freelist.OFF_SLAB:
            off_slab = self._alloc_freelist(node.cache.freelist_bytes, home)
            if off_slab is None:
                self._give_pages(pfn, order)
                return ()
        self._mark_slab(pfn, order, _counter(node.cache))
        slab = SlabPages(pfn, self._node.nid, node.cache, [], off_slab=off_slab)
        node.init_objects(slab)
        return self._taken(node.grow_end(slab, most or node.cache.objects), home)

    def _alloc_freelist(self, size: int, home: Owner) -> int | None:
        """An object of kmalloc of this node for the free list of a slab; None: no memory (alloc_slabmgmt)."""
        name, kernel = self._profile.kmalloc.cache_of(size, 0), self._node.kernel
        assert name is not None
        node = self.at(name).node
        array = self._array_for(name) if home == kernel else None
        if array is None:
            address = node.alloc_one()
            got = self._grow_here(name, 1) if address is None else self._taken([address], kernel)
            return got[0] if got else None
        if not array.entry:
            most = array.batchcount if array.touched else min(array.batchcount, BATCHREFILL_LIMIT)
            got = self._taken(node.refill(most), kernel) or self._grow_here(name, most)
            if not got:
                return None
            array.put(SlabRef(0, self._node.nid, self._node.lineage), got)
        array.touched = True
        return array.entry.pop()

    def _free_freelist(self, address: int) -> None:
        """The free list of a slab that is gone goes, too (slab_destroy)."""
        name = self.struct_pages[virt_to_pfn(address)].cache.name
        array = self._array_for(name)
        if array is None:
            self._returned([address])
            self.at(name).node.free_block([address])
            return
        if len(array.entry) >= array.limit:
            assert self._cpu is not None
            self._flush(name, self._cpu, array)
        array.put(SlabRef(0, self._node.nid, self._node.lineage), [address])

    def _array_for(self, name: str) -> HomeArray | None:
        """The array of the CPU that allocates or frees, if it is one of this node's objects."""
        array = self.at(name).cpus.get(-1 if self._cpu is None else self._cpu)
        return None if self._cpu is None else array

    def _grow_here(self, name: str, most: int) -> tuple[int, ...]:
        """At most so many objects of a new slab of this node; none if it has no memory for one."""
        node, order = self._node, self._caches[name].order
        zones = [ref.zone for ref in node.machine.zonelists[node.nid].thisnode]
        migratetype = gfp_migratetype(0)
        for mark in (ALLOC_WMARK_LOW, ALLOC_WMARK_MIN):
            pages, _, _ = node.pgdat.alloc_packed(
                [zone for zone in zones if zone <= self._highest_zone],
                self._cpu,
                order,
                1,
                migratetype,
                self._highest_zone,
                mark | ALLOC_CPUSET,
                NUMA_HOW_HIT | NUMA_HOW_LOCAL,
                node.slots.get(node.kernel) or node.slots.make(node.kernel),
            )
            if pages:
                return self._new_slab(name, int.from_bytes(pages, "little"), order, node.kernel, most)
        return ()

    def _taken(self, objects: Sequence[int], home: Owner) -> tuple[int, ...]:
        self.taken.update(dict.fromkeys(objects, home))
        return tuple(objects)

    def _check_call(self, asked: Question) -> None:
        named = len(asked.objects)
        if asked.call == "take":
            if not asked.most:
                raise InvalidRequest("count", f"{asked.call} wants no object")
        elif asked.call != "shrink" and not named:
            raise InvalidRequest("objects", f"{asked.call} names no object")

    def _answer(self, asked: Question) -> KmemAnswer:
        now, objects = self._node.lineage, asked.objects
        node = self.at(asked.cache).node
        self._cpu = asked.cpu
        match asked.call:
            case "take":
                got: list[int] = []
                while len(got) < asked.most and (address := node.alloc_one()) is not None:
                    got.append(address)
                return KmemAnswer(now, objects=pack(self._taken(got, asked.home)))
            case "shrink":
                node.drain()
                return KmemAnswer(now)
        self._returned(objects)
        array = ArrayCache(len(objects), len(objects), objects)
        if asked.call == "take_home":
            node.take_home(array)
        elif asked.call == "free":
            for address in objects:
                node.free_block([address])
            return KmemAnswer(now)
        node.free_block(array.entry)
        return KmemAnswer(now)

    def _cache_at(self, address: int) -> str | None:
        slab = self.struct_pages.get(virt_to_pfn(address))
        return None if slab is None else slab.cache.name

    def _take_back(self, objects: Sequence[int], frozen: Sequence[int]) -> None:
        self._returned(objects)
        by_cache: dict[str, list[int]] = {}
        for address in objects:
            by_cache.setdefault(self.struct_pages[virt_to_pfn(address)].cache.name, []).append(address)
        for name, some in by_cache.items():
            self.at(name).node.free_block(some)

    def _destroy(self, slab: SlabPages) -> None:
        """A slab without objects goes, at once or after a grace period (slab_destroy)."""
        if SlabFlag.TYPESAFE_BY_RCU in slab.cache.flags:
            self.rcu.append(slab)
        else:
            self._give_back(slab)

    def _give_back(self, slab: SlabPages) -> None:
        for pfn in range(slab.pfn, slab.pfn + (1 << slab.cache.order)):
            del self.struct_pages[pfn]
        self._free_slab(slab.pfn, slab.cache.order, _counter(slab.cache))
        if slab.off_slab is not None:
            self._free_freelist(slab.off_slab)

    # what CPUs of this node have

    def _cpu_alloc(self, name: str, cpu: int, nid: int, count: int, searched: bool) -> CpuAlloc:
        """From the CPU's array, which its node refills; objects of other nodes pass it by.

        (____cache_alloc, ____cache_alloc_node.)
        """
        here, mine = self.at(name), self._node.nid
        if nid not in (NUMA_NO_NODE, mine):
            return CpuAlloc([], [], "slab" if searched else "take", nid=nid, most=count, direct=True)
        array = here.cpus[cpu]
        got: list[tuple[SlabRef, list[int]]] = []
        left = count
        while left:
            if array.entry:
                array.touched = True
                got += self._runs(array.of, [array.entry.pop()])
                left -= 1
                continue
            most = array.batchcount if array.touched else min(array.batchcount, BATCHREFILL_LIMIT)
            objects = self._taken(here.node.refill(most), self._node.kernel)
            if not objects:
                return CpuAlloc(got, [], "slab", nid=mine, most=most)
            array.put(SlabRef(0, mine, self._node.lineage), objects)
        return CpuAlloc(got, [])

    def _install(
        self, name: str, cpu: int, slab: SlabRef, objects: Sequence[int], partial: Sequence[int]
    ) -> list[GiveBack]:
        """What a node gave for the CPU's array; it goes back if another request was faster."""
        array = self.at(name).cpus[cpu]
        if array.entry or slab.nid != self._node.nid:
            return self._send("put_back", name, cpu, slab, objects) if objects else []
        array.put(slab, objects)
        array.touched = True
        return []

    def cpu_free(self, cpu: int, objects: bytes, held: Sequence[Held]) -> CpuFree:
        """Packed objects come back, the first first, until another node has to hear of some."""
        return self._free_in_order(cpu, objects, held, self._free_some)

    def _free_some(self, cpu: int, left: list[tuple[int, Held]]) -> list[GiveBack]:
        """To the CPU's array, or by way of the alien array to another node (___cache_free)."""
        address, (name, slab) = left.pop(0)
        here = self.at(name)
        if slab.nid == self._node.nid:
            array = here.cpus[cpu]
            if len(array.entry) >= array.limit:
                self._flush(name, cpu, array)
            array.put(slab, [address])
            return []
        if not here.cache.alien_limit:
            return self._send("free", name, cpu, slab, [address])
        back: list[GiveBack] = []
        alien = here.alien.setdefault(slab.nid, HomeArray(here.cache.alien_limit, 0))
        if len(alien.entry) >= alien.limit:
            back += self._empty("take_home", name, cpu, alien)
        alien.put(slab, [address])
        return back

    def _flush(self, name: str, cpu: int, array: HomeArray) -> None:
        """The oldest objects of a full array go to the lists of this node (cache_flusharray)."""
        self._cpu = cpu
        before = list(array.entry)
        self.at(name).node.flush(array)
        self._returned(before[: len(before) - len(array.entry)])

    def _empty(self, call: str, name: str, cpu: int, array: HomeArray) -> list[GiveBack]:
        """All objects of an array go to their node."""
        objects = array.take_oldest(len(array.entry))
        return self._send(call, name, cpu, array.of, objects) if objects else []

    def flush(self, name: str) -> list[GiveBack]:
        """All arrays of this node's CPUs are emptied (drain_cpu_caches)."""
        here = self.at(name)
        back: list[GiveBack] = []
        for cpu, array in here.cpus.items():
            back += self._empty("put_back", name, cpu, array)
        for alien in here.alien.values():
            back += self._empty("take_home", name, self._any_cpu, alien)
        return back

    def tune(self, name: str, limit: int, batchcount: int, shared: int) -> None:
        """Make the arrays of a cache anew; what CPUs have goes back to slabs (do_tune_cpucache)."""
        here = self.at(name)
        cache, node = here.cache, here.node
        cache.limit, cache.batchcount, cache.shared = limit, batchcount, shared
        for cpu, array in here.cpus.items():
            self._cpu = cpu
            objects = array.take_oldest(len(array.entry))
            self._returned(objects)
            node.free_block(objects)  # without any, too: slabs go if an earlier write lowered the limit
            array.limit, array.batchcount, array.touched = limit, batchcount, False
        node.count_cpus(len(self._node.machine.spec.own_cpus[self._node.nid]))
        node.setup()

    @property
    def _any_cpu(self) -> int:
        pgdat = self._node.pgdat
        return next(iter(pgdat.cpus), next(iter(pgdat.cpu_index)))

    def reap(self, now_ns: int) -> list[GiveBack]:
        """One round of the reapers of this node's CPUs, over all caches, the newest first (cache_reap)."""
        back: list[GiveBack] = []
        jiffies = now_ns // _JIFFY_NS
        newest_first = [name for name in reversed(self._caches) if name in self.here]
        for cpu in self._node.pgdat.cpus:
            self._cpu = cpu
            of = self.reap_node[cpu]
            for name in newest_first:
                here = self.here[name]
                if of in here.alien:
                    back += self._empty("take_home", name, cpu, here.alien[of])
                array = here.cpus[cpu]
                if idle := take_idle(array):
                    back += self._send("put_back", name, cpu, array.of, idle)
                here.node.reap(jiffies, REAPTIMEOUT_NODE)
            self.reap_node[cpu] = self._next_node(of)
        return back

    @property
    def reap_wanted(self) -> bool:
        """Whether there are arrays with objects or slabs without."""
        return any(
            here.node.empty
            or (here.node.shared and here.node.shared.entry)
            or any(array.entry for array in here.arrays())
            for here in self.here.values()
        )

    def _next_node(self, nid: int) -> int:
        machine = self._node.machine
        nodes = sorted(nid for nid, zones in machine.populated.items() if zones or machine.spec.own_cpus[nid])
        return next((other for other in nodes if other > nid), nodes[0] if nodes else nid)

    def _forget(self, nid: int, lineage: int) -> None:
        for here in self.here.values():
            for array in here.arrays():
                if array.nid == nid and array.lineage < lineage:
                    array.entry.clear()

    def known_objects(self) -> dict[int, SlabRef]:
        """The objects of CPUs and sessions of this node, and of free lists that are off their slabs."""
        here = SlabRef(0, self._node.nid, self._node.lineage)
        slabs = self.struct_pages.values()
        return super().known_objects() | {slab.off_slab: here for slab in slabs if slab.off_slab is not None}

    def _on_cpus(self) -> Iterator[tuple[str, Sequence[int], SlabRef]]:
        for name, here in self.here.items():
            for array in here.arrays():
                yield name, array.entry, array.of

    def write(self, name: str, address: int, offset: int, data: bytes, inuse: bool) -> None:
        """Nothing: without CONFIG_DEBUG_SLAB nobody would look."""

    def forget_written(self, addresses: Iterable[int]) -> None:
        """Nothing: none are known."""

    # snapshots and checks

    def _dump(self) -> list[Any]:
        caches = []
        for name, here in sorted(self.here.items()):
            cache, node, shared = here.cache, here.node, here.node.shared
            caches.append(
                (
                    name,
                    (cache.limit, cache.batchcount, cache.shared),
                    [(cpu, _array(array)) for cpu, array in here.cpus.items()],
                    [(nid, _array(array)) for nid, array in here.alien.items()],
                    [list(slabs) for _, slabs in _lists(node)],
                    (node.free_objects, node.free_limit, node.free_touched, node.colour_next, node.next_reap),
                    (shared.limit, shared.entry, shared.touched) if shared else None,
                )
            )
        slabs = [
            (slab.cache.name, slab.pfn, slab.start, slab.free, slab.off_slab)
            for pfn, slab in self.struct_pages.items()
            if slab.pfn == pfn
        ]
        return [caches, slabs, [slab.pfn for slab in self.rcu], list(self.reap_node.items())]

    def _load(self, dumped: list[Any], frozen: Mapping[int, Owner]) -> None:
        caches, slabs, rcu, reap_node = dumped
        for name, pfn, start, free, off_slab in slabs:
            cache = self.at(name).cache
            slab = SlabPages(pfn, self._node.nid, cache, free, start, off_slab)
            self.struct_pages.update(dict.fromkeys(range(pfn, pfn + (1 << cache.order)), slab))
        for name, tunables, cpus, aliens, lists, counted, shared in caches:
            here = self.at(name)
            node = here.node
            here.cache.limit, here.cache.batchcount, here.cache.shared = tunables
            here.cpus = {cpu: HomeArray(*array) for cpu, array in cpus}
            here.alien = {nid: HomeArray(*array) for nid, array in aliens}
            for (_, kept), pfns in zip(_lists(node), lists, strict=True):
                kept.update((pfn, self.struct_pages[pfn]) for pfn in pfns)
            node.free_objects, node.free_limit, node.free_touched, node.colour_next, node.next_reap = counted
            node.shared = ArrayCache(shared[0], 0, shared[1], shared[2]) if shared else None
        self.rcu.extend(self.struct_pages[pfn] for pfn in rcu)
        self.reap_node = dict(reap_node)

    def _check_slabs(self, out: set[int]) -> list[str]:
        problems = []
        away: Counter[int] = Counter()
        listed: Counter[int] = Counter(slab.pfn for slab in self.rcu)
        shared = [
            address for here in self.here.values() if here.node.shared for address in here.node.shared.entry
        ]
        if not out.isdisjoint(shared) or len(set(shared)) != len(shared):
            problems.append("objects in shared arrays are twice there, or with homes, too")
        for address in (*out, *shared):
            slab = self.struct_pages.get(virt_to_pfn(address))
            if slab is None:
                problems.append(f"object {address:#x} is of no slab")
            else:
                away[slab.pfn] += 1
        for name, here in self.here.items():
            node, objects = here.node, here.cache.objects
            for kind, slabs in _lists(node):
                listed.update(slabs.keys())
                for pfn, slab in slabs.items():
                    free = len(slab.free)
                    fits = {"partial": 0 < free < objects, "full": not free, "free": free == objects}
                    if not fits[kind] or slab.cache is not here.cache:
                        problems.append(f"slab {pfn:#x} of {name} has {free} free objects, and is {kind}")
            free_objects = sum(len(slab.free) for _, slabs in _lists(node) for slab in slabs.values())
            if node.free_objects != free_objects:
                problems.append(f"{name}: {node.free_objects} free objects are counted, not {free_objects}")
        for pfn, slab in self.struct_pages.items():
            if slab.pfn != pfn:
                continue
            if slab.active != away[pfn] or listed[pfn] != 1:
                counts = f"{slab.active} objects are not in it, {away[pfn]} are elsewhere"
                problems.append(f"slab {pfn:#x} of {slab.cache.name}: {counts}; on {listed[pfn]} lists")
        return problems


def _lists(node: SlabNode) -> tuple[tuple[str, dict[int, SlabPages]], ...]:
    return ("partial", node.partial), ("full", node.full), ("free", node.empty)


def _array(array: HomeArray) -> tuple[Any, ...]:
    return array.limit, array.batchcount, array.entry, array.touched, array.nid, array.lineage


def _counter(cache: SlabCache) -> int:
    return slab_counter(SlabFlag.RECLAIM_ACCOUNT in cache.flags)
