"""SLUB at work, the part of a node: the slabs in its memory, and those of each cache that are partly free.

All here belongs to the node that has the pages (struct slab, struct kmem_cache_node). It never looks at a
CPU: the home node of a CPU (``slub_cpu.py``) asks for what it needs by frame number, and gets plain values,
so that each public method of KmemCacheNode can be one message between nodes. The state is rows of arrays
(``slub_place.py``), the work is compiled (``compiled/slabs.py``). Fields are those of 6.1; since 6.8 a slab
on a CPU's partial list is not marked frozen, which changes none of the results.

A node notes which home has each object that is not in its slab, and each slab that a CPU has: homes are
positive numbers, which mean what the caller likes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from numa_service.mm.slab.compiled.data import (
    CACHE_CPU_PARTIAL,
    NODE_FIRST,
    NODE_LAST,
    NODE_NR_PARTIAL,
    NODE_NR_SLABS,
    NODE_OBJECTS,
    NONE,
    SLAB_FREE,
    SLAB_FROZEN,
    SLAB_HOME,
    SLAB_INUSE,
    SLAB_NEXT,
    SLAB_OBJECTS,
    SLAB_ORDER,
    SLAB_PFN,
    SLAB_PREV,
)
from numa_service.mm.slab.compiled.slabs import (
    slub_deactivate_slab,
    slub_discard_slab,
    slub_get_freelist,
    slub_get_partial,
    slub_new_slab,
    slub_slab_free,
    slub_unfreeze,
)
from numa_service.mm.slab.flags import DEBUG_FLAGS, SlabFlag
from numa_service.mm.slab.pages import page_address, virt_to_pfn
from numa_service.mm.slab.slub import SlubCache
from numa_service.mm.slab.slub_place import SlabRef, SlubPlace

#: SHRINK_PROMOTE_MAX: slabs with so many free objects or fewer are sorted by shrinking.
SHRINK_PROMOTE_MAX = 32
#: The home whose CPUs a process has itself.
OWN_HOME = 1


class Slab:
    """Pages with objects of one cache (struct slab): a row of a place."""

    __slots__ = ("_place", "cache", "row")

    def __init__(self, cache: SlubCache, place: SlubPlace, row: int) -> None:
        self.cache = cache
        self.row = row
        self._place = place

    def _field(self, column: int) -> int:
        return int(self._place.data.slabs[self.row, column])

    @property
    def pfn(self) -> int:
        """The first page."""
        return self._place.ref(self.row).pfn

    @property
    def order(self) -> int:
        """Its pages are 2 to this power."""
        return self._field(SLAB_ORDER)

    @property
    def objects(self) -> int:
        """How many objects it has."""
        return self._field(SLAB_OBJECTS)

    @property
    def inuse(self) -> int:
        """How many are allocated, or on the list of the CPU that has the slab."""
        return self._field(SLAB_INUSE)

    @property
    def frozen(self) -> bool:
        """Whether a CPU has it, as its slab or on its partial list, so that it is not on the node's."""
        return bool(self._field(SLAB_FROZEN))

    @property
    def home(self) -> int:
        """The home of that CPU; 0 if there is none."""
        return self._field(SLAB_HOME)

    def freeze(self, home: int) -> None:
        """A CPU of `home` has it."""
        self._place.data.slabs[self.row, [SLAB_FROZEN, SLAB_HOME]] = 1, home

    @property
    def freelist(self) -> list[int]:
        """Addresses of free objects; the last is the next to be allocated."""
        return self._place.free_list(self.row, self._field(SLAB_FREE))

    @freelist.setter
    def freelist(self, addresses: Sequence[int]) -> None:
        """These objects are free, and all others are allocated, as they all were."""
        slab = self._place.data.slabs[self.row]
        for address in addresses:
            self._place.data.home[self._place.object_of(self.row, address)] = 0
        slab[SLAB_FREE] = self._place.make_list(self.row, addresses)
        slab[SLAB_INUSE] = slab[SLAB_OBJECTS] - len(addresses)

    @property
    def homes(self) -> list[int]:
        """Of each object, in their order in memory, which home has it; 0: it is in the slab."""
        first, addresses = self._place.objects_of(self.row)
        homes: list[int] = self._place.data.home[first : first + len(addresses)].tolist()
        return homes

    @property
    def address(self) -> int:
        """The address of its first byte (slab_address)."""
        return page_address(self.pfn, self._place.arch)

    def all_objects(self) -> list[int]:
        """Addresses of all objects, in their order in memory."""
        first = self.address + self.cache.red_left_pad
        return [first + index * self.cache.size for index in range(self.objects)]

    def check_valid_pointer(self, address: int) -> bool:
        """Whether an object begins there."""
        offset = address - self.address - self.cache.red_left_pad
        return 0 <= offset < self.objects * self.cache.size and offset % self.cache.size == 0


