"""What one place knows of SLUB: a machine in one process, or one node of a machine.

A place has arrays (``compiled/data.py``) with a row for each cache, slab and object; here is what makes them
grow, and what Python sees of a row. Slabs of other places are rows, too, while a CPU of this one has them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from numa_service.mm.slab.compiled.data import (
    CACHE_CPU_PARTIAL,
    CACHE_DEBUG,
    CACHE_MIN_PARTIAL,
    CACHE_OBJECTS,
    CACHE_PAD,
    CACHE_SIZE,
    CACHE_SPARE,
    CPU_NR_PARTIAL,
    CTL_BACK,
    CTL_DIRECT_MAP,
    CTL_DISCARD,
    CTL_FRAMES,
    CTL_GROUP,
    CTL_LEFT,
    CTL_NEED,
    CTL_ROW,
    CTL_RUNS,
    CTL_WRONG,
    I64,
    NODE_FIRST,
    NODE_LAST,
    NONE,
    SLAB_ADDRESS,
    SLAB_CACHE,
    SLAB_FIRST,
    SLAB_NEXT,
    SLAB_NODE,
    SLAB_OBJECTS,
    alloc_slub_data,
)
from numa_service.mm.slab.compiled.lists import (
    slub_add_slab,
    slub_enter_all_frames,
    slub_find,
    slub_free_list,
    slub_home,
    slub_remove_slab,
)
from numa_service.mm.slab.flags import DEBUG_FLAGS
from numa_service.mm.slab.kmem_cache import PAGE_SHIFT, X86_64, SlabArch
from numa_service.mm.slab.pages import virt_to_pfn
from numa_service.mm.slab.slub import SlubCache

_ADDRESSES = 1 << 64
#: More than any node has; min_partial is a number of 64 bits.
_MANY_SLABS = 1 << 62


class SlabRef(NamedTuple):
    """A slab as a CPU knows it."""

    pfn: int
    nid: int
    #: Lineage of the node when the slab was got, where nodes can be restarted one by one.
    lineage: int = 0


def signed(address: int) -> int:
    """The int64 with the bits of an address of 64 bits."""
    return address - _ADDRESSES if address >= _ADDRESSES >> 1 else address


def cpu_partial_slabs(cache: SlubCache) -> int:
    """Slabs that a CPU's partial list should have at most (slub_set_cpu_partial)."""
    return -(-cache.cpu_partial * 2 // cache.objects)


class SlubPlace:
    """The arrays of a place, and where nodes, CPUs and caches have their rows in them."""

    def __init__(self, nids: Iterable[int], cpus: Iterable[int], arch: SlabArch = X86_64) -> None:
        """No cache has been used yet."""
        self.arch = arch
        #: Which of the arrays' nodes and CPUs has which number.
        self.node_of = {nid: n for n, nid in enumerate(nids)}
        self.cpu_of = {cpu: c for c, cpu in enumerate(cpus)}
        self.data = alloc_slub_data(len(self.node_of), len(self.cpu_of))
        #: What a kernel is passed.
        self.address = self.data.address
        self._ctl = self.data.ctl.data
        self._ctl[CTL_DIRECT_MAP] = signed(arch.page_offset)
        self._see()
        #: Slabs by their row.
        self._refs: list[SlabRef] = []
        #: Caches by their row.
        self.caches: list[SlubCache] = []
        self._row_of: dict[int, int] = {}
        #: Rows of caches that are no more, by the number of objects of a slab.
        self._spare: dict[int, list[int]] = {}
        self._objects = 0

    def _see(self) -> None:
        """See what calls are about without NumPy, which takes longer for few objects."""
        self._objects_seen = self.data.objects.view(np.uint64).data
        self._bytes_seen = self.data.objects.view(np.uint8).data
        self._rows_seen = self.data.rows.data

    # -- rows

    def row_of(self, cache: SlubCache) -> int:
        """The row of a cache, which is made if it has none."""
        # a cache that is in `caches` keeps its id
        row = self._row_of.get(id(cache))
        return self._add_cache(cache) if row is None else row

    def _add_cache(self, cache: SlubCache) -> int:
        spare = self._spare.get(cache.objects)
        if spare:
            row = spare.pop()
            self.caches[row] = cache
        else:
            row = len(self.caches)
            self.caches.append(cache)
            if row == len(self.data.caches):
                self._grow(caches=2 * row, nodes=2 * row, cpus=2 * row)
            self.data.caches[row, CACHE_SPARE] = NONE
        self._row_of[id(cache)] = row
        self.data.caches[row, [CACHE_SIZE, CACHE_OBJECTS, CACHE_PAD, CACHE_DEBUG]] = (
            cache.size,
            cache.objects,
            cache.red_left_pad,
            bool(cache.flags & DEBUG_FLAGS),
        )
        self.set_limits(row, cache.min_partial, cpu_partial_slabs(cache))
        self.data.nodes[row][:, [NODE_FIRST, NODE_LAST]] = NONE
        self.data.cpus[row][:, :3] = NONE  # CPU_SLAB, CPU_FREE, CPU_PARTIAL
        self.data.cpus[row][:, CPU_NR_PARTIAL] = 0
        return row

    def remove_cache(self, cache: SlubCache) -> None:
        """A cache without slabs is no more; its row is used for another with slabs of as many objects."""
        row = self._row_of.pop(id(cache))
        self._spare.setdefault(cache.objects, []).append(row)

    def set_limits(self, row: int, min_partial: int, cpu_partial: int) -> None:
        """How many slabs a node's partial list has at least, and that of a CPU at most."""
        min_partial = min(min_partial, _MANY_SLABS)
        self.data.caches[row, [CACHE_MIN_PARTIAL, CACHE_CPU_PARTIAL]] = min_partial, cpu_partial

    def _grow(self, **lengths: int) -> None:
        """Make arrays longer."""
        grown = {}
        for name, length in lengths.items():
            old = getattr(self.data, name)
            grown[name] = np.zeros((length, *old.shape[1:]), dtype=old.dtype)
            grown[name][: len(old)] = old
        self.data = self.data._replace(**grown)
        self.address = self.data.address
        self._see()

    def add_slab(
        self,
        row: int,
        slab: SlabRef,
        order: int,
        objects: int,
        *,
        here: bool,
        home: int = 0,
    ) -> int:
        """A row for a slab of a cache, all of whose objects `home` has in use.

        If it is `here` its pages are marked as a slab's.
        """
        at = int(self.data.caches[row, CACHE_SPARE])
        if at >= 0:
            self.data.caches[row, CACHE_SPARE] = self.data.slabs[at, SLAB_NEXT]
            self._refs[at] = slab
        else:
            at = len(self._refs)
            self._refs.append(slab)
            first, self._objects = self._objects, self._objects + self.caches[row].objects
            if at == len(self.data.slabs):
                self._grow(slabs=2 * at)
            if self._objects > len(self.data.link):
                length = 2 * max(self._objects, len(self.data.link))
                self._grow(link=length, home=length)
            self.data.slabs[at, [SLAB_FIRST, SLAB_NODE]] = first, NONE
        if here and 2 * (self._ctl[CTL_FRAMES] + (1 << order)) > len(self.data.frames):
            self._grow_frames(self._ctl[CTL_FRAMES] + (1 << order))
        n = self.node_of[slab.nid] if here else NONE
        of = slab.nid, slab.pfn, order, objects, slab.lineage, home
        return slub_add_slab(self.address, at, row, n, *of)

    def _grow_frames(self, frames: int) -> None:
        """Make room for so many pages of slabs."""
        self.data = self.data._replace(frames=np.zeros((2 << frames.bit_length(), 2), dtype=np.int64))
        self.address = self.data.address
        slub_enter_all_frames(self.address, len(self._refs))

    def remove_slab(self, at: int) -> None:
        """A slab's row can be used for another of its cache."""
        slub_remove_slab(self.address, at)

    def ref(self, row: int) -> SlabRef:
        """The slab of a row."""
        return self._refs[row]

    def find(self, frame: int) -> int:
        """The row of the slab that has a page, or NONE."""
        return slub_find(self.address, frame) if 0 <= frame < _ADDRESSES >> PAGE_SHIFT else NONE

    def home_of(self, address: int) -> int:
        """Which home has an object that is not in its slab; 0: none, or no object begins there."""
        return slub_home(self.address, signed(address)) if 0 <= address < _ADDRESSES else 0

    def object_of(self, row: int, address: int) -> int:
        """The object of a slab that begins at an address."""
        slab = self.data.slabs[row]
        size = self.caches[slab[SLAB_CACHE]].size
        return int(slab[SLAB_FIRST]) + (signed(address) - int(slab[SLAB_ADDRESS])) // size

    def set_home(self, address: int, home: int) -> None:
        """Note which home has an object."""
        row = self.find(virt_to_pfn(address))
        self.data.home[self.object_of(row, address)] = home

    # -- what calls are about, and what they leave

    def room(self, count: int) -> None:
        """Calls can be about so many objects and slabs."""
        if count > len(self.data.objects):
            length = 2 * count
            self._grow(objects=length, rows=length, which=length)

    def put(self, addresses: Sequence[int]) -> int:
        """The next call is about these objects: how many. OverflowError: an address has not 64 bits."""
        return self.put_packed(array("Q", addresses).tobytes())

    def put_packed(self, objects: bytes) -> int:
        """The next call is about these objects, whose addresses are packed: how many."""
        count = len(objects) // 8
        self.room(count)
        self._bytes_seen[: len(objects)] = objects
        return count

    def got(self, count: int, first: int = 0) -> list[int]:
        """The objects that the last call was about."""
        return self._objects_seen[first : first + count].tolist()

    def got_packed(self, count: int, first: int = 0) -> bytes:
        """Return the same objects as packed 64-bit words."""
        return bytes(self._bytes_seen[8 * first : 8 * (first + count)])

    def row_at(self, at: int) -> int:
        """The slab of the object with this number among those that the last call was about."""
        return self._rows_seen[at]

    @property
    def need(self) -> int:
        """NEED_*: what the last allocation could not go on without."""
        return self._ctl[CTL_NEED]

    @property
    def needed_slab(self) -> int:
        """The slab that `need` is about."""
        return self._ctl[CTL_ROW]

    @property
    def wrong(self) -> int:
        """Which object of the last call is wrong."""
        return self._ctl[CTL_WRONG]

    @property
    def left(self) -> int:
        """How many objects of the last call are left to be freed later."""
        return self._ctl[CTL_LEFT]

    @property
    def group(self) -> int:
        """How many objects of the last call go to another place together."""
        return self._ctl[CTL_GROUP]

    def runs(self, count: int) -> list[tuple[SlabRef, list[int]]]:
        """The `count` objects that were allocated, run by run of one slab."""
        if self._ctl[CTL_RUNS] == 1:
            return [(self._refs[self._rows_seen[0]], self.got(count))]
        begins: list[int] = self.data.which[: self._ctl[CTL_RUNS]].tolist()
        ends = [*begins, count][1:]
        return [
            (self._refs[self._rows_seen[a]], self.got(b - a, a)) for a, b in zip(begins, ends, strict=True)
        ]

    def discarded(self) -> list[int]:
        """Slabs that have become empty and go back to the page allocator, the first first; asked once."""
        return self._taken_off(CTL_DISCARD) if self._ctl[CTL_DISCARD] >= 0 else []

    def back(self) -> list[int]:
        """Slabs of other places that came off a CPU's partial list, the first first; asked once."""
        return self._taken_off(CTL_BACK) if self._ctl[CTL_BACK] >= 0 else []

    def _taken_off(self, word: int) -> list[int]:
        rows = list(self.chain(self._ctl[word]))
        self._ctl[word] = NONE
        return rows

    def chain(self, row: int) -> Iterator[int]:
        """Slabs linked by SLAB_NEXT."""
        while row >= 0:
            yield row
            row = int(self.data.slabs[row, SLAB_NEXT])

    # -- free lists as Python sees them

    def free_list(self, row: int, first: int) -> list[int]:
        """Addresses of the objects of a slab that are on a list, the next to be allocated last."""
        self.room(int(self.data.slabs[row, SLAB_OBJECTS]))
        return self.got(slub_free_list(self.address, row, first))

    def make_list(self, row: int, addresses: Iterable[int]) -> int:
        """Link objects of a slab, the next to be allocated last; the first of the list."""
        first = NONE
        for address in addresses:
            which = self.object_of(row, address)
            self.data.link[which] = first
            first = which
        return first

    def objects_of(self, row: int) -> tuple[int, I64]:
        """The first object of a slab, and addresses of all as int64."""
        slab = self.data.slabs[row]
        size = self.caches[slab[SLAB_CACHE]].size
        return int(slab[SLAB_FIRST]), slab[SLAB_ADDRESS] + size * np.arange(slab[SLAB_OBJECTS])
