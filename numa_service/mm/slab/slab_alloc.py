"""SLAB at work: the array of free objects that each CPU has, and what is done when it is empty or full.

``mm/slab.c``. A cache at work has two halves: `KmemCache.cpus`, an array for each CPU, which only that
CPU touches, and `KmemCache.nodes`, which is what a node has (``slab_node.py``). What passes from one node to
another are the calls of a SlabNode with whole batches: objects of another node that were freed here wait in
`SlabNode.alien`, and go home twelve at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from numa_service.mm.gfp import Gfp
from numa_service.mm.slab.allocator import SlabInfo
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmalloc import KmallocRules
from numa_service.mm.slab.kmem_cache import KmemCacheArgs, get_order
from numa_service.mm.slab.pages import (
    NUMA_NO_NODE,
    ZERO_SIZE_PTR,
    PageSource,
    page_address,
    virt_to_pfn,
)
from numa_service.mm.slab.reports import SlabBugError, not_from_kmalloc, still_has_objects
from numa_service.mm.slab.slab import Freelist, SlabCache, SlabCaches
from numa_service.mm.slab.slab_node import ArrayCache, SlabNode, SlabPages
from numa_service.mm.slab.slab_reports import double_free, no_object

#: BATCHREFILL_LIMIT: what an array gets at most if nothing was taken from it of late.
BATCHREFILL_LIMIT = 16
#: CONFIG_HZ of the captured kernels: jiffies of a second.
HZ = 250
#: REAPTIMEOUT_AC and REAPTIMEOUT_NODE: jiffies from one round of a CPU to the next, and of a node.
REAPTIMEOUT_AC = 2 * HZ
REAPTIMEOUT_NODE = 4 * HZ
_RECLAIM = Gfp.DIRECT_RECLAIM | Gfp.KSWAPD_RECLAIM
#: GFP_RECLAIM_MASK | GFP_CONSTRAINT_MASK: what of a request counts for the pages of a slab.
_PAGE_FLAGS = (
    _RECLAIM
    | Gfp.HIGH
    | Gfp.ATOMIC
    | Gfp.IO
    | Gfp.FS
    | Gfp.NOWARN
    | Gfp.RETRY_MAYFAIL
    | Gfp.NOFAIL
    | Gfp.NORETRY
    | Gfp.MEMALLOC
    | Gfp.NOMEMALLOC
    | Gfp.HARDWALL
    | Gfp.THISNODE
)


def gfp_exact_node(gfp: int) -> int:
    """The flags by which a node is asked for pages of its own, without waiting (gfp_exact_node)."""
    return (gfp | Gfp.THISNODE | Gfp.NOWARN) & ~(_RECLAIM | Gfp.NOFAIL)


def page_flags(cache: SlabCache, gfp: int) -> int:
    """The flags by which pages for a slab are asked for (cache_grow_begin, kmem_getpages)."""
    gfp = gfp & _PAGE_FLAGS | (Gfp.COMP if cache.rules.compound else 0)
    for asked, zone in (
        (SlabFlag.CACHE_DMA, Gfp.DMA),
        (SlabFlag.CACHE_DMA32, Gfp.DMA32),
        (SlabFlag.RECLAIM_ACCOUNT, Gfp.RECLAIMABLE),
    ):
        if asked in cache.flags:
            gfp |= zone
    return int(gfp)


class KmemCache:
    """A cache at work."""

    def __init__(self, cache: SlabCache, cpus: Mapping[int, int], nodes: dict[int, SlabNode]) -> None:
        self.cache = cache
        self.nodes = nodes
        #: By CPU.
        self.cpus = {cpu: ArrayCache(cache.limit, cache.batchcount) for cpu in cpus}
        #: Addresses of the objects that are in use.
        self.objects: set[int] = set()

    def info(self) -> SlabInfo:
        """What /proc/slabinfo prints: objects in arrays count as active (get_slabinfo)."""
        cache, nodes = self.cache, self.nodes.values()
        slabs = sum(node.total_slabs for node in nodes)
        objects = slabs * cache.objects
        return SlabInfo(
            name=cache.name,
            size=cache.size,
            objects_per_slab=cache.objects,
            order=cache.order,
            active_objects=objects - sum(node.free_objects for node in nodes),
            objects=objects,
            active_slabs=slabs - sum(len(node.empty) for node in nodes),
            slabs=slabs,
            limit=cache.limit,
            batchcount=cache.batchcount,
            shared=cache.shared,
            shared_available=sum(len(node.shared.entry) for node in nodes if node.shared),
        )


class Slab:
    """SLAB of a machine. Addresses are those of the direct map.

    `cpus` says on which node each CPU is. `fallback` has for each node the order in which nodes are tried
    when it has no memory, itself first.
    """

    def __init__(
        self,
        caches: SlabCaches,
        kmalloc: KmallocRules,
        cpus: Mapping[int, int],
        fallback: Mapping[int, tuple[int, ...]],
        source: PageSource,
    ) -> None:
        self.cpus = dict(cpus)
        #: CPUs of each node that are counted so far (nr_cpus_node).
        self.online = dict.fromkeys(fallback, 0)
        #: By name, an alias too.
        self.caches: dict[str, KmemCache] = {}
        self.in_order: list[KmemCache] = []
        #: The slab of each page that is one's (struct page).
        self.struct_pages: dict[int, SlabPages] = {}
        #: Slabs of SLAB_TYPESAFE_BY_RCU caches, oldest first, that wait for a grace period.
        self.rcu: deque[SlabPages] = deque()
        #: Orders of what kmalloc got as pages, by address.
        self.large: dict[int, int] = {}
        #: The node whose objects a CPU's reaper sends home next (slab_reap_node).
        self.reap_node: dict[int, int] = {}
        self._kmalloc = kmalloc
        self._geometry = caches
        self._fallback = {node: tuple(order) for node, order in fallback.items()}
        self._source = source
        for cpu, node in self.cpus.items():
            self.reap_node[cpu] = self._next_node(node)

    def add(self, cache: SlabCache, next_reap: int = REAPTIMEOUT_NODE) -> KmemCache:
        """Set a cache to work, on the CPUs that are counted now.

        `next_reap` is in jiffies; in the kernel it follows from where the cache's structure is in memory.
        """
        nodes = {
            nid: SlabNode(
                cache,
                nid,
                self.online[nid],
                tuple(self._fallback),
                next_reap,
                self.struct_pages,
                self._destroy,
            )
            for nid in self._fallback
        }
        working = KmemCache(cache, self.cpus, nodes)
        self.in_order.append(working)
        for name in (cache.name, *cache.aliases):
            self.caches[name] = working
        return working

    def kmem_cache_create(self, args: KmemCacheArgs) -> None:
        """Make a cache. ValueError: the name is taken, or no slab can hold an object."""
        if args.name in self.caches:
            raise ValueError(f"there is a cache {args.name}")
        cache = self._geometry.kmem_cache_create(args)
        if args.name in cache.aliases:
            self.caches[args.name] = self._working(cache)
        else:
            self.add(cache)

    def _working(self, cache: SlabCache) -> KmemCache:
        """A cache at work. The creator whose name it has may need it no more, while others do."""
        return next(known for known in self.in_order if known.cache is cache)

    def kmem_cache_destroy(self, name: str) -> None:
        """A creator needs its cache no more (kmem_cache_destroy). Raises SlabBugError if it has objects."""
        working = self.caches[name]
        cache = working.cache
        if sum(known is working for known in self.caches.values()) == 1:
            if self.kmem_cache_shrink(name):
                raise still_has_objects(cache.name)
            self.in_order.remove(working)
            self._geometry.caches.remove(cache)
        elif name in cache.aliases:
            cache.aliases.remove(name)
        del self.caches[name]

    def kmem_cache_shrink(self, name: str) -> bool:
        """All arrays are emptied, and slabs without objects go; whether others are left (drain_cpu_caches,
        __kmem_cache_shrink).
        """
        cache = self.caches[name]
        for cpu, array in cache.cpus.items():
            cache.nodes[self.cpus[cpu]].free_block(array.take_oldest(len(array.entry)))
        for node in cache.nodes.values():
            for nid, alien in node.alien.items():
                cache.nodes[nid].take_home(alien)
        left = [node.drain() for node in cache.nodes.values()]
        return any(left)

    def boot_cpu_online(self, cpu: int) -> None:
        """The first CPU is counted, when caches exist (numa_add_cpu in arch_cpu_finalize_init)."""
        self.online[self.cpus[cpu]] += 1

    def slab_prepare_cpu(self, cpu: int) -> None:
        """Another CPU comes: limits of its node are computed anew, without it, and then it is counted.

        The kernel runs init_cache_node before the CPU itself calls numa_add_cpu: the last CPU of a node does
        not count in the limits of caches of before, unless their tunables are written.
        """
        nid = self.cpus[cpu]
        for cache in self.in_order:
            cache.nodes[nid].count_cpus(self.online[nid])
        self.online[nid] += 1

    def kmem_cache_alloc(self, name: str, cpu: int, gfp: int, node: int = NUMA_NO_NODE) -> int | None:
        """An object for a CPU; None: no node has memory (__do_cache_alloc)."""
        cache = self.caches[name]
        home = self.cpus[cpu]
        address = self._cache_alloc(cache, cpu, gfp) if node in (NUMA_NO_NODE, home) else None
        if address is None:
            address = self._alloc_node(cache, home if node == NUMA_NO_NODE else node, home, gfp)
        if address is not None:
            cache.objects.add(address)
        return address

    def kmem_cache_alloc_bulk(self, name: str, cpu: int, gfp: int, count: int) -> list[int]:
        """So many objects, or none if there is no memory for all of them."""
        objects: list[int] = []
        while len(objects) < count:
            address = self.kmem_cache_alloc(name, cpu, gfp)
            if address is None:
                self.kmem_cache_free_bulk(name, cpu, objects)
                return []
            objects.append(address)
        return objects

    def kmem_cache_free(self, name: str, cpu: int, address: int) -> None:
        """Free an object of a cache.

        Raises SlabBugError with what a kernel with checks says (cache_from_obj, slab_put_obj and
        cache_free_debugcheck); nothing has changed then.
        """
        cache = self.caches[name]
        self._free(cache, self._check(cache, address), cpu, address)

    def kmem_cache_free_bulk(self, name: str, cpu: int, objects: Sequence[int]) -> None:
        """Objects go back one by one. Raises SlabBugError before anything is freed."""
        cache = self.caches[name]
        slabs = [self._check(cache, address) for address in objects]
        seen: set[int] = set()
        for slab, address in zip(slabs, objects, strict=True):
            if address in seen:
                self._bad(slab, address)
            seen.add(address)
        for slab, address in zip(slabs, objects, strict=True):
            self._free(cache, slab, cpu, address)

    def _check(self, cache: KmemCache, address: int) -> SlabPages:
        """The slab of an object of a cache that is in use; else SlabBugError."""
        slab = self.struct_pages.get(virt_to_pfn(address))
        if not slab:
            raise SlabBugError("virt_to_cache: Object is not a Slab page!")
        if slab.cache is not cache.cache:
            raise SlabBugError(
                f"cache_from_obj: Wrong slab cache. {cache.cache.name} but object is from {slab.cache.name}"
            )
        if address not in cache.objects:
            self._bad(slab, address)
        return slab

    def kmalloc(self, size: int, cpu: int, gfp: int, node: int = NUMA_NO_NODE) -> int | None:
        """The address of `size` bytes; None: there is no memory (__kmalloc_node)."""
        if not size:
            return ZERO_SIZE_PTR
        name = self._kmalloc.cache_of(size, gfp)
        if name is not None:
            return self.kmem_cache_alloc(name, cpu, gfp, node)
        order = get_order(size)
        got = self._source.alloc_pages(
            self.cpus[cpu] if node == NUMA_NO_NODE else node, order, gfp | Gfp.COMP
        )
        if not got:
            return None
        address = page_address(got[0], self._geometry.rules.arch)
        self.large[address] = order
        return address

    def kfree(self, cpu: int, address: int) -> None:
        """Free what kmalloc returned, or an object of a cache; NULL and no bytes are nothing (kfree)."""
        if address in (0, ZERO_SIZE_PTR):
            return
        if address in self.large:
            self._source.free_pages(virt_to_pfn(address), self.large.pop(address))
            return
        slab = self.struct_pages.get(virt_to_pfn(address))
        if not slab:
            raise not_from_kmalloc(address)
        cache = self._working(slab.cache)
        self._free(cache, self._check(cache, address), cpu, address)

    def slabinfo_write(self, text: str) -> None:
        """A line written to /proc/slabinfo: all arrays are emptied and made anew (do_tune_cpucache).

        Raises ValueError as SlabCaches does.
        """
        geometry = self._geometry.slabinfo_write(text)
        if not geometry:
            return
        cache = self.caches[geometry.name]
        for cpu, array in cache.cpus.items():
            cache.cpus[cpu] = ArrayCache(geometry.limit, geometry.batchcount)
            cache.nodes[self.cpus[cpu]].free_block(array.entry)
        for nid, node in cache.nodes.items():
            node.count_cpus(self.online[nid])
            node.setup()

    def cache_reap(self, cpu: int, jiffies: int) -> None:
        """One round of a CPU's reaper over all caches; it is to come every REAPTIMEOUT_AC (cache_reap)."""
        node = self.cpus[cpu]
        for cache in reversed(self.in_order):  # the newest cache is the first of slab_caches
            here = cache.nodes[node]
            if alien := here.alien.get(self.reap_node[cpu]):
                cache.nodes[self.reap_node[cpu]].take_home(alien)
            here.drain_array(cache.cpus[cpu])
            here.reap(jiffies, REAPTIMEOUT_NODE)
        self.reap_node[cpu] = self._next_node(self.reap_node[cpu])

    def rcu_callbacks(self) -> None:
        """A grace period is over for all slabs that wait (kmem_rcu_free)."""
        while self.rcu:
            self._give_back(self.rcu.popleft())

    def slabinfo(self) -> list[SlabInfo]:
        """Each cache, in the order of creation."""
        return [cache.info() for cache in self.in_order]

    def _next_node(self, node: int) -> int:
        return min((nid for nid in self._fallback if nid > node), default=min(self._fallback))

    def _cache_alloc(self, cache: KmemCache, cpu: int, gfp: int) -> int | None:
        """From the CPU's array, the newest first; it is refilled, or a slab is added (____cache_alloc)."""
        array = cache.cpus[cpu]
        if not array.entry:
            batchcount = array.batchcount
            if not array.touched:
                batchcount = min(batchcount, BATCHREFILL_LIMIT)
            node = cache.nodes[self.cpus[cpu]]
            array.entry += node.refill(batchcount)
            if not array.entry:
                array.entry += self._grow(cache, node, gfp_exact_node(gfp), batchcount) or []
            if not array.entry:
                return None
        array.touched = True
        return array.entry.pop()

    def _grow(self, cache: KmemCache, node: SlabNode, gfp: int, count: int) -> list[int] | None:
        """A new slab and at most `count` of its objects; None: there is no memory."""
        gfp = page_flags(cache.cache, gfp)
        got = self._source.alloc_pages(node.nid, cache.cache.order, gfp)
        if not got:
            return None
        slab = SlabPages(*got, cache.cache, [])
        home = cache.nodes[slab.nid]
        if cache.cache.freelist is Freelist.OFF_SLAB:
            cpu = self._cpu_of(slab.nid)
            slab.off_slab = self.kmalloc(cache.cache.freelist_bytes, cpu, gfp & ~Gfp.COMP, slab.nid)
            if slab.off_slab is None:
                self._source.free_pages(slab.pfn, cache.cache.order)
                return None
        home.init_objects(slab)
        return home.grow_end(slab, count)

    def _alloc_node(self, cache: KmemCache, nid: int, home: int, gfp: int) -> int | None:
        """One object of a node, else of any (____cache_alloc_node)."""
        node = cache.nodes[nid]
        address = node.alloc_one()
        if address is not None:
            return address
        if grown := self._grow(cache, node, gfp_exact_node(gfp), 1):
            return grown[0]
        return None if gfp & Gfp.THISNODE else self._fallback_alloc(cache, home, gfp)

    def _fallback_alloc(self, cache: KmemCache, home: int, gfp: int) -> int | None:
        """Free objects of any node, in the order of the zonelist, else a slab of any (fallback_alloc)."""
        for nid in self._fallback[home]:
            if cache.nodes[nid].free_objects:
                return cache.nodes[nid].alloc_one()
        grown = self._grow(cache, cache.nodes[home], gfp, 1)
        return grown[0] if grown else None

    def _free(self, cache: KmemCache, slab: SlabPages, cpu: int, address: int) -> None:
        """To the CPU's array, or by way of the alien array to another node (___cache_free)."""
        cache.objects.remove(address)
        here = cache.nodes[self.cpus[cpu]]
        array = cache.cpus[cpu]
        if slab.nid == here.nid:
            if len(array.entry) >= array.limit:
                here.flush(array)
            array.entry.append(address)
            return
        home = cache.nodes[slab.nid]
        alien = here.alien.get(slab.nid)
        if alien is None:
            home.free_block([address])
            return
        if len(alien.entry) == alien.limit:
            home.take_home(alien)
        alien.entry.append(address)

    def _bad(self, slab: SlabPages, address: int) -> None:
        number, rest = divmod(address - slab.start, slab.cache.size)
        if rest or not 0 <= number < slab.cache.objects:
            raise no_object(slab.cache.name, address)
        raise double_free(slab.cache.name, address)

    def _destroy(self, slab: SlabPages) -> None:
        """A slab without objects goes, at once or after a grace period (slab_destroy)."""
        if SlabFlag.TYPESAFE_BY_RCU in slab.cache.flags:
            self.rcu.append(slab)
        else:
            self._give_back(slab)

    def _give_back(self, slab: SlabPages) -> None:
        for pfn in range(slab.pfn, slab.pfn + (1 << slab.cache.order)):
            del self.struct_pages[pfn]
        self._source.free_pages(slab.pfn, slab.cache.order)
        if slab.off_slab is not None:
            self.kfree(self._cpu_of(slab.nid), slab.off_slab)

    def _cpu_of(self, nid: int) -> int:
        """The CPU whose arrays serve the free lists that are off their slabs."""
        return min(self.cpus, key=lambda cpu: (self.cpus[cpu] != nid, cpu))
