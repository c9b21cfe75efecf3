"""SLUB at work, the part of a CPU's home node: objects are allocated and freed (``mm/slub.c`` of 6.1).

A CPU has a slab, the free objects that it took out of it, and a list of partly free slabs. The state is rows
of arrays (``slub_place.py``), the work is compiled (``compiled/cpu.py``); here is what a call cannot do by
itself: it asks for pages, gives them back, and says what is wrong with a free. :class:`KmemCache` is a cache
of a machine in one process; on the nodes of a machine a CPU asks other nodes (``node/kmem_slub.py``).

Not modelled: pfmemalloc reserves, KFENCE, memory cgroups. SLUB before 5.16 measured the partial list of a CPU
in objects, and that of 3.0 had none: their work is not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from numa_service.mm.gfp import Gfp
from numa_service.mm.slab.allocator import SlabInfo
from numa_service.mm.slab.compiled.cpu import (
    slub_alloc,
    slub_check_objects,
    slub_flush,
    slub_free,
    slub_free_objects,
    slub_install,
    slub_let_go,
    slub_put_cpu_partial,
    slub_use_partial,
)
from numa_service.mm.slab.compiled.data import (
    CPU_FREE,
    CPU_NR_PARTIAL,
    CPU_PARTIAL,
    CPU_SLAB,
    FREE_ALREADY_FREE,
    FREE_INVALID_POINTER,
    FREE_NO_SLAB,
    FREE_OK,
    FREE_TWICE,
    FREE_WRONG_CACHE,
    IN_USE,
    NEED_NOTHING,
    NONE,
    SLAB_CACHE,
    SLAB_NID,
    SLAB_NODE,
    SLAB_PFN,
)
from numa_service.mm.slab.flags import DEBUG_FLAGS, SlabFlag
from numa_service.mm.slab.kmem_cache import PAGE_SIZE, X86_64, SlabArch
from numa_service.mm.slab.pages import NUMA_NO_NODE, PageSource, virt_to_pfn
from numa_service.mm.slab.reports import SlabBugError
from numa_service.mm.slab.slub import SlubCache
from numa_service.mm.slab.slub_node import OWN_HOME, KmemCacheNode, NodeSlabs, Slab
from numa_service.mm.slab.slub_place import SlabRef, SlubPlace, cpu_partial_slabs, signed
from numa_service.mm.slab.slub_reports import (
    already_free,
    invalid_pointer,
    no_slab_page,
    objects_remaining,
    wrong_cache,
)
from numa_service.mm.slab.slub_work_rules import SlubWorkRules

_RECLAIM = Gfp.DIRECT_RECLAIM | Gfp.KSWAPD_RECLAIM
#: What of the caller's flags is passed to the page allocator (GFP_RECLAIM_MASK | GFP_CONSTRAINT_MASK).
_PASSED = (
    _RECLAIM
    | Gfp.HIGH
    | Gfp.IO
    | Gfp.FS
    | Gfp.NOWARN
    | Gfp.RETRY_MAYFAIL
    | Gfp.NOFAIL
    | Gfp.NORETRY
    | Gfp.MEMALLOC
    | Gfp.NOMEMALLOC
    | Gfp.ATOMIC
    | Gfp.NOLOCKDEP
    | Gfp.HARDWALL
    | Gfp.THISNODE
)


def in_order(_pfn: int, objects: int) -> Sequence[int]:
    """Objects of a new slab are allocated from its start, as without CONFIG_SLAB_FREELIST_RANDOM."""
    return range(objects)


@dataclass(frozen=True, slots=True)
class SlubMachine:
    """The facts about the machine that SLUB needs."""

    rules: SlubWorkRules
    #: By CPU: the nearest node with memory (numa_mem_id).
    cpu_to_mem: Mapping[int, int]
    #: By node with memory: nodes from the nearest to the farthest.
    zonelists: Mapping[int, tuple[int, ...]]
    source: PageSource
    #: The order in which a new slab's objects are allocated: first frame, objects (shuffle_freelist).
    shuffle: Callable[[int, int], Sequence[int]] = in_order
    #: A CPU whose node has no partial slab takes one of another node that has more than ``min_partial``. The
    #: kernel throws dice for it (``remote_node_defrag_ratio``); here it is always or never.
    remote_node_defrag: bool = False
    arch: SlabArch = X86_64
    #: The state of all caches.
    place: SlubPlace = field(init=False)
    #: By node: slabs of all caches.
    slabs: Mapping[int, NodeSlabs] = field(init=False)

    def __post_init__(self) -> None:
        """The machine has no slabs yet."""
        place = SlubPlace(self.zonelists, self.cpu_to_mem, self.arch)
        slabs = {nid: NodeSlabs(nid, self.source.free_pages, place) for nid in self.zonelists}
        object.__setattr__(self, "place", place)
        object.__setattr__(self, "slabs", slabs)

    def virt_to_slab(self, address: int) -> tuple[int, Slab] | None:
        """The slab of an object, and its node; None: the page is no slab's."""
        row = self.place.find(virt_to_pfn(address))
        if row < 0:
            return None
        nid, pfn = self.place.data.slabs[row, [SLAB_NID, SLAB_PFN]].tolist()
        return nid, self.slabs[nid].slabs[pfn]

    def collect(self) -> None:
        """Slabs that the last call has emptied go back to the page allocator (free_slab)."""
        for row in self.place.discarded():
            nid, pfn = self.place.data.slabs[row, [SLAB_NID, SLAB_PFN]].tolist()
            self.slabs[nid].free_slab(self.slabs[nid].slabs[pfn])