class Taken(NamedTuple):
    """A slab that a node gives to a CPU."""

    pfn: int
    #: Its free objects, the next to be allocated last, if the CPU takes them, too; else they stay.
    freelist: tuple[int, ...]


class _Heads(Mapping[int, int]):
    """The first frame of the slab that a frame belongs to (compound_head)."""

    def __init__(self, slabs: NodeSlabs) -> None:
        self._slabs = slabs

    def __getitem__(self, frame: int) -> int:
        row = self._slabs.place.find(frame)
        pfn = int(self._slabs.place.data.slabs[row, SLAB_PFN]) if row >= 0 else NONE
        if pfn not in self._slabs.slabs:
            raise KeyError(frame)
        return pfn

    def __iter__(self) -> Iterator[int]:
        for slab in self._slabs.slabs.values():
            yield from range(slab.pfn, slab.pfn + (1 << slab.order))

    def __len__(self) -> int:
        return sum(1 << slab.order for slab in self._slabs.slabs.values())


class NodeSlabs:
    """The slabs of all caches in a node's memory."""

    def __init__(
        self, nid: int, free_pages: Callable[[int, int], None], place: SlubPlace, lineage: int = 0
    ) -> None:
        """None yet. `free_pages` gives the pages of a slab back: first frame, order."""
        self.nid = nid
        self.place = place
        self.lineage = lineage
        self._free_pages = free_pages
        #: By the first frame.
        self.slabs: dict[int, Slab] = {}
        self.heads: Mapping[int, int] = _Heads(self)
        #: First frames of slabs of SLAB_TYPESAFE_BY_RCU caches without objects, the oldest first: their pages
        #: go back when a grace period is over.
        self.rcu: deque[int] = deque()

    def virt_to_slab(self, address: int) -> Slab | None:
        """The slab of an object; None: the page is no slab's."""
        head = self.heads.get(virt_to_pfn(address))
        return None if head is None else self.slabs[head]

    def add(self, cache: SlubCache, pfn: int, order: int, objects: int) -> Slab:
        """Pages become a slab, all of whose objects are in use and of the own home (__folio_set_slab)."""
        place = self.place
        ref = SlabRef(pfn, self.nid, self.lineage)
        row = place.add_slab(place.row_of(cache), ref, order, objects, here=True, home=OWN_HOME)
        slab = self.slabs[pfn] = Slab(cache, place, row)
        return slab

    def collect(self) -> None:
        """Slabs that the last call has emptied go back to the page allocator (free_slab)."""
        for row in self.place.discarded():
            self.free_slab(self.slabs[int(self.place.data.slabs[row, SLAB_PFN])])

    def free_slab(self, slab: Slab) -> None:
        """The pages go back to the page allocator, at once or after a grace period (free_slab)."""
        if SlabFlag.TYPESAFE_BY_RCU in slab.cache.flags:
            self.rcu.append(slab.pfn)
        else:
            self._give_back(slab)

    def rcu_callbacks(self) -> None:
        """A grace period is over for all slabs that wait (rcu_free_slab)."""
        while self.rcu:
            self._give_back(self.slabs[self.rcu.popleft()])

    def _give_back(self, slab: Slab) -> None:
        """Pages are a slab no more (__free_slab)."""
        self._free_pages(slab.pfn, slab.order)
        del self.slabs[slab.pfn]
        self.place.remove_slab(slab.row)


