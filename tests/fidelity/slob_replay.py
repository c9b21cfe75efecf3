"""Replay what a captured kernel with SLOB allocated and freed, and compare where objects went.

The pages that partly free lists had when a trace began are unknown, so only objects in pages that were
allocated in it are compared. After each comparison the object is put where the kernel had it, so that one
difference does not make others. The end of a grace period is not in a trace: an object of a
SLAB_TYPESAFE_BY_RCU cache is given back when another takes its place, or its page is freed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fidelity.kmem_events import CACHE_ALLOC, CACHE_FREE, KFREE, KMALLOC, PAGE_ALLOC, KmemEvent, kmem_events
from fidelity.slab import guest_of

from numa_service.mm.slab.boot_caches import p9_fcall_cache
from numa_service.mm.slab.kmem_cache import PAGE_SIZE, KmemCacheArgs
from numa_service.mm.slab.pages import offset_in_page, virt_to_pfn
from numa_service.mm.slab.profile import SLAB
from numa_service.mm.slab.slob import UNIT, SlobBlock, SlobList, SlobRules, cache_block, kmalloc_block
from numa_service.mm.slab.slob_alloc import Slob, SlobObject
from numa_service.mm.slab.slob_page import SlobPage


@dataclass(slots=True)
class SlobTally:
    """What a replay compared."""

    #: Objects in pages of the trace.
    objects: int = 0
    #: Of them: at the predicted place, given the page.
    same_place: int = 0
    #: Of them: in the predicted page and place, given the state before.
    same_address: int = 0
    #: Objects in pages of before the trace, which are not compared.
    elsewhere: int = 0
    #: Pages of the trace that objects were cut from, and that were freed in the trace.
    pages_freed: int = 0
    #: Of them: freed when the model gives them back.
    same_free: int = 0
    #: Objects in a place that the model has given to another.
    overlaps: int = 0


class _TracedPages:
    """Hands out the page that the kernel got for the next object, if it got one."""

    def __init__(self) -> None:
        self.next: int | None = None
        self.given_back: set[int] = set()

    def alloc_pages(self, node: int, order: int, gfp: int) -> tuple[int, int] | None:
        return None if self.next is None else (self.next, 0)

    def free_pages(self, pfn: int, order: int) -> None:
        self.given_back.add(pfn)


class _Replay:
    def __init__(self, caches: list[KmemCacheArgs]) -> None:
        self.by_name = {args.name: args for args in caches}
        self.caches = caches
        self.source = _TracedPages()
        self.slob = Slob(dict.fromkeys(range(1 << 10), 0), self.source, SlobRules())
        self.tally = SlobTally()
        #: Pages of the trace that have no objects.
        self.fresh: set[int] = set()
        #: Where an object of the trace is, and the cache that it is of.
        self.known: dict[int, KmemCacheArgs | None] = {}

    def event(self, event: KmemEvent) -> None:
        pfn = virt_to_pfn(event.address)
        if event.kind in (KMALLOC, CACHE_ALLOC):
            if event.given < PAGE_SIZE:
                self.allocated(event, pfn)
        elif event.kind in (KFREE, CACHE_FREE):
            self.freed(event)
        elif event.kind == PAGE_ALLOC:
            if event.given == 0:
                self.fresh.add(pfn)
                self.source.given_back.discard(pfn)
        else:
            self.page_freed(pfn)

    def args_of(self, event: KmemEvent) -> KmemCacheArgs:
        """The cache of an object: by the name of its free, else one of its size."""
        if event.name:
            return self.by_name[event.name]
        alike = [args for args in self.caches if args.size == event.asked]
        return next((args for args in alike if cache_block(args).size == event.given), alike[0])

    def allocated(self, event: KmemEvent, pfn: int) -> None:
        if pfn not in self.fresh and pfn not in self.slob.pages:
            self.tally.elsewhere += 1
            return
        args = None if event.kind == KMALLOC else self.args_of(event)
        block = kmalloc_block(event.asked) if args is None else cache_block(args)
        assert block
        assert block.pages
        assert block.size == event.given
        self.tally.objects += 1
        order = list(self.slob.lists[block.pages])
        self.source.next = pfn if pfn in self.fresh else None
        if args is None:
            predicted = self.slob.kmalloc(event.asked, 0, 0)
        else:
            if args.name not in self.slob.caches:
                self.slob.kmem_cache_create(args)
            predicted = self.slob.kmem_cache_alloc(args.name, 0, 0)
        self.known[event.address] = args
        self.fresh.discard(pfn)
        if predicted == event.address:
            self.tally.same_address += 1
            self.tally.same_place += 1
            return
        if predicted is not None:
            self.take_back(predicted, block, order)
        self.put(event, block, pfn, args)

    def take_back(self, address: int, block: SlobBlock, order: list[SlobPage]) -> None:
        """As if the model had not allocated this."""
        assert block.pages
        del self.slob.objects[address]
        page = self.slob.pages[virt_to_pfn(address)]
        page.free(offset_in_page(address - block.header) // UNIT, block.units)
        pages = self.slob.lists[block.pages]
        pages.clear()
        pages.extend(order)

    def put(self, event: KmemEvent, block: SlobBlock, pfn: int, args: KmemCacheArgs | None) -> None:
        """The object is where the kernel had it; its page is the first of the list."""
        assert block.pages
        pages = self.slob.lists[block.pages]
        page = self.slob.pages.setdefault(pfn, SlobPage(pfn, 0))
        place = offset_in_page(event.address - block.header) // UNIT
        found = page.alloc(block.units, block.align, block.header)
        if found is not None:
            self.tally.same_place += found == place
            page.free(found, block.units)
        while not take(page, place, block.units):
            if not self.slob.rcu:
                self.tally.overlaps += 1
                self.known.pop(event.address)
                return
            self.slob.rcu_callbacks(1)
            page = self.slob.pages.setdefault(pfn, SlobPage(pfn, 0))
        if page in pages:
            pages.rotate(-pages.index(page))
            if not page.units:
                pages.popleft()
        elif page.units:
            pages.appendleft(page)
        self.slob.objects[event.address] = SlobObject(block, args.name if args else None)

    def freed(self, event: KmemEvent) -> None:
        if event.address not in self.known:
            return
        args = self.known.pop(event.address)
        if args is None:
            self.slob.kfree(0, event.address)
        else:
            self.slob.kmem_cache_free(args.name, 0, event.address)

    def page_freed(self, pfn: int) -> None:
        self.fresh.discard(pfn)
        while pfn in self.slob.pages and self.slob.rcu:
            self.slob.rcu_callbacks(1)
        if pfn in self.source.given_back:
            self.source.given_back.remove(pfn)
            self.tally.pages_freed += 1
            self.tally.same_free += 1
        elif page := self.slob.pages.pop(pfn, None):
            self.tally.pages_freed += 1
            for kind in SlobList:
                if page in self.slob.lists[kind]:
                    self.slob.lists[kind].remove(page)


def take(page: SlobPage, place: int, units: int) -> bool:
    """Cut this block from a page; False: a part of it is not free."""
    for index, (start, length) in enumerate(page.blocks):
        if start <= place and place + units <= start + length:
            pieces = ((start, place - start), (place + units, start + length - place - units))
            page.blocks[index : index + 1] = [piece for piece in pieces if piece[1]]
            page.units -= units
            return True
    return False


def replay_slob(capture: Path, workload: str) -> SlobTally:
    """Replay one trace of a capture."""
    guest = guest_of(capture)
    slab = SLAB[guest.profile]
    caches = [*slab.boot.args(slab.kmalloc), *slab.boot.modules["9p"], p9_fcall_cache(1, guest.msize)]
    replay = _Replay(caches)
    for event in kmem_events(capture, workload):
        replay.event(event)
    return replay.tally