class KmemCacheCpu:
    """What a CPU has of one cache (struct kmem_cache_cpu): a row of a place."""

    __slots__ = ("_place", "c", "k")

    def __init__(self, place: SlubPlace, cache: SlubCache, cpu: int) -> None:
        self._place = place
        #: Its row among those of the cache.
        self.k = place.row_of(cache)
        self.c = place.cpu_of[cpu]

    def _field(self, column: int) -> int:
        return int(self._place.data.cpus[self.k, self.c, column])

    @property
    def row(self) -> int:
        """The row of its slab, or NONE."""
        return self._field(CPU_SLAB)

    @property
    def slab(self) -> SlabRef | None:
        """Its slab."""
        row = self._field(CPU_SLAB)
        return None if row < 0 else self._place.ref(row)

    @property
    def freelist(self) -> list[int]:
        """Free objects of that slab; the last is the next to be allocated."""
        row = self._field(CPU_SLAB)
        return [] if row < 0 else self._place.free_list(row, self._field(CPU_FREE))

    @freelist.setter
    def freelist(self, addresses: Sequence[int]) -> None:
        """These objects of its slab are on its list, and those that were are in use."""
        row, place = self._field(CPU_SLAB), self._place
        for address in self.freelist:
            place.data.link[place.object_of(row, address)] = IN_USE
        place.data.cpus[self.k, self.c, CPU_FREE] = place.make_list(row, addresses)

    @property
    def partial(self) -> list[SlabRef]:
        """Partly free slabs; the last is the next to be used."""
        return [self._place.ref(row) for row in self._place.chain(self._field(CPU_PARTIAL))][::-1]

    @partial.setter
    def partial(self, slabs: Sequence[SlabRef]) -> None:
        """Make this the list, which has no slab of another place yet."""
        self._place.data.cpus[self.k, self.c, [CPU_PARTIAL, CPU_NR_PARTIAL]] = NONE, 0
        for slab in slabs:
            self.put_partial(slab, drain=False)

    @property
    def nr_partial(self) -> int:
        """Length of the partial list."""
        return self._field(CPU_NR_PARTIAL)

    def _row_of(self, slab: SlabRef) -> int:
        """The row of a slab, a new one if it is of another place."""
        place = self._place
        if slab.nid in place.node_of:
            row = place.find(slab.pfn)
            if row < 0 or place.data.slabs[row, SLAB_CACHE] != self.k:
                raise LookupError(f"page {slab.pfn:#x} is no slab of {place.caches[self.k].name}")
            return row
        cache = place.caches[self.k]
        return place.add_slab(self.k, slab, cache.order, cache.objects, here=False)

    def _forget(self, rows: Iterable[int]) -> list[SlabRef]:
        """The CPU has these slabs no more; rows of those of other places can be used again."""
        slabs = []
        for row in rows:
            slabs.append(self._place.ref(row))
            if self._place.data.slabs[row, SLAB_NODE] < 0:
                self._place.remove_slab(row)
        return slabs

    def forget(self, row: int) -> SlabRef:
        """Drop the row of a slab that the CPU has let go of; return which slab it was."""
        return self._forget([row])[0]

    def back(self) -> list[SlabRef]:
        """Slabs of other places that the last call took off the partial list, in the order of the list."""
        return self._forget(self._place.back())

    def let_go_partial(self) -> list[SlabRef]:
        """The CPU has its partial list no more: its slabs, the last is the next to be used."""
        rows = list(self._place.chain(self._field(CPU_PARTIAL)))
        self._place.data.cpus[self.k, self.c, [CPU_PARTIAL, CPU_NR_PARTIAL]] = NONE, 0
        return self._forget(rows)[::-1]

    def let_go(self) -> tuple[SlabRef | None, list[int]]:
        """The CPU has its slab no more, nor the objects on its list, the next to be allocated last."""
        row = self._field(CPU_SLAB)
        if row < 0:
            return None, []
        self._place.room(self._place.caches[self.k].objects)
        objects = self._place.got(slub_let_go(self._place.address, self.k, self.c))
        return self.forget(row), objects

    def take(self, slab: SlabRef, objects: Sequence[int], home: int = OWN_HOME) -> None:
        """A CPU without a slab gets one with its free objects (the end of ___slab_alloc).

        LookupError, and nothing is changed: it is no slab of the cache, or these are not free objects of it.
        """
        row = self._row_of(slab)
        count = self._place.put(objects)
        if slub_install(self._place.address, self.k, self.c, row, home, count) < 0:
            self._forget([row])
            raise LookupError(f"these are not free objects of the slab at page {slab.pfn:#x}")

    def put_partial(self, slab: SlabRef, *, drain: bool) -> None:
        """A frozen slab goes on the partial list; a full list goes back first (put_cpu_partial)."""
        row = self._row_of(slab)  # which may move the arrays
        slub_put_cpu_partial(self._place.address, self.k, self.c, row, int(drain))


