"""SLUB of a machine: its caches by name, kmalloc and kfree (``mm/slub.c``, ``mm/slab_common.c``)."""

from __future__ import annotations

from collections.abc import Sequence

from numa_service.mm.gfp import Gfp
from numa_service.mm.slab.allocator import SlabInfo
from numa_service.mm.slab.kmalloc import KmallocRules
from numa_service.mm.slab.kmem_cache import KmemCacheArgs, get_order
from numa_service.mm.slab.pages import NUMA_NO_NODE, ZERO_SIZE_PTR, page_address, virt_to_pfn
from numa_service.mm.slab.reports import not_from_kmalloc
from numa_service.mm.slab.slub import SlubCache, SlubCaches
from numa_service.mm.slab.slub_cpu import KmemCache, SlubMachine


class Slub:
    """SLUB of a machine (:class:`numa_service.mm.slab.allocator.SlabAllocator`)."""

    def __init__(self, geometry: SlubCaches, kmalloc: KmallocRules, machine: SlubMachine) -> None:
        """The caches of `geometry` are set to work; they have no slabs yet."""
        self.machine = machine
        self.in_order: list[KmemCache] = []
        #: By name, an alias too.
        self.caches: dict[str, KmemCache] = {}
        #: Orders of what kmalloc got as pages, by address.
        self.large: dict[int, int] = {}
        self._geometry = geometry
        self._kmalloc = kmalloc
        for cache in geometry.caches:
            self._add(cache)

    def _add(self, cache: SlubCache) -> None:
        working = KmemCache(cache, self.machine)
        self.in_order.append(working)
        for name in (cache.name, *cache.aliases):
            self.caches[name] = working

    def kmem_cache_create(self, args: KmemCacheArgs) -> None:
        """Make a cache. ValueError: the name is taken, or no slab can hold an object."""
        if args.name in self.caches:
            raise ValueError(f"there is a cache {args.name}")
        cache = self._geometry.kmem_cache_create(args)
        if args.name in cache.aliases:
            self.caches[args.name] = self._working(cache)
        else:
            self._add(cache)

    def _working(self, cache: SlubCache) -> KmemCache:
        """A cache at work. The creator whose name it has may need it no more, while others do."""
        return next(known for known in self.in_order if known.cache is cache)

    def kmem_cache_destroy(self, name: str) -> None:
        """A creator needs its cache no more (kmem_cache_destroy). Raises SlabBugError."""
        working = self.caches[name]
        cache = working.cache
        if sum(known is working for known in self.caches.values()) == 1:
            working.kmem_cache_destroy()
            self.in_order.remove(working)
            self._geometry.caches.remove(cache)
        elif name in cache.aliases:
            cache.aliases.remove(name)
        del self.caches[name]

    def kmem_cache_shrink(self, name: str) -> bool:
        """Give back what slabs can be; whether slabs are left."""
        return self.caches[name].kmem_cache_shrink()

    def kmem_cache_alloc(self, name: str, cpu: int, gfp: int, node: int = NUMA_NO_NODE) -> int | None:
        """The address of an object for a CPU; None: there is no memory."""
        return self.caches[name].kmem_cache_alloc(cpu, gfp, node)

    def kmem_cache_alloc_bulk(self, name: str, cpu: int, gfp: int, count: int) -> list[int]:
        """So many objects, or none if there is no memory for all of them."""
        return self.caches[name].kmem_cache_alloc_bulk(cpu, gfp, count)

    def kmem_cache_free(self, name: str, cpu: int, address: int) -> None:
        """An object comes back. Raises SlabBugError if it is not one of this cache that is allocated."""
        self.caches[name].kmem_cache_free(cpu, address)

    def kmem_cache_free_bulk(self, name: str, cpu: int, objects: Sequence[int]) -> None:
        """Objects come back. Raises SlabBugError before anything is freed."""
        self.caches[name].kmem_cache_free_bulk(cpu, objects)

    def kmalloc(self, size: int, cpu: int, gfp: int, node: int = NUMA_NO_NODE) -> int | None:
        """The address of `size` bytes; None: there is no memory (__kmalloc_node)."""
        if not size:
            return ZERO_SIZE_PTR
        name = self._kmalloc.cache_of(size, gfp)
        if name is not None:
            return self.kmem_cache_alloc(name, cpu, gfp, node)
        order = get_order(size)
        home = self.machine.cpu_to_mem[cpu]
        got = self.machine.source.alloc_pages(home if node == NUMA_NO_NODE else node, order, gfp | Gfp.COMP)
        if not got:
            return None
        address = page_address(got[0], self.machine.arch)
        self.large[address] = order
        return address

    def kfree(self, cpu: int, address: int) -> None:
        """Free what kmalloc returned, or an object of a cache; NULL and no bytes are nothing (kfree)."""
        if address in (0, ZERO_SIZE_PTR):
            return
        if address in self.large:
            self.machine.source.free_pages(virt_to_pfn(address), self.large.pop(address))
            return
        found = self.machine.virt_to_slab(address)
        if found is None:
            raise not_from_kmalloc(address)
        self._working(found[1].cache).kmem_cache_free(cpu, address)

    def rcu_callbacks(self) -> None:
        """A grace period is over for all slabs that wait."""
        for slabs in self.machine.slabs.values():
            slabs.rcu_callbacks()

    def slabinfo(self) -> list[SlabInfo]:
        """Each cache, in the order of creation."""
        return [cache.info() for cache in self.in_order]
