"""What SLAB keeps of a cache on one NUMA node: slabs, and objects that its CPUs share (``mm/slab.c``).

All of a SlabNode belongs to one node (struct kmem_cache_node, under its list_lock). A CPU reaches the lists
of its own node by `refill` and `flush`, those of another by `alloc_one` and, with objects that were freed
away from home, by `take_home`: whole batches, so that each is one question between nodes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from numa_service.mm.slab.pages import page_address, virt_to_pfn
from numa_service.mm.slab.slab import SlabCache

#: Whether slabs go to the front or the back of a list.
_FRONT, _BACK = False, True


@dataclass(slots=True)
class ArrayCache:
    """Free objects at hand, the newest last (struct array_cache)."""

    #: How many it can hold.
    limit: int
    #: How many come or go at once.
    batchcount: int
    #: Addresses.
    entry: list[int] = field(default_factory=list)
    #: Somebody took objects from it since the reaper was here.
    touched: bool = False

    def take_oldest(self, count: int) -> list[int]:
        """Remove the `count` oldest."""
        oldest = self.entry[:count]
        del self.entry[:count]
        return oldest


def transfer_objects(to: ArrayCache, source: ArrayCache, most: int) -> int:
    """Move the newest objects of `source`, as far as there is room; how many that were (transfer_objects)."""
    count = min(len(source.entry), most, to.limit - len(to.entry))
    if count:
        to.entry += source.entry[-count:]
        del source.entry[-count:]
    return count


def take_idle(array: ArrayCache) -> list[int]:
    """Remove a fifth of an array's objects, the oldest, unless it was used of late (drain_array)."""
    if array.touched and array.entry:
        array.touched = False
        return []
    count = (array.limit + 4) // 5
    if count > len(array.entry):
        count = (len(array.entry) + 1) // 2
    return array.take_oldest(count)


@dataclass(slots=True)
class SlabPages:
    """One slab (struct slab)."""

    pfn: int
    nid: int
    cache: SlabCache
    #: Its free objects; the last is the next to go.
    free: list[int]
    #: Address of its first object (s_mem).
    start: int = 0
    #: Where the indices of free objects are, if that is an object of kmalloc.
    off_slab: int | None = None

    @property
    def active(self) -> int:
        """Objects that are not in the slab: in use, or in an array."""
        return self.cache.objects - len(self.free)