def slab_pages(cache: SlubCache, rules: SlubWorkRules, gfp: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Order and gfp flags with which pages for a slab are asked for, at first and then (allocate_slab)."""
    flags = gfp & _PASSED | _allocflags(cache.order, int(cache.flags), rules.always_compound)
    wanted = (flags | Gfp.NOWARN | Gfp.NORETRY) & ~Gfp.NOFAIL
    if wanted & Gfp.DIRECT_RECLAIM and cache.order > cache.min_order:
        wanted = (wanted | Gfp.NOMEMALLOC) & ~_RECLAIM
    return (cache.order, int(wanted)), (cache.min_order, int(flags))


@lru_cache(maxsize=256)
def _allocflags(order: int, cache_flags: int, always_compound: bool) -> int:
    """Return the gfp flags that a cache adds to each request for a slab (the end of calculate_sizes)."""
    flags = Gfp.COMP if order or always_compound else 0
    for asked, gfp in (
        (SlabFlag.CACHE_DMA, Gfp.DMA),
        (SlabFlag.CACHE_DMA32, Gfp.DMA32),
        (SlabFlag.RECLAIM_ACCOUNT, Gfp.RECLAIMABLE),
    ):
        if asked & cache_flags:
            flags |= gfp
    return flags


#: By which a new slab is asked for when its node is preferred (new_slab of ___slab_alloc, since 6.10).
PREFERRED_NODE_ALONE = int(Gfp.KSWAPD_RECLAIM | Gfp.NOWARN | Gfp.THISNODE)


class KmemCache:
    """A cache at work (struct kmem_cache)."""

    def __init__(self, cache: SlubCache, machine: SlubMachine) -> None:
        self.cache = cache
        self.machine = machine
        self.cpus = {cpu: KmemCacheCpu(machine.place, cache, cpu) for cpu in machine.cpu_to_mem}
        self.nodes = {nid: KmemCacheNode(cache, machine.slabs[nid]) for nid in machine.zonelists}
        self.cpu_partial_slabs = cpu_partial_slabs(cache)
        self._place = machine.place
        self._k = machine.place.row_of(cache)
        self._debug = bool(cache.flags & DEBUG_FLAGS)

    def info(self) -> SlabInfo:
        """What /proc/slabinfo prints: objects of slabs that CPUs have count as active (get_slabinfo)."""
        nodes = self.nodes.values()
        slabs = sum(node.nr_slabs for node in nodes)
        objects = sum(node.total_objects for node in nodes)
        return SlabInfo(
            name=self.cache.name,
            size=self.cache.size,
            objects_per_slab=self.cache.objects,
            order=self.cache.order,
            active_objects=objects - sum(node.count_free() for node in nodes),
            objects=objects,
            active_slabs=slabs,
            slabs=slabs,
        )

    # -- allocation

    def kmem_cache_alloc(self, cpu: int, gfp: int, nid: int = NUMA_NO_NODE) -> int | None:
        """The address of an object for a CPU, from `nid` if it is one; None: there is no memory.

        What other nodes' objects the CPU has is put aside for such a request (slab_alloc_node).
        """
        got = self._alloc(cpu, gfp, nid, 1)
        return got[0] if got else None

    def kmem_cache_alloc_bulk(self, cpu: int, gfp: int, count: int) -> list[int]:
        """So many objects, or none if there is no memory for all of them."""
        objects = self._alloc(cpu, gfp, NUMA_NO_NODE, count)
        if len(objects) < count:
            self.kmem_cache_free_bulk(cpu, objects)
            return []
        return objects

    def _alloc(self, cpu: int, gfp: int, nid: int, count: int) -> list[int]:
        """Up to `count` objects, fewer if there is no memory for more (___slab_alloc)."""
        place, c = self._place, self._place.cpu_of[cpu]
        if nid not in self.nodes:
            nid = NUMA_NO_NODE
        n = place.node_of[self.machine.cpu_to_mem[cpu] if nid == NUMA_NO_NODE else nid]
        place.room(count)
        objects: list[int] = []
        while len(objects) < count:
            got = slub_alloc(place.address, self._k, c, nid, n, 0, OWN_HOME, count - len(objects))
            objects += place.got(got)
            self.machine.collect()
            if place.need == NEED_NOTHING:
                break
            fresh = self._new_objects(cpu, gfp, nid)
            if fresh is None:
                break
            objects += fresh
        return objects

    def _new_objects(self, cpu: int, gfp: int, nid: int) -> list[int] | None:
        """A slab for a CPU when it and the node that is asked first have none; None: there is no memory.

        With debugging the CPU gets an object instead, which is the result.
        """
        preferred = nid != NUMA_NO_NODE and self.machine.rules.preferred_node_first
        if preferred and not gfp & Gfp.THISNODE:
            fresh = self._new_slab(cpu, PREFERRED_NODE_ALONE, nid)
            if fresh is not None:
                return fresh
        fresh = self._any_partial(cpu, gfp, nid)
        return self._new_slab(cpu, gfp, nid) if fresh is None else fresh

    def _any_partial(self, cpu: int, gfp: int, nid: int) -> list[int] | None:
        """Partial slabs of another node than the one that is asked first (get_any_partial)."""
        if nid != NUMA_NO_NODE and (gfp & Gfp.THISNODE or not self.machine.rules.preferred_node_first):
            return None
        if not self.machine.remote_node_defrag:
            return None
        for other in self.machine.zonelists[self.machine.cpu_to_mem[cpu]]:
            node = self.nodes[other]
            if node.nr_partial > self.cache.min_partial:
                if self._debug:
                    return list(node.get_partial_node()[0].freelist)
                place = self._place
                c, n = place.cpu_of[cpu], place.node_of[other]
                slub_use_partial(place.address, self._k, c, n, OWN_HOME)
                return []
        return None

    def _new_slab(self, cpu: int, gfp: int, nid: int) -> list[int] | None:
        """Pages for a slab, of the cache's order or else of the least (new_slab, allocate_slab)."""
        prefer = self.machine.cpu_to_mem[cpu] if nid == NUMA_NO_NODE else nid
        for order, flags in slab_pages(self.cache, self.machine.rules, gfp):
            got = self.machine.source.alloc_pages(prefer, order, flags)
            if got is not None:
                slab = SlabRef(*got)
                objects = min((PAGE_SIZE << order) // self.cache.size, self.cache.objects)
                indexes = self.machine.shuffle(slab.pfn, objects)
                freelist = self.nodes[slab.nid].new_slab(slab.pfn, order, indexes)
                if self._debug:
                    return list(freelist)
                self.cpus[cpu].take(slab, freelist)
                return []
        return None

    # -- freeing

    def kmem_cache_free(self, cpu: int, address: int) -> None:
        """An object comes back. Raises SlabBugError if it is not one of this cache that is allocated.

        A kernel makes all checks only in caches with debugging (cache_from_obj, free_consistency_checks);
        here they are made always.
        """
        place = self._place
        if not 0 <= address < 1 << 64:
            raise no_slab_page()
        wrong = slub_free(place.address, self._k, place.cpu_of[cpu], OWN_HOME, signed(address))
        if wrong != FREE_OK:
            raise self._wrong(wrong, address)
        self.machine.collect()

    def kmem_cache_free_bulk(self, cpu: int, objects: Sequence[int]) -> None:
        """Objects come back, together those that are of one slab and near in the sequence, the last first.

        Raises SlabBugError before anything is freed.
        """
        place = self._place
        try:
            count = place.put(objects)
        except OverflowError:  # the kernel's addresses have 64 bits
            raise no_slab_page() from None
        wrong = slub_check_objects(place.address, self._k, count)
        if wrong != FREE_OK:
            raise self._wrong(wrong, objects[place.wrong])
        slub_free_objects(place.address, place.cpu_of[cpu], OWN_HOME, count)
        self.machine.collect()

    def _wrong(self, wrong: int, address: int) -> SlabBugError:
        """What the kernel says of a wrong free."""
        found = self.machine.virt_to_slab(address)
        if wrong == FREE_NO_SLAB or found is None:
            return no_slab_page()
        if wrong == FREE_WRONG_CACHE:
            return wrong_cache(self.cache.name, found[1].cache.name)
        if wrong == FREE_INVALID_POINTER:
            return invalid_pointer(self.cache.name, address)
        assert wrong in (FREE_ALREADY_FREE, FREE_TWICE)
        return already_free(self.cache.name, address)

    # -- giving slabs back

    def flush_cpu_slab(self, cpu: int) -> None:
        """All slabs of a CPU go back to their nodes."""
        slub_flush(self._place.address, self._k, self._place.cpu_of[cpu])
        self.machine.collect()

    def flush_all(self) -> None:
        """All slabs of all CPUs go back to their nodes."""
        for cpu in self.cpus:
            self.flush_cpu_slab(cpu)

    def kmem_cache_shrink(self) -> bool:
        """Slabs of CPUs go back, empty ones are freed, partial lists are sorted; whether slabs are left."""
        self.flush_all()
        left = [node.shrink() for node in self.nodes.values()]
        return any(left)

    def kmem_cache_destroy(self) -> None:
        """All slabs are freed. Raises SlabBugError if there are objects: the cache stays, its slabs too.

        As in the kernel, CPUs have given their slabs back by then, and empty slabs are freed
        (__kmem_cache_shutdown).
        """
        self.flush_all()
        remaining = [slab for node in self.nodes.values() for slab in node.free_partial()]
        if any(node.nr_slabs for node in self.nodes.values()):
            raise objects_remaining(
                self.cache.name,
                [(slab, sorted(set(slab.all_objects()) - set(slab.freelist))) for slab in remaining],
                self.machine.rules,
            )
