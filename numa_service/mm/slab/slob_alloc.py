"""SLOB at work: three lists of partly free pages, and objects cut from them (``mm/slob.c``).

Nothing here belongs to a CPU, and of a node are only the pages: the lists are the machine's, under one lock
(``slob_lock``). Where each node is an actor of its own, one of them has these lists and asks the others for
pages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numa_service.mm.gfp import Gfp
from numa_service.mm.slab.allocator import SlabInfo
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import KmemCacheArgs
from numa_service.mm.slab.pages import (
    NUMA_NO_NODE,
    ZERO_SIZE_PTR,
    PageSource,
    offset_in_page,
    page_address,
    virt_to_pfn,
)
from numa_service.mm.slab.reports import SlabBugError
from numa_service.mm.slab.slob import UNIT, SlobBlock, SlobList, SlobRules, cache_block, kmalloc_block
from numa_service.mm.slab.slob_page import PAGE_UNITS, SlobPage


@dataclass(frozen=True, slots=True)
class SlobObject:
    """An object that is allocated."""

    block: SlobBlock
    #: The cache it is of; None: it is of kmalloc, which keeps its size in front of it.
    cache: str | None


class SlobLists:
    """Pages that are cut into blocks, and the three lists of those with room."""

    def __init__(self, rules: SlobRules) -> None:
        #: free_slob_small, free_slob_medium and free_slob_large. A page is in one unless it is full.
        self.lists: dict[SlobList, deque[SlobPage]] = {kind: deque() for kind in SlobList}
        #: Pages that have objects, by pfn.
        self.pages: dict[int, SlobPage] = {}
        self._rules = rules

    def alloc(self, block: SlobBlock, node: int = NUMA_NO_NODE) -> int | None:
        """The address of an object from the first page of its list that has room; None: no page has.

        The page becomes the first of its list, and those that were before it the last: the next search begins
        where this one ended. Whether it does so behind a page that has been filled up is a rule.
        """
        assert block.pages
        pages, units = self.lists[block.pages], block.units
        for index, page in enumerate(pages):
            if page.units < units or node not in (NUMA_NO_NODE, page.nid):
                continue
            place = page.alloc(units, block.align, block.header)
            if place is None:
                continue
            if not page.units:
                del pages[index]
            if page.units or self._rules.goes_on_behind_full:
                pages.rotate(-index)
            return self._address(page.pfn, block, place)
        return None

    def new_page(self, pfn: int, nid: int, block: SlobBlock) -> int:
        """The address of an object that is cut from a new page."""
        assert block.pages
        page = self.pages[pfn] = SlobPage(pfn, nid)
        place = page.alloc(block.units, block.align, block.header)
        assert place is not None
        if page.units:
            self.lists[block.pages].appendleft(page)
        return self._address(pfn, block, place)

    def _address(self, pfn: int, block: SlobBlock, place: int) -> int:
        return page_address(pfn, self._rules.arch) + place * UNIT + block.header

    def free(self, address: int, block: SlobBlock) -> int | None:
        """An object comes back; the page, if it has no others and so is no page of these any more."""
        assert block.pages
        pfn = virt_to_pfn(address)
        page = self.pages[pfn]
        pages = self.lists[block.pages]
        if page.units + block.units == PAGE_UNITS:
            if page.units:
                pages.remove(page)
            del self.pages[pfn]
            return pfn
        if not page.units:
            pages.appendleft(page)
        page.free(offset_in_page(address - block.header) // UNIT, block.units)
        return None


class Slob:
    """SLOB of a machine. Addresses are those of the direct map.

    The kernel's SLOB checks nothing that is freed: a second free would break the list of a page. Here such a
    free raises SlabBugError and changes nothing.
    """

    def __init__(self, cpus: Mapping[int, int], source: PageSource, rules: SlobRules) -> None:
        """`cpus` says on which node each CPU is."""
        self._rules = rules
        self._small = SlobLists(rules)
        self.lists = self._small.lists
        self.pages = self._small.pages
        #: By address.
        self.objects: dict[int, SlobObject] = {}
        #: Objects of SLAB_TYPESAFE_BY_RCU caches that were freed, oldest first: until a grace period is over
        #: they can be read, and nobody gets their memory.
        self.rcu: deque[tuple[int, SlobBlock]] = deque()
        #: By name; none is an alias.
        self.caches: dict[str, KmemCacheArgs] = {}
        self._cpus = dict(cpus)
        self._source = source

    def kmem_cache_create(self, args: KmemCacheArgs) -> None:
        """Make a cache. ValueError: the name is taken."""
        if args.name in self.caches:
            raise ValueError(f"there is a cache {args.name}")
        self.caches[args.name] = args

    def kmem_cache_destroy(self, name: str) -> None:
        """A cache goes. SLOB does not know whether it has objects (__kmem_cache_shutdown)."""
        del self.caches[name]

    def kmem_cache_shrink(self, name: str) -> bool:
        """Nothing can be given back, and nothing is said of what is left (__kmem_cache_shrink)."""
        return False

    def kmem_cache_alloc(self, name: str, cpu: int, gfp: int, node: int = NUMA_NO_NODE) -> int | None:
        """The address of an object of a cache; None: there is no memory (slob_alloc_node)."""
        return self._object(cache_block(self.caches[name], self._rules), name, cpu, gfp, node)

    def kmem_cache_alloc_bulk(self, name: str, cpu: int, gfp: int, count: int) -> list[int]:
        """So many objects, or none if there is no memory for all of them (kmem_cache_alloc_bulk)."""
        objects: list[int] = []
        while len(objects) < count:
            address = self.kmem_cache_alloc(name, cpu, gfp)
            if address is None:
                self.kmem_cache_free_bulk(name, cpu, objects)
                return []
            objects.append(address)
        return objects

    def kmem_cache_free(self, name: str, cpu: int, address: int) -> None:
        """Free an object of a cache, at once or after a grace period (kmem_cache_free)."""
        block = self._check(address, name)
        del self.objects[address]
        if SlabFlag.TYPESAFE_BY_RCU in self.caches[name].flags:
            self.rcu.append((address, block))
        else:
            self._free(address, block)

    def kmem_cache_free_bulk(self, name: str, cpu: int, objects: Sequence[int]) -> None:
        """Free objects one by one. Raises SlabBugError before anything is freed."""
        seen: set[int] = set()
        for address in objects:
            self._check(address, name)
            if address in seen:
                raise no_object("kmem_cache_free_bulk", name, address)
            seen.add(address)
        for address in objects:
            self.kmem_cache_free(name, cpu, address)

    def kmalloc(self, size: int, cpu: int, gfp: int, node: int = NUMA_NO_NODE) -> int | None:
        """The address of `size` bytes; None: there is no memory (__do_kmalloc_node).

        A request for a node takes pages of that node only, as far as partly free ones go.
        """
        block = kmalloc_block(size, self._rules)
        if block is None:
            return ZERO_SIZE_PTR
        return self._object(block, None, cpu, gfp | Gfp.COMP if block.order else gfp, node)

    def kfree(self, cpu: int, address: int) -> None:
        """Free what kmalloc returned; nothing for NULL and for no bytes (kfree)."""
        if address not in (0, ZERO_SIZE_PTR):
            block = self._check(address, None)
            del self.objects[address]
            self._free(address, block)

    def slabinfo(self) -> list[SlabInfo]:
        """None: there is no /proc/slabinfo."""
        return []

    def rcu_callbacks(self, count: int | None = None) -> None:
        """A grace period is over for the oldest `count` objects that wait, or for all (kmem_rcu_free)."""
        for _ in range(len(self.rcu) if count is None else min(count, len(self.rcu))):
            self._free(*self.rcu.popleft())

    def _object(self, block: SlobBlock, cache: str | None, cpu: int, gfp: int, node: int) -> int | None:
        prefer = self._cpus[cpu] if node == NUMA_NO_NODE else node
        if block.order is None:
            address = self._alloc(block, gfp, node, prefer)
        else:
            got = self._source.alloc_pages(prefer, block.order, gfp)
            address = page_address(got[0], self._rules.arch) if got else None
        if address is not None:
            self.objects[address] = SlobObject(block, cache)
        return address

    def _check(self, address: int, cache: str | None) -> SlobBlock:
        found = self.objects.get(address)
        if not found or found.cache != cache:
            raise no_object("kmem_cache_free" if cache else "kfree", cache, address)
        return found.block

    def _alloc(self, block: SlobBlock, gfp: int, node: int, prefer: int) -> int | None:
        """A block from the first page of its list that has room, or from a new page (slob_alloc)."""
        address = self._small.alloc(block, node)
        if address is not None:
            return address
        got = self._source.alloc_pages(prefer, 0, gfp & ~Gfp.ZERO)
        return self._small.new_page(*got, block) if got else None

    def _free(self, address: int, block: SlobBlock) -> None:
        """A block goes back to its page, and a page without objects to the page allocator (slob_free)."""
        if block.order is not None:
            self._source.free_pages(virt_to_pfn(address), block.order)
        elif (pfn := self._small.free(address, block)) is not None:
            self._source.free_pages(pfn, 0)


def no_object(caller: str, cache: str | None, address: int) -> SlabBugError:
    """What is freed is no object of the cache, or of kmalloc."""
    return SlabBugError(f"{caller}: no object of {cache or 'kmalloc'} is at {address:#x}")
