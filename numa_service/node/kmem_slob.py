"""Objects of slab caches on one node with SLOB (``mm/slob.c``): its pages, in three lists.

The kernel has these lists once, for all nodes. Here each node has those of its own pages: a request that
names no node looks for room on the nearest one only, before new pages are asked for. CPUs have nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from numa_service.mm.gfp import Gfp
from numa_service.mm.slab.cache import Cache
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import KmemCacheArgs
from numa_service.mm.slab.pages import NUMA_NO_NODE, page_address, virt_to_pfn
from numa_service.mm.slab.profile import slob_of
from numa_service.mm.slab.slob import SlobBlock, SlobCache, SlobList, SlobRules, kmalloc_block
from numa_service.mm.slab.slob_alloc import SlobLists, no_object
from numa_service.mm.slab.slob_page import PAGE_UNITS, SlobPage
from numa_service.mm.slab.slub_place import SlabRef
from numa_service.mm.slab.snapshot import SlabNodeSnapshot
from numa_service.mm.vmstat import NR_SLAB_UNRECLAIMABLE
from numa_service.node.errors import InvalidRequest
from numa_service.node.kmem_calls import (
    KMALLOC,
    CpuAlloc,
    CpuFree,
    GiveBack,
    KmemAnswer,
    Question,
    Shutdown,
    SlabView,
    pack,
)
from numa_service.node.kmem_state import Holder, Kmem
from numa_service.node.owners import Owner
from numa_service.node.session_state import Held


class SlobKmem(Kmem):
    """SLOB on one node."""

    calls = frozenset(("take", "free", "put_back", "shrink", "wrong_free"))

    def __init__(self, node: Holder) -> None:
        super().__init__(node)
        self._rules = slob_of(node.machine.profile.name, node.pgdat.arch)
        self.small = SlobLists(self._rules)
        #: By address, the cache of each object, also of those that wait for a grace period.
        self.objects: dict[int, str] = {}
        #: First pages and orders of objects that are whole pages.
        self.whole: dict[int, int] = {}
        #: Objects of SLAB_TYPESAFE_BY_RCU caches that were freed, the oldest first.
        self.rcu: deque[int] = deque()

    def _enter(self, caches: Iterable[Cache]) -> None:
        super()._enter(caches)
        self._caches = {name: cache for name, cache in self._known.items() if isinstance(cache, SlobCache)}

    def _drop(self, name: str) -> None:
        """Nothing: pages are of no cache."""

    def shutdown(self, name: str) -> Shutdown:
        """Pages with objects of the cache, of which the kernel's SLOB does not know and prints nothing."""
        self.rcu_callbacks()
        pages = {virt_to_pfn(address) for address, of in self.objects.items() if of == name}
        return Shutdown(len(pages))

    def knows(self, name: str) -> bool:
        """Whether objects can be of that: a cache, or what kmalloc gives for so many bytes."""
        return super().knows(name) or _kmalloc_size(name) is not None

    def cache(self, name: str) -> SlobCache:
        """A cache by its name."""
        size = _kmalloc_size(name)
        return self._caches[name] if size is None else _kmalloc_cache(size, self._rules)

    @property
    def used(self) -> Iterable[str]:
        """None: pages are of no cache."""
        return ()

    def _kmalloc_cache(self, size: int, gfp: int) -> str | None:
        block = kmalloc_block(size, self._rules)
        return f"{KMALLOC}{size}" if block is not None and block.order is None else None

    def _orders(self, name: str) -> tuple[int, int]:
        order = self.cache(name).order
        return order, order

    def _page_requests(self, name: str, gfp: int, nid: int) -> list[tuple[int, int]]:
        return [(self.cache(name).order, gfp & ~Gfp.ZERO)]

    def count(self, name: str) -> SlabNodeSnapshot:
        """Nothing: pages are of no cache."""
        return SlabNodeSnapshot()

    def view(self, pfn: int) -> SlabView | None:
        """A page that is cut into blocks, and the list that it is on."""
        page = self.small.pages.get(pfn)
        if page is None:
            return None
        listed = None
        for kind, pages in self.small.lists.items():
            if page in pages:
                listed = f"free_slob_{kind.value}", [other.pfn for other in pages]
        start = page_address(pfn, self._arch) + page.blocks[0][0] * 2 if page.blocks else None
        return SlabView("slob", None, None, start, listed)

    def slab_pages(self) -> dict[int, tuple[int, int]]:
        """By first page, order and counter of each page that objects have."""
        pages = dict.fromkeys(self.small.pages, 0) | self.whole
        return {pfn: (order, NR_SLAB_UNRECLAIMABLE) for pfn, order in pages.items()}

    @property
    def rcu_waits(self) -> bool:
        """Whether objects wait for a grace period."""
        return bool(self.rcu)

    def rcu_callbacks(self) -> None:
        """A grace period is over for all objects that wait (kmem_rcu_free)."""
        self._cpu = None
        while self.rcu:
            self._free_block(self.rcu.popleft())

    def wrong_cache(self, name: str, of: str) -> tuple[str, ...]:
        """What is reported of a free to another cache than the object's own."""
        return (f"kmem_cache_free: an object of {of} is no object of {name}",)

    def already_free(self, name: str, address: int) -> tuple[str, ...]:
        """What is reported of a second free, of which the kernel's SLOB finds nothing wrong."""
        return no_object("kmem_cache_free", name, address).report

    def wrong_free(self, name: str, address: int) -> tuple[str, ...]:
        """What is reported of a free of an object that the caller does not have."""
        return () if address in self.taken else self.already_free(name, address)

    # pages of this node, for any home

    def _new_slab(self, name: str, pfn: int, order: int, home: Owner, most: int) -> tuple[int, ...]:
        """An object of a new page, and others until it has no room for another; or whole pages."""
        block = self.cache(name).block
        self._mark_slab(pfn, order, NR_SLAB_UNRECLAIMABLE)
        if block.order is not None:
            self.whole[pfn] = order
            return self._taken(name, [page_address(pfn, self._arch)], home)
        first = self.small.new_page(pfn, self._node.nid, block)
        return self._taken(name, [first, *self._take(block, max(most, 1) - 1)], home)

    def _take(self, block: SlobBlock, most: int) -> list[int]:
        got: list[int] = []
        while block.order is None and len(got) < most and (at := self.small.alloc(block)) is not None:
            got.append(at)
        return got

    def _taken(self, name: str, objects: Sequence[int], home: Owner) -> tuple[int, ...]:
        self.taken.update(dict.fromkeys(objects, home))
        self.objects.update(dict.fromkeys(objects, name))
        return tuple(objects)

    def _check_call(self, asked: Question) -> None:
        if asked.call == "take":
            if not asked.most:
                raise InvalidRequest("count", "take wants no object")
        elif asked.call != "shrink" and not asked.objects:
            raise InvalidRequest("objects", f"{asked.call} names no object")

    def _answer(self, asked: Question) -> KmemAnswer:
        now, name = self._node.lineage, asked.cache
        if asked.call == "take":
            got = self._take(self.cache(name).block, asked.most)
            return KmemAnswer(now, objects=pack(self._taken(name, got, asked.home)))
        self._cpu = asked.cpu
        self._returned(asked.objects)
        self._free(asked.objects)
        return KmemAnswer(now)

    def _free(self, objects: Sequence[int]) -> None:
        for address in objects:
            if SlabFlag.TYPESAFE_BY_RCU in self.cache(self.objects[address]).flags:
                self.rcu.append(address)
            else:
                self._free_block(address)

    def _free_block(self, address: int) -> None:
        """Memory of an object comes back, and a page without objects goes (slob_free)."""
        block = self.cache(self.objects.pop(address)).block
        if block.order is not None:
            pfn = virt_to_pfn(address)
            self._free_slab(pfn, self.whole.pop(pfn), NR_SLAB_UNRECLAIMABLE)
        elif (empty := self.small.free(address, block)) is not None:
            self._free_slab(empty, 0, NR_SLAB_UNRECLAIMABLE)

    def _cache_at(self, address: int) -> str | None:
        return self.objects.get(address)

    def _take_back(self, objects: Sequence[int], frozen: Sequence[int]) -> None:
        self._returned(objects)
        self._free(objects)

    # requests of CPUs of this node

    def _cpu_alloc(self, name: str, cpu: int, nid: int, count: int, searched: bool) -> CpuAlloc:
        near = self.first_node(cpu) if nid == NUMA_NO_NODE else nid
        whole = self.cache(name).block.order is not None
        if searched or whole:
            return CpuAlloc([], [], "slab", nid=nid, most=1 if whole else count, direct=True)
        if near != self._node.nid:
            return CpuAlloc([], [], "take", nid=near, most=count, direct=True)
        objects = self._taken(name, self._take(self.cache(name).block, count), self._node.kernel)
        of = SlabRef(0, near, self._node.lineage)
        got = self._runs(of, objects)
        if len(got) == count:
            return CpuAlloc(got, [])
        return CpuAlloc(got, [], "slab", nid=nid, most=count - len(got), direct=True)

    def _install(
        self, name: str, cpu: int, slab: SlabRef, objects: Sequence[int], partial: Sequence[int]
    ) -> list[GiveBack]:
        return self._send("put_back", name, cpu, slab, objects) if objects else []

    def cpu_free(self, cpu: int, objects: bytes, held: Sequence[Held]) -> CpuFree:
        """Packed objects come back, the first first, until another node has to hear of some."""
        return self._free_in_order(cpu, objects, held, self._free_some)

    def _free_some(self, cpu: int, left: list[tuple[int, Held]]) -> list[GiveBack]:
        """Objects of one cache and one node that follow each other go back together."""
        _, (name, slab) = left[0]
        objects: list[int] = []
        for address, of in left:
            if of.cache != name or (of.slab.nid, of.slab.lineage) != (slab.nid, slab.lineage):
                break
            objects.append(address)
        del left[: len(objects)]
        return self._send("free", name, cpu, slab, objects)

    def flush(self, name: str) -> list[GiveBack]:
        """Nothing: CPUs have nothing at hand."""
        return []

    def _forget(self, nid: int, lineage: int) -> None:
        """Nothing: CPUs have nothing of other nodes."""

    def _on_cpus(self) -> Iterator[tuple[str, Sequence[int], SlabRef]]:
        return iter(())

    def write(self, name: str, address: int, offset: int, data: bytes, inuse: bool) -> None:
        """Nothing: nobody would look."""

    def forget_written(self, addresses: Iterable[int]) -> None:
        """Nothing: none are known."""

    # snapshots and checks

    def _dump(self) -> list[Any]:
        pages = [(page.pfn, page.units, page.blocks) for page in self.small.pages.values()]
        lists = [[page.pfn for page in pages] for pages in self.small.lists.values()]
        return [pages, lists, list(self.objects.items()), list(self.whole.items()), list(self.rcu)]

    def _load(self, dumped: list[Any], frozen: Mapping[int, Owner]) -> None:
        pages, lists, objects, whole, rcu = dumped
        for pfn, units, blocks in pages:
            page = self.small.pages[pfn] = SlobPage(pfn, self._node.nid)
            page.units, page.blocks = units, [(start, length) for start, length in blocks]
        for kind, pfns in zip(SlobList, lists, strict=True):
            self.small.lists[kind].extend(self.small.pages[pfn] for pfn in pfns)
        self.objects, self.whole = dict(objects), dict(whole)
        self.rcu.extend(rcu)

    def _check_slabs(self, out: set[int]) -> list[str]:
        problems = []
        if self.objects.keys() != out | set(self.rcu):
            problems.append(f"{len(self.objects)} objects are known, {len(out)} are with homes")
        used = dict.fromkeys(self.small.pages, 0)
        for address, name in self.objects.items():
            block, pfn = self.cache(name).block, virt_to_pfn(address)
            if block.order is not None:
                if self.whole.get(pfn) != block.order:
                    problems.append(f"object {address:#x} of {name} has no pages")
            elif pfn in used:
                used[pfn] += block.units
            else:
                problems.append(f"object {address:#x} of {name} is of no page")
        listed = [page.pfn for pages in self.small.lists.values() for page in pages]
        for pfn, page in self.small.pages.items():
            free = sum(length for _, length in page.blocks)
            if page.units != free or used[pfn] + free != PAGE_UNITS:
                problems.append(f"page {pfn:#x}: {page.units} units free, {free} in blocks, {used[pfn]} used")
            if listed.count(pfn) != bool(free):
                problems.append(f"page {pfn:#x} with {free} free units is on {listed.count(pfn)} lists")
        return problems


def _kmalloc_size(name: str) -> int | None:
    """The bytes that kmalloc was asked for, from the name under which its objects are known."""
    size = name.removeprefix(KMALLOC)
    if size == name or not size.isdecimal() or not size.isascii() or len(size) > 4:
        return None
    block = kmalloc_block(int(size))
    return int(size) if str(int(size)) == size and block and block.order is None else None


@lru_cache(maxsize=1 << 12)
def _kmalloc_cache(size: int, rules: SlobRules) -> SlobCache:
    return SlobCache(KmemCacheArgs(f"{KMALLOC}{size}", size), rules, kmalloc=True)