class SlabNode:
    """A cache's share of one node."""

    def __init__(
        self,
        cache: SlabCache,
        nid: int,
        cpus: int,
        nodes: Sequence[int],
        next_reap: int,
        struct_pages: dict[int, SlabPages],
        destroyed: Callable[[SlabPages], None],
    ) -> None:
        """Make a node that has `cpus` CPUs.

        `struct_pages` says of which slab a page is; `destroyed` gets each slab that is given back.
        """
        self.cache = cache
        self.nid = nid
        #: Slabs some of whose objects are free; refills take the first.
        self.partial: OrderedDict[int, SlabPages] = OrderedDict()
        self.full: OrderedDict[int, SlabPages] = OrderedDict()
        #: Slabs all of whose objects are free; the last is given back first.
        self.empty: OrderedDict[int, SlabPages] = OrderedDict()
        #: Free objects in the slabs.
        self.free_objects = 0
        #: Above so many, slabs without objects are given back.
        self.free_limit = cache.free_limit(cpus)
        #: Slabs without objects were used since the reaper was here.
        self.free_touched = False
        #: The colour of the slab that came last.
        self.colour_next = 0
        #: Objects that the CPUs of the node share.
        self.shared: ArrayCache | None = None
        #: Objects that CPUs of this node freed, by the node that they are of.
        self.alien: dict[int, ArrayCache] = {}
        #: Jiffies from which on the reaper looks at the shared array and at empty slabs.
        self.next_reap = next_reap
        self._destroyed = destroyed
        self._struct_pages = struct_pages
        if cache.alien_limit:
            self.alien = {node: ArrayCache(cache.alien_limit, 0) for node in nodes if node != nid}
        self.setup()

    @property
    def total_slabs(self) -> int:
        """Slabs of the cache on the node."""
        return len(self.partial) + len(self.full) + len(self.empty)

    def setup(self) -> None:
        """Follow the cache's tunables; the shared array loses what it has (setup_kmem_cache_node)."""
        if self.shared:
            self.free_block(self.shared.entry)
        shared = self.cache.shared * self.cache.batchcount
        self.shared = ArrayCache(shared, 0) if shared else None

    def count_cpus(self, cpus: int) -> None:
        """Compute what the node may keep with so many CPUs (init_cache_node)."""
        self.free_limit = self.cache.free_limit(cpus)

    def refill(self, batchcount: int) -> list[int]:
        """At most so many objects, of the shared array, else of slabs (cache_alloc_refill)."""
        nothing = not self.free_objects and not (self.shared and self.shared.entry)
        if nothing and not self.cache.rules.refill_always_looks:
            return []
        if self.shared and self.shared.entry:
            array = ArrayCache(batchcount, batchcount)
            transfer_objects(array, self.shared, batchcount)
            self.shared.touched = True
            return array.entry
        objects: list[int] = []
        while len(objects) < batchcount and (slab := self._first_slab()):
            objects += self._alloc_block(slab, batchcount - len(objects))
            self._fixup(slab)
        self.free_objects -= len(objects)
        return objects

    def alloc_one(self) -> int | None:
        """An object for a CPU that is not of this node, past all arrays (____cache_alloc_node)."""
        slab = self._first_slab()
        if not slab:
            return None
        (address,) = self._alloc_block(slab, 1)
        self.free_objects -= 1
        self._fixup(slab)
        return address

    def flush(self, array: ArrayCache) -> None:
        """The oldest objects of a CPU's full array, to the shared array or to slabs (cache_flusharray)."""
        count = array.batchcount
        room = self.shared.limit - len(self.shared.entry) if self.shared else 0
        if self.shared and room:
            self.shared.entry += array.take_oldest(min(count, room))
        else:
            self.free_block(array.take_oldest(count))

    def take_home(self, array: ArrayCache) -> None:
        """Objects of this node that CPUs of another freed (__drain_alien_cache)."""
        if self.shared:
            transfer_objects(self.shared, array, array.limit)
        self.free_block(array.take_oldest(len(array.entry)))

    def free_block(self, objects: Sequence[int]) -> None:
        """Objects go back to their slabs; slabs above the limit are given back (free_block)."""
        at_once = self.cache.rules.destroys_as_freed
        if not at_once:
            self.free_objects += len(objects)
        for address in objects:
            slab = self._struct_pages[virt_to_pfn(address)]
            for slabs in (self.partial, self.full):
                slabs.pop(slab.pfn, None)
            slab.free.append(address)
            self.free_objects += at_once
            if slab.active:
                self.partial[slab.pfn] = slab
            elif at_once and self.free_objects > self.free_limit:
                self._destroy(slab)
            else:
                _put(self.empty, slab, _FRONT)
        while not at_once and self.free_objects > self.free_limit and self.empty:
            self._destroy(self.empty.popitem()[1])

    def init_objects(self, slab: SlabPages) -> None:
        """The next colour of this node, and all objects free in the order of addresses (cache_init_objs)."""
        cache, colour = self.cache, self.colour_next
        self.colour_next = colour + 1 if colour + 1 < cache.colour else 0
        if not cache.rules.colour_counted_after:
            colour = self.colour_next
        slab.start = page_address(slab.pfn, cache.rules.arch) + colour * cache.colour_off + cache.first_offset
        places = (slab.start + number * self.cache.size for number in range(self.cache.objects))
        slab.free = list(places)[::-1]
        for pfn in range(slab.pfn, slab.pfn + (1 << self.cache.order)):
            self._struct_pages[pfn] = slab

    def grow_end(self, slab: SlabPages, batchcount: int) -> list[int]:
        """Take at most so many objects of a new slab, and enter it in the lists (cache_grow_end)."""
        objects = self._alloc_block(slab, batchcount)
        if slab.active:
            self._fixup(slab)
        else:
            _put(self.empty, slab, _BACK)
        self.free_objects += len(slab.free)
        return objects

    def drain_array(self, array: ArrayCache | None) -> None:
        """A fifth of an array goes back to slabs, unless it was used of late (drain_array)."""
        if array and (idle := take_idle(array)):
            self.free_block(idle)

    def reap(self, jiffies: int, timeout: int) -> None:
        """The shared array and empty slabs, each `timeout` jiffies at most once (the end of cache_reap)."""
        if self.next_reap > jiffies:
            return
        self.next_reap = jiffies + timeout
        self.drain_array(self.shared)
        if self.free_touched:
            self.free_touched = False
            return
        fifth = 5 * self.cache.objects
        for _ in range(min((self.free_limit + fifth - 1) // fifth, len(self.empty))):
            self._destroy(self.empty.popitem()[1])

    def drain(self) -> bool:
        """Empty the shared array, free slabs without objects; whether others are left (drain_freelist)."""
        if self.shared:
            self.free_block(self.shared.take_oldest(len(self.shared.entry)))
        while self.empty:
            self._destroy(self.empty.popitem()[1])
        return bool(self.partial or self.full)

    def _first_slab(self) -> SlabPages | None:
        """The slab that objects come from, removed from its list (get_first_slab)."""
        if self.partial:
            return self.partial.popitem(last=False)[1]
        self.free_touched = True
        return self.empty.popitem(last=False)[1] if self.empty else None

    def _alloc_block(self, slab: SlabPages, count: int) -> list[int]:
        """At most so many objects of a slab (alloc_block)."""
        return [slab.free.pop() for _ in range(min(count, len(slab.free)))]

    def _fixup(self, slab: SlabPages) -> None:
        """A slab that objects were taken from goes to the front of its list (fixup_slab_list)."""
        _put(self.partial if slab.free else self.full, slab, _FRONT)

    def _destroy(self, slab: SlabPages) -> None:
        """A slab that is on no list goes (slab_destroy)."""
        self.free_objects -= self.cache.objects
        self._destroyed(slab)


def _put(slabs: OrderedDict[int, SlabPages], slab: SlabPages, last: bool) -> None:
    slabs[slab.pfn] = slab
    slabs.move_to_end(slab.pfn, last=last)
