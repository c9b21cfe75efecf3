"""Objects of slab caches on one node with SLUB (``mm/slub.c``): its slabs, and what its CPUs have at hand.

A slab and the list of a cache's partly free slabs are of the node that has the pages; a CPU's slab, its free
objects and its partial list are of the CPU's home (decision 0012).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from numa_service.mm.gfp import Gfp
from numa_service.mm.slab.cache import Cache
from numa_service.mm.slab.compiled.cpu import slub_alloc, slub_free_located, slub_free_objects
from numa_service.mm.slab.compiled.data import (
    NEED_DEACTIVATE,
    NEED_FREELIST,
    NEED_NOTHING,
    NEED_PARTIAL,
    NEED_PUT_BACK,
    NEED_SLAB,
    NONE,
    SLAB_CACHE,
)
from numa_service.mm.slab.compiled.lists import slub_not_in_slab, slub_not_of_home
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import PAGE_SIZE
from numa_service.mm.slab.pages import NUMA_NO_NODE, virt_to_pfn
from numa_service.mm.slab.profile import slub_of
from numa_service.mm.slab.slub import SlubCache
from numa_service.mm.slab.slub_cpu import PREFERRED_NODE_ALONE, KmemCacheCpu, slab_pages
from numa_service.mm.slab.slub_node import OWN_HOME, KmemCacheNode, NodeSlabs
from numa_service.mm.slab.slub_place import SlabRef, SlubPlace, cpu_partial_slabs
from numa_service.mm.slab.slub_reports import (
    already_free,
    invalid_pointer,
    no_slab_page,
    objects_remaining,
    wrong_cache,
)
from numa_service.mm.slab.snapshot import SlabNodeSnapshot
from numa_service.node.errors import InvalidRequest, Precondition
from numa_service.node.kmem_calls import (
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
from numa_service.node.kmem_state import Holder, Kmem, slab_counter
from numa_service.node.kmem_written import WrittenBytes
from numa_service.node.owners import Owner
from numa_service.node.session_state import Held
from numa_service.node.slab_homes import FrozenSlabs, Homes, TakenObjects

#: What is asked for, by NEED_*.
_NEEDS = {NEED_NOTHING: "", NEED_FREELIST: "freelist", NEED_PARTIAL: "get_partial", NEED_SLAB: "slab"}
#: How many slabs and objects a question names at least, if not one slab and perhaps no object.
_NAMED = {"get_partial": (0, 0), "shrink": (0, 0), "wrong_free": (0, 1), "free": (1, 1)}


class CacheHere:
    """A cache on one node (struct kmem_cache_node, and kmem_cache_cpu of the node's CPUs)."""

    def __init__(self, cache: SlubCache, slabs: NodeSlabs, cpus: Iterable[int]) -> None:
        self.cache = cache
        self.node = KmemCacheNode(cache, slabs)
        self.cpus = {cpu: KmemCacheCpu(slabs.place, cache, cpu) for cpu in cpus}


class SlubKmem(Kmem):
    """SLUB on one node."""

    calls = frozenset(("get_partial", "get_freelist", "free", "put_back", "unfreeze", "shrink", "wrong_free"))

    def __init__(self, node: Holder) -> None:
        #: Those that have been used here, by name.
        self.here: dict[str, CacheHere] = {}
        super().__init__(node)
        self.place = SlubPlace([node.nid], node.pgdat.cpus, self._arch)
        self.slabs = NodeSlabs(node.nid, self._free_pages, self.place, node.lineage)
        self._forget_homes()
        self._profile = slub_of(node.machine.profile.name, node.pgdat.arch)
        self.written = WrittenBytes(self._profile, self.slabs)

    def _enter(self, caches: Iterable[Cache]) -> None:
        super()._enter(caches)
        self._caches = {name: cache for name, cache in self._known.items() if isinstance(cache, SlubCache)}
        for name, here in self.here.items():
            now = self._caches[name]
            row = self.place.row_of(here.cache)
            self.place.set_limits(row, now.min_partial, cpu_partial_slabs(now))

    def _drop(self, name: str) -> None:
        self.place.remove_cache(self.here.pop(name).cache)

    def shutdown(self, name: str) -> Shutdown:
        """Empty slabs are freed, also those that wait for a grace period; what is left is reported."""
        self._cpu = None
        here = self.here.get(name)
        if here is None:
            return Shutdown()
        partial = here.node.free_partial()
        if here.node.nr_slabs:
            inuse = [(slab, sorted(set(slab.all_objects()) - set(slab.freelist))) for slab in partial]
            return Shutdown(here.node.nr_slabs, objects_remaining(name, inuse, self._profile.work).report)
        self.rcu_callbacks()
        return Shutdown()

    def _forget_homes(self) -> None:
        """No home but this one is known."""
        self._homes = Homes(self._node.kernel)
        self.taken = TakenObjects(self.slabs, self._homes)
        self.frozen = FrozenSlabs(self.slabs, self._homes)

    def at(self, name: str) -> CacheHere:
        """What this node has of a cache."""
        here = self.here.get(name)
        if here is None:
            cpus = self._node.pgdat.cpus
            here = self.here[name] = CacheHere(self._caches[name], self.slabs, cpus)
        return here

    @property
    def used(self) -> Iterable[str]:
        """Names of the caches that have been used here."""
        return self.here

    def _kmalloc_cache(self, size: int, gfp: int) -> str | None:
        return self._profile.kmalloc.cache_of(size, gfp)

    def _orders(self, name: str) -> tuple[int, int]:
        cache = self._caches[name]
        return cache.min_order, cache.order

    def _page_requests(self, name: str, gfp: int, nid: int) -> list[tuple[int, int]]:
        """Pages of the cache's order, else of the least, of a preferred node alone first (new_slab)."""
        cache, work = self._caches[name], self._profile.work
        requests = list(slab_pages(cache, work, gfp))
        if nid != NUMA_NO_NODE and work.preferred_node_first and not gfp & Gfp.THISNODE:
            return [*slab_pages(cache, work, PREFERRED_NODE_ALONE), *requests]
        return requests

    def count(self, name: str) -> SlabNodeSnapshot:
        """What /proc and /sys count of a cache (get_slabinfo, show_slab_objects)."""
        here = self.here.get(name)
        if here is None:
            return SlabNodeSnapshot()
        node = here.node
        partial = [node.slab(pfn) for pfn in node.partial]
        cpu_slabs: Counter[int] = Counter()
        for cpu in here.cpus.values():
            if cpu.slab is not None:
                cpu_slabs[cpu.slab.nid] += 1
            if cpu.partial:  # all are counted as of the node of the first
                cpu_slabs[cpu.partial[-1].nid] += len(cpu.partial)
        return SlabNodeSnapshot(
            slabs=node.nr_slabs,
            objects=node.total_objects,
            partial=len(partial),
            partial_inuse=sum(slab.inuse for slab in partial),
            free=sum(slab.objects - slab.inuse for slab in partial),
            cpu_slabs=dict(cpu_slabs),
            cpu_partial={number: len(cpu.partial) for number, cpu in here.cpus.items() if cpu.partial},
        )

    def view(self, pfn: int) -> SlabView | None:
        """The slab that begins at a page; a full slab, or one that a CPU has, is on no list."""
        slab = self.slabs.slabs.get(pfn)
        if slab is None:
            return None
        name = slab.cache.name
        listed = list(self.at(name).node.partial)
        return SlabView(
            name,
            slab.inuse,
            slab.objects,
            slab.freelist[-1] if slab.freelist else None,
            (f"partial {name}", listed) if pfn in listed else None,
        )

    def slab_pages(self) -> dict[int, tuple[int, int]]:
        """By first page, order and counter of each slab."""
        return {pfn: (slab.order, _counter(slab.cache)) for pfn, slab in self.slabs.slabs.items()}

    @property
    def rcu_waits(self) -> bool:
        """Whether slabs wait for a grace period."""
        return bool(self.slabs.rcu)

    def rcu_callbacks(self) -> None:
        """A grace period is over for all slabs that wait."""
        self._cpu = None
        self.slabs.rcu_callbacks()

    def wrong_cache(self, name: str, of: str) -> tuple[str, ...]:
        """What is reported of a free to another cache than the object's own."""
        return wrong_cache(name, of).report

    def already_free(self, name: str, address: int) -> tuple[str, ...]:
        """What is reported of a second free."""
        return already_free(name, address).report

    # slabs of this node, for any home

    def _new_slab(self, name: str, pfn: int, order: int, home: Owner, most: int) -> tuple[int, ...]:
        """Pages become a slab of a CPU of `home`, which gets its objects (allocate_slab)."""
        here = self.at(name)
        cache = here.cache
        self._mark_slab(pfn, order, _counter(cache))
        count = min((PAGE_SIZE << order) // cache.size, cache.objects)
        return here.node.new_slab(pfn, order, range(count), self._homes.number(home))

    def get_partial(self, name: str, home: Owner) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Partial slabs for a CPU of `home`: their first pages, and the objects of the first."""
        here = self.at(name)
        got = here.node.get_partial_node(self._homes.number(home))
        return tuple(slab.pfn for slab in got), got[0].freelist if got else ()

    def get_freelist(self, name: str, pfn: int, home: Owner) -> tuple[int, ...]:
        """Objects of a slab that a CPU of `home` has; none: it has the slab no more."""
        return self.at(name).node.get_freelist(pfn, self._homes.number(home))

    def put_back(self, name: str, pfns: Sequence[int], objects: Sequence[int], cpu: int | None) -> None:
        """Take back slabs, the first with objects (deactivate_slab); with debugging, objects only."""
        here = self.at(name)
        if here.node.debug:
            self.free(name, pfns[0], objects, cpu, self._node.kernel)
            return
        self._cpu = cpu
        here.node.deactivate_slab(pfns[0], objects)
        self.unfreeze(name, pfns[1:], cpu)

    def unfreeze(self, name: str, pfns: Sequence[int], cpu: int | None) -> None:
        """Take back slabs that were on a CPU's partial list (__unfreeze_partials)."""
        self._cpu = cpu
        node = self.at(name).node
        free = [pfn for pfn in pfns if node.slab(pfn).inuse < node.slab(pfn).objects]
        for pfn in pfns:
            if pfn not in free:  # a full slab was on no partial list: its CPU had it
                node.deactivate_slab(pfn, [])
        node.unfreeze_partials(free)

    def free(self, name: str, pfn: int, objects: Sequence[int], cpu: int | None, home: Owner) -> bool:
        """Objects of a slab come back; whether the CPU of `home` that frees has the slab now."""
        self._cpu = cpu
        return self.at(name).node.slab_free(pfn, objects, self._homes.number(home))

    def in_slab(self, pfn: int, objects: Sequence[int]) -> bool:
        """Whether objects lie in the pages of a slab."""
        slab, place = self.slabs.slabs.get(pfn), self.place
        count = place.put(objects)
        return not count or (slab is not None and slub_not_in_slab(place.address, slab.row, count) == count)

    def _check_home(self, asked: Question) -> None:
        """Check that a home has these objects; `_answer` looks at their slabs. Precondition."""
        if large_order(asked.cache) is not None:
            super()._check_home(asked)
            return
        count = self.place.put(asked.objects)  # which may move the arrays
        wrong = slub_not_of_home(self.place.address, self._homes.number(asked.home), count)
        if wrong < count:
            address = asked.objects[wrong]
            raise Precondition(f"node {asked.home.nid} does not have the object at {address:#x}")

    def _cache_at(self, address: int) -> str | None:
        slab = self.slabs.virt_to_slab(address)
        return None if slab is None else slab.cache.name

    def _check_call(self, asked: Question) -> None:
        wanted = _NAMED.get(asked.call, (1, 0))
        if len(asked.pfns) < wanted[0] or len(asked.objects) < wanted[1]:
            raise InvalidRequest("pfns", f"{asked.call} names no slab or object")
        if asked.call in ("free", "put_back") and not self.in_slab(asked.pfns[0], asked.objects):
            raise InvalidRequest("objects", "one is not in the slab")

    def _answer(self, asked: Question) -> KmemAnswer:
        now, name, home, pfns, objects = (
            self._node.lineage,
            asked.cache,
            asked.home,
            asked.pfns,
            asked.objects,
        )
        if asked.call == "get_partial":
            report = self.written.set_bad_aside(self._caches[name], self.at(name).node)
            slabs, free = self.get_partial(name, home)
            return KmemAnswer(now, slabs, pack(free), report=report)
        if asked.call == "shrink":
            self.at(name).node.shrink()
            return KmemAnswer(now)
        for pfn in pfns:
            slab = self.slabs.slabs.get(pfn)
            if slab is None or slab.cache.name != name:
                raise Precondition(f"page {pfn:#x} of node {self._node.nid} is no slab of {name}")
        debug = self.at(name).node.debug
        if asked.call == "put_back" and debug and not objects:
            return KmemAnswer(now)
        if asked.call == "free":
            return KmemAnswer(now, frozen=self.free(name, pfns[0], objects, asked.cpu, home))
        if asked.call != "put_back" or not debug:
            self.check_frozen(home, pfns)
        if asked.call == "get_freelist":
            return KmemAnswer(now, objects=pack(self.get_freelist(name, pfns[0], home)))
        if asked.call == "put_back":
            self.put_back(name, pfns, objects, asked.cpu)
        else:
            self.unfreeze(name, pfns, asked.cpu)
        return KmemAnswer(now)

    def check_frozen(self, home: Owner, pfns: Sequence[int]) -> None:
        """Check that CPUs of a home have these slabs. Precondition."""
        for pfn in pfns:
            if self.frozen.get(pfn) != home:
                raise Precondition(f"node {home.nid} does not have the slab at page {pfn:#x}")

    def wrong_free(self, name: str, address: int) -> tuple[str, ...]:
        """What the kernel reports of a free of an object that the caller does not have.

        Empty if a home has it: only there it is known whether it is in use.
        """
        slab = self.slabs.virt_to_slab(address)
        if slab is None:
            return no_slab_page().report
        if not slab.check_valid_pointer(address):
            return invalid_pointer(name or slab.cache.name, address).report
        return () if address in self.taken else already_free(slab.cache.name, address).report

    def _take_back(self, objects: Sequence[int], frozen: Sequence[int]) -> None:
        by_slab: dict[int, list[int]] = {}
        for address in objects:
            by_slab.setdefault(self.slabs.heads[virt_to_pfn(address)], []).append(address)
        thawed = set(frozen)
        for pfn in dict.fromkeys([*by_slab, *frozen]):
            some = by_slab.get(pfn, [])
            node = self.at(self.slabs.slabs[pfn].cache.name).node
            if pfn in thawed:
                node.deactivate_slab(pfn, some)
            elif some:
                # a slab that was full would be frozen for the CPU that frees; there is none
                node.take_back(pfn, some)

    def _free_pages(self, pfn: int, order: int) -> None:
        self._free_slab(pfn, order, _counter(self.slabs.slabs[pfn].cache))

    # what CPUs of this node have

    def _forget(self, nid: int, lineage: int) -> None:
        for here in self.here.values():
            for c in here.cpus.values():
                for slab in c.let_go_partial():
                    if slab.nid != nid or slab.lineage >= lineage:
                        c.put_partial(slab, drain=False)
                if c.slab is not None and c.slab.nid == nid and c.slab.lineage < lineage:
                    c.let_go()

    def deactivate(self, name: str, cpu: int) -> list[GiveBack]:
        """A CPU's slab goes back with the objects left on its list (deactivate_slab)."""
        slab, freelist = self.at(name).cpus[cpu].let_go()
        return [] if slab is None else self._give_back(name, cpu, slab, freelist)

    def put_cpu_partial(self, name: str, cpu: int, slab: SlabRef, *, drain: bool) -> list[GiveBack]:
        """A frozen slab goes on a CPU's partial list; a full list goes back first (put_cpu_partial)."""
        self._cpu = cpu
        c = self.at(name).cpus[cpu]
        c.put_partial(slab, drain=drain)
        self.slabs.collect()
        return self.unfreeze_partials(name, cpu, c.back()[::-1])

    def unfreeze_partials(self, name: str, cpu: int, partial: Sequence[SlabRef]) -> list[GiveBack]:
        """Each node gets what is its own of a CPU's partial list."""
        by_node: dict[tuple[int, int], list[int]] = {}
        for slab in reversed(partial):
            by_node.setdefault((slab.nid, slab.lineage), []).append(slab.pfn)
        remote: list[GiveBack] = []
        for (nid, lineage), pfns in by_node.items():
            if nid == self._node.nid:
                self.unfreeze(name, pfns, cpu)
            else:
                remote.append(GiveBack("unfreeze", name, nid, lineage, tuple(pfns)))
        return remote

    def _give_back(self, name: str, cpu: int, slab: SlabRef, objects: Sequence[int]) -> list[GiveBack]:
        if slab.nid == self._node.nid:
            self.put_back(name, [slab.pfn], objects, cpu)
            return []
        return [GiveBack("put_back", name, slab.nid, slab.lineage, (slab.pfn,), pack(objects))]

    def flush(self, name: str) -> list[GiveBack]:
        """Give back each CPU's slab, then its partial list (flush_all)."""
        back: list[GiveBack] = []
        for cpu, c in self.at(name).cpus.items():
            back += self.deactivate(name, cpu)
            back += self.unfreeze_partials(name, cpu, c.let_go_partial())
        return back

    def _install(
        self, name: str, cpu: int, slab: SlabRef, objects: Sequence[int], partial: Sequence[int]
    ) -> list[GiveBack]:
        """A CPU gets a slab and its objects, and others for its partial list (the end of ___slab_alloc).

        With debugging there are none, and no CPU has slabs. Precondition, and nothing is changed: these are
        not free objects of the slab.
        """
        here = self.at(name)
        if here.node.debug:
            return []
        c = here.cpus[cpu]
        before, left = c.let_go()  # another request was faster
        try:
            c.take(slab, objects)
        except LookupError as error:
            if before is not None:
                c.take(before, left)
            raise Precondition(str(error)) from None
        for pfn in partial:
            c.put_partial(slab._replace(pfn=pfn), drain=False)
        return [] if before is None else self._give_back(name, cpu, before, left)

    def _cpu_alloc(self, name: str, cpu: int, nid: int, count: int, searched: bool) -> CpuAlloc:
        """Up to `count` objects for a CPU, from `nid` if it is one (slab_alloc_node, ___slab_alloc).

        It stops where another node or new pages are needed. `searched`: the partial slabs of the node that is
        asked first were sought in vain.
        """
        self._cpu = cpu
        place, c = self.place, self.at(name).cpus[cpu]
        search = self.first_node(cpu) if nid == NUMA_NO_NODE else nid
        n = place.node_of.get(search, NONE)
        got: list[tuple[SlabRef, list[int]]] = []
        back: list[GiveBack] = []
        report: tuple[str, ...] = ()
        place.room(count)
        while True:
            most = count
            if self.written.of and self.at(name).node.debug:  # each object is looked at
                report += self.written.set_bad_aside(self._caches[name], self.at(name).node)
                most = min(count, 1)
            new = slub_alloc(place.address, c.k, c.c, nid, n, int(searched), OWN_HOME, most)
            got += place.runs(new)
            count -= new
            need = place.need
            self.slabs.collect()
            if need == NEED_DEACTIVATE:
                back += self.deactivate(name, cpu)
            elif need == NEED_PUT_BACK:
                back += self._give_back(name, cpu, c.forget(place.needed_slab), [])
            elif need == NEED_FREELIST:
                slab = c.forget(place.needed_slab)
                return CpuAlloc(got, back, _NEEDS[need], slab, slab.nid)
            elif need != NEED_NOTHING or not count:
                of = search if need == NEED_PARTIAL else nid
                return CpuAlloc(got, back, _NEEDS[need], nid=of, report=report)

    # what was written to where it should not be

    def write(self, name: str, address: int, offset: int, data: bytes, inuse: bool) -> None:
        """Note bytes that were written around an object."""
        if large_order(name) is None:
            self.written.write(self._caches[name], address, offset, data, inuse)

    def written_among(self, addresses: Sequence[int]) -> list[int]:
        """Those of some objects around which bytes are known that were written."""
        return [address for address in addresses if address in self.written.of] if self.written.of else []

    def forget_written(self, addresses: Iterable[int]) -> None:
        """Objects come back or are lost: what is around them is written anew (init_object)."""
        self.written.forget(addresses)

    def free_object(self, address: int) -> str | None:
        """The cache of a free object of a slab of this node."""
        slab = self.slabs.virt_to_slab(address)
        if slab is None or not slab.check_valid_pointer(address) or address in self.taken:
            return None
        return slab.cache.name

    def check_held(self, name: str, slab: SlabRef, address: int) -> tuple[str, ...]:
        """What is reported of an object that is to be freed; none if it can be."""
        return self.written.check_held(self._caches[name], slab, address) if name in self._caches else ()

    def validate(self, name: str) -> tuple[str, ...]:
        """What is reported of the objects of a cache that are free here, or held by sessions of this node."""
        held = {a: of for session in self._node.sessions.values() for a, of in session.objects.items()}
        return self.written.validate(self._caches[name], self.at(name).node, held)

    def cpu_free(self, cpu: int, objects: bytes, held: Sequence[Held]) -> CpuFree:
        """Packed objects come back, slab by slab, up to the first that go to another node.

        Precondition, and nothing is changed: the node gave one to another home, which cannot be.
        (kmem_cache_free_bulk.)
        """
        self._cpu = cpu
        place, c = self.place, self.place.cpu_of[cpu]
        count = left = place.put_packed(objects)
        elsewhere = slub_free_located(place.address, c, OWN_HOME, count)
        if elsewhere < 0:
            raise Precondition(
                f"object {place.got(1, place.wrong)[0]:#x}: not of this node's CPUs and sessions"
            )
        others = self._locate_elsewhere(cpu, held) if elsewhere else []
        back: list[GiveBack] = []
        begun = not elsewhere
        while left and not back:
            left = place.left if begun else slub_free_objects(place.address, c, OWN_HOME, left)
            begun = False
            self.slabs.collect()
            if place.group:
                of = others[NONE - 1 - place.row_at(left)]
                back = self._free_elsewhere(cpu, of, place.got_packed(place.group, left))
            elif rows := place.back():
                name = place.caches[place.data.slabs[rows[0], SLAB_CACHE]].name
                slabs = [self.at(name).cpus[cpu].forget(row) for row in rows]
                back = self.unfreeze_partials(name, cpu, slabs[::-1])
        return CpuFree(back, place.got(count - left, left), place.got_packed(left))

    def _free_elsewhere(self, cpu: int, of: Held, objects: bytes) -> list[GiveBack]:
        """Objects of one slab of another node go there; pages that kmalloc gave whole go one by one."""
        name, slab = of
        if large_order(name) is None:
            return [GiveBack("free", name, slab.nid, slab.lineage, (slab.pfn,), objects)]
        return [back for at in unpack(objects) for back in self._send("free", name, cpu, slab, [at])]

    def _locate_elsewhere(self, cpu: int, held: Sequence[Held]) -> list[Held]:
        """Note the slabs of objects of other nodes, and whole pages, for a call that frees them.

        A slab that the CPU has is noted by its row, another by a number below NONE: its place in the result.
        """
        place = self.place
        numbers: dict[Held, int] = {}
        ids = list(map(id, held))  # objects of one slab were noted together
        by_id: dict[int, int] = {}
        for at, of in dict(zip(ids, held, strict=True)).items():
            if of not in numbers:
                if large_order(of.cache) is not None:
                    numbers[of] = NONE - 1 - len(numbers)
                elif of.slab.nid != self._node.nid:
                    c = self.at(of.cache).cpus[cpu]
                    numbers[of] = c.row if c.slab == of.slab else NONE - 1 - len(numbers)
            by_id[at] = numbers.get(of, NONE)
        rows, found = place.data.rows[: len(held)], np.array([by_id[at] for at in ids])
        elsewhere = rows == NONE
        if (found[elsewhere] == NONE).any():
            gone = int(np.flatnonzero(elsewhere & (found == NONE))[0])
            raise Precondition(f"object {place.got(1, gone)[0]:#x}: its page is no slab's any more")
        rows[elsewhere] = found[elsewhere]
        for at in np.flatnonzero(elsewhere & (found >= 0)).tolist():
            place.data.which[at] = place.object_of(int(rows[at]), place.got(1, at)[0])
        return list(numbers)

    def _runs(self, slab: SlabRef, objects: Sequence[int]) -> list[tuple[SlabRef, list[int]]]:
        return [(slab, list(objects))]

    # snapshots, digests and checks

    def _dump(self) -> list[Any]:
        caches = []
        for name, here in sorted(self.here.items()):
            cpus = [(cpu, c.slab, c.freelist, c.partial) for cpu, c in here.cpus.items()]
            caches.append((name, cpus, list(here.node.partial)))
        slabs = [
            (slab.cache.name, slab.pfn, slab.order, slab.objects, slab.inuse, slab.freelist, slab.frozen)
            for slab in self.slabs.slabs.values()
        ]
        return [caches, slabs, list(self.slabs.rcu), self.written.dump()]

    def _load(self, dumped: list[Any], frozen: Mapping[int, Owner]) -> None:
        caches, slabs, rcu, written = dumped
        self.written.load(written)
        self.slabs.lineage = self._node.lineage
        self._forget_homes()
        for name, pfn, order, objects, _, freelist, _ in slabs:
            here = self.at(name)
            self.slabs.add(here.cache, pfn, order, objects).freelist = freelist
            if pfn not in rcu:
                here.node.count_slab(objects)
        self.slabs.rcu.extend(rcu)
        for pfn, home in frozen.items():
            self.slabs.slabs[pfn].freeze(self._homes.number(home))
        for name, cpus, partial in caches:
            here = self.at(name)
            here.node.partial = partial
            for cpu, slab, freelist, waiting in cpus:
                if slab is not None:
                    here.cpus[cpu].take(SlabRef(*slab), freelist)
                for ref in waiting:
                    here.cpus[cpu].put_partial(SlabRef(*ref), drain=False)

    def _check_slabs(self, out: set[int]) -> list[str]:
        problems = []
        homes = {pfn: sum(map(bool, slab.homes)) for pfn, slab in self.slabs.slabs.items()}
        if sum(homes.values()) != len(out):
            problems.append(f"{len(out)} objects are with homes, {sum(homes.values())} of slabs are")
        listed = [pfn for here in self.here.values() for pfn in here.node.partial]
        for pfn, slab in self.slabs.slabs.items():
            what = f"slab {pfn:#x} of {slab.cache.name}"
            if slab.inuse != homes[pfn] or len(slab.freelist) != slab.objects - slab.inuse:
                counts = f"{slab.inuse} in use, {homes[pfn]} with homes, {len(slab.freelist)} free"
                problems.append(f"{what}: {counts}, of {slab.objects}")
            if slab.frozen != (pfn in self.frozen):
                problems.append(f"{what}: frozen is {slab.frozen}, and homes disagree")
            waits = pfn in self.slabs.rcu
            if (pfn in listed) != (bool(slab.freelist) and not slab.frozen and not waits):
                problems.append(f"{what} is on a list and should not be, or the other way round")
        return problems

    def _on_cpus(self) -> Iterator[tuple[str, Sequence[int], SlabRef]]:
        for name, here in self.here.items():
            for c in here.cpus.values():
                if c.slab is not None:
                    yield name, c.freelist, c.slab
        for address, slab in self.written.unusable.items():
            yield self.slabs.slabs[slab.pfn].cache.name, (address,), slab

    def known_slabs(self) -> list[SlabRef]:
        """The slabs that CPUs of this node have frozen."""
        cpus = [c for here in self.here.values() for c in here.cpus.values()]
        return [slab for c in cpus for slab in (c.slab, *c.partial) if slab is not None]


def _counter(cache: SlubCache) -> int:
    return slab_counter(SlabFlag.RECLAIM_ACCOUNT in cache.flags)