class KmemCacheNode:
    """What a node has of one cache (struct kmem_cache_node)."""

    def __init__(self, cache: SlubCache, slabs: NodeSlabs) -> None:
        self.cache = cache
        #: CPUs get objects one by one, no slabs (kmem_cache_debug).
        self.debug = bool(cache.flags & DEBUG_FLAGS)
        self._slabs = slabs
        self._place = slabs.place
        self._k = self._place.row_of(cache)
        self._n = self._place.node_of[slabs.nid]

    def _field(self, column: int) -> int:
        return int(self._place.data.nodes[self._k, self._n, column])

    @property
    def partial(self) -> list[int]:
        """First frames of slabs with free objects that no CPU has, the first to be used first."""
        slabs = self._place.data.slabs
        return [int(slabs[row, SLAB_PFN]) for row in self._place.chain(self._field(NODE_FIRST))]

    @partial.setter
    def partial(self, pfns: Sequence[int]) -> None:
        """Make this the list."""
        rows = [self.slab(pfn).row for pfn in pfns]
        slabs, node = self._place.data.slabs, self._place.data.nodes[self._k, self._n]
        for row, before, after in zip(rows, [NONE, *rows], [*rows[1:], NONE], strict=False):
            slabs[row, [SLAB_PREV, SLAB_NEXT]] = before, after
        node[[NODE_FIRST, NODE_LAST]] = (rows[0], rows[-1]) if rows else NONE
        node[NODE_NR_PARTIAL] = len(rows)

    @property
    def nr_partial(self) -> int:
        """Length of the partial list."""
        return self._field(NODE_NR_PARTIAL)

    @property
    def nr_slabs(self) -> int:
        """Slabs, but for those that wait for a grace period."""
        return self._field(NODE_NR_SLABS)

    @property
    def total_objects(self) -> int:
        """Objects of these slabs."""
        return self._field(NODE_OBJECTS)

    def count_slab(self, objects: int) -> None:
        """A slab with so many objects is there (inc_slabs_node)."""
        self._place.data.nodes[self._k, self._n, [NODE_NR_SLABS, NODE_OBJECTS]] += 1, objects

    def slab(self, pfn: int) -> Slab:
        """The slab that begins at a frame."""
        return self._slabs.slabs[pfn]

    def count_free(self) -> int:
        """Free objects of the slabs on the partial list (count_partial of count_free)."""
        slabs = self._place.data.slabs
        rows = list(self._place.chain(self._field(NODE_FIRST)))
        return int((slabs[rows, SLAB_OBJECTS] - slabs[rows, SLAB_INUSE]).sum())

    def new_slab(self, pfn: int, order: int, indexes: Sequence[int], home: int = OWN_HOME) -> tuple[int, ...]:
        """Pages become a slab of the asking CPU, which gets all its objects; with debugging only one.

        `indexes` are numbers of objects in the order in which they are to be allocated. The result has the
        next object last (the end of allocate_slab, alloc_single_from_new_slab).
        """
        slab = self._slabs.add(self.cache, pfn, order, len(indexes))
        self._place.room(len(indexes))
        self._place.data.objects[: len(indexes)] = indexes
        return tuple(self._place.got(slub_new_slab(self._place.address, slab.row, home)))

    def get_partial_node(self, home: int = OWN_HOME) -> list[Taken]:
        """What a CPU gets of the partial list: a slab with its objects, then slabs for its own partial list.

        Of the latter there are as many as make more than half of what the CPU keeps (get_partial_node). With
        debugging there is one slab with one object, and the slab stays (alloc_single_from_partial).
        """
        place = self._place
        wanted = 2 + int(place.data.caches[self._k, CACHE_CPU_PARTIAL])
        place.room(max(self.cache.objects, min(wanted, self.nr_partial)))
        first = place.data.slabs[self._field(NODE_FIRST)]
        free = 1 if self.debug else int(first[SLAB_OBJECTS] - first[SLAB_INUSE])
        count = slub_get_partial(place.address, self._k, self._n, home)
        pfns = place.data.slabs[place.data.rows[:count], SLAB_PFN].tolist()
        return [Taken(pfn, () if at else tuple(place.got(free))) for at, pfn in enumerate(pfns)]

    def get_freelist(self, pfn: int, home: int = OWN_HOME) -> tuple[int, ...]:
        """The free objects of a frozen slab go to its CPU; if there are none it is frozen no more."""
        self._place.room(self.cache.objects)
        return tuple(self._place.got(slub_get_freelist(self._place.address, self.slab(pfn).row, home)))

    def slab_free(self, pfn: int, objects: Sequence[int], home: int = OWN_HOME) -> bool:
        """Objects come back that are not on their CPU's list; the first is the next to be allocated.

        True: the slab was full, and is frozen now for the partial list of the CPU of `home` that frees
        (__slab_free). With debugging, or if `home` is 0, it goes to the node's list instead.
        """
        count = self._place.put(objects)
        frozen = bool(slub_slab_free(self._place.address, self.slab(pfn).row, count, home))
        self._slabs.collect()
        return frozen

    def take_back(self, pfn: int, objects: Sequence[int]) -> None:
        """Objects come back that nobody frees, as their node is gone: no CPU gets the slab for it."""
        self.slab_free(pfn, objects[::-1], 0)

    def deactivate_slab(self, pfn: int, freelist: Iterable[int]) -> None:
        """A CPU gives back its slab with the objects left on its list, the next to be allocated last.

        They stand before what others freed meanwhile. The slab goes to the end of the partial list if others
        did, and to its head if not; it is freed if it is empty and the node has enough.
        """
        count = self._place.put(list(freelist))
        slub_deactivate_slab(self._place.address, self.slab(pfn).row, count)
        self._slabs.collect()

    def unfreeze_partials(self, pfns: Iterable[int]) -> None:
        """A CPU gives back slabs of its partial list, in the order of that list (__unfreeze_partials).

        Empty ones are freed at the end, the last first.
        """
        rows = [self.slab(pfn).row for pfn in pfns]
        self._place.room(len(rows))
        self._place.data.rows[: len(rows)] = rows
        slub_unfreeze(self._place.address, len(rows))
        self._slabs.collect()

    def shrink(self) -> bool:
        """Empty slabs are freed, and the partial list is sorted: those with fewest free objects come first.

        The result says whether slabs are left (__kmem_cache_do_shrink).
        """
        promote: list[list[int]] = [[] for _ in range(SHRINK_PROMOTE_MAX)]
        discard: list[Slab] = []
        rest: list[int] = []
        for pfn in self.partial:
            slab = self.slab(pfn)
            free = slab.objects - slab.inuse
            if free == slab.objects:
                discard.insert(0, slab)
            elif free <= SHRINK_PROMOTE_MAX:
                promote[free - 1].insert(0, pfn)
            else:
                rest.append(pfn)
        self.partial = [pfn for pfns in promote for pfn in pfns] + rest
        self._discard(discard)
        return self.nr_slabs > 0

    def free_partial(self) -> list[Slab]:
        """Empty slabs are freed, the last first; those of the partial list that have objects are returned."""
        slabs = [self.slab(pfn) for pfn in self.partial]
        self.partial = [slab.pfn for slab in slabs if slab.inuse]
        self._discard([slab for slab in reversed(slabs) if not slab.inuse])
        return [self.slab(pfn) for pfn in self.partial]

    def _discard(self, slabs: Iterable[Slab]) -> None:
        for slab in slabs:
            slub_discard_slab(self._place.address, slab.row)
        self._slabs.collect()
