"""The state of SLUB as arrays: struct kmem_cache, kmem_cache_node, kmem_cache_cpu and slab.

A cache, a slab and an object are a row each. Lists are links between rows, as they are in a kernel, where
free objects themselves hold the link to the next: so all free objects of a slab go to a CPU in one step.
Addresses are int64 with the bits of the address. Rows of what is no more are used again; arrays never shrink.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import intrinsic

from numa_service.mm.array_table import layout_of, table_of
from numa_service.mm.pgref import array_ref

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

#: No row: the end of a list.
NONE = -1
#: `link` of an object that is on no list: it is in use, or on the list of a CPU of another place.
IN_USE = -2
#: `link` of an object that the running call frees.
FREEING = -3

# columns of `caches`
CACHE_SIZE = 0  # bytes from one object to the next
CACHE_OBJECTS = 1  # of a slab of the usual order
CACHE_PAD = 2  # bytes from the start of a slab to its first object (red_left_pad)
CACHE_MIN_PARTIAL = 3
CACHE_CPU_PARTIAL = 4  # slabs of a CPU's partial list; 0: it has none
CACHE_DEBUG = 5  # 1: CPUs get objects one by one, no slabs (kmem_cache_debug)
CACHE_SPARE = 6  # rows of slabs that are no more, linked by SLAB_NEXT
NR_CACHE = 8

# columns of `nodes`: the partial list of a cache on a node, and what is counted
NODE_FIRST = 0
NODE_LAST = 1
NODE_NR_PARTIAL = 2
NODE_NR_SLABS = 3
NODE_OBJECTS = 4
NR_NODE = 5

# columns of `cpus`
CPU_SLAB = 0
CPU_FREE = 1  # free objects of that slab, the next to be allocated first
CPU_PARTIAL = 2  # partly free slabs, the next to be used first, linked by SLAB_NEXT
CPU_NR_PARTIAL = 3
NR_CPU = 4

# columns of `slabs`
SLAB_CACHE = 0
SLAB_FREE = 1  # free objects, the next to be allocated first
SLAB_INUSE = 2
SLAB_OBJECTS = 3
SLAB_FROZEN = 4
SLAB_NODE = 5  # which of `nodes`; NONE: of a node whose slabs are elsewhere
SLAB_FIRST = 6  # its first object
SLAB_ADDRESS = 7  # of that object
SLAB_NEXT = 8  # on a partial list, of a node or a CPU
SLAB_PREV = 9  # on a node's
SLAB_NID = 10
SLAB_PFN = 11
SLAB_ORDER = 12
SLAB_LINEAGE = 13
SLAB_HOME = 14  # a CPU of which home has it; 0: none
NR_SLAB = 16

# words of `ctl`: what a call has to say besides its result
CTL_NEED = 0  # NEED_*
CTL_ROW = 1  # the slab that is meant by that
CTL_DISCARD = 2  # slabs that have become empty and go back to the page allocator, linked by SLAB_NEXT
CTL_DISCARD_LAST = 3
CTL_BACK = 4  # slabs of other places that come off a CPU's partial list, linked by SLAB_NEXT
CTL_BACK_LAST = 5
CTL_WRONG = 6  # index of the object that is wrong
CTL_GROUP = 7  # objects in `objects` that go to another place together
CTL_FRAMES = 8  # entries of `frames` that are taken
CTL_RUNS = 9  # runs of objects of one slab that were allocated; `which` says where each begins
CTL_DIRECT_MAP = 10  # where the kernel's linear map begins, with the sign that the bits have in an int64
CTL_LEFT = 11  # objects that are left to be freed later
NR_CTL = 12

# what an allocation cannot go on without
NEED_NOTHING = 0
NEED_FREELIST = 1  # the free objects of slab CTL_ROW, which is of another place; the CPU has let go of it
NEED_PARTIAL = 2  # partial slabs of the node that is asked first, which is another place
NEED_SLAB = 3  # a new slab
NEED_DEACTIVATE = 4  # that the CPU's slab goes back: it is of another place, and of another node than wanted
NEED_PUT_BACK = 5  # the same with the first of its partial list

# what is wrong with a free
FREE_OK = 0
FREE_NO_SLAB = 1
FREE_WRONG_CACHE = 2
FREE_INVALID_POINTER = 3
FREE_ALREADY_FREE = 4
FREE_TWICE = 5  # named twice in one call


class _Arrays(NamedTuple):
    """The fields of :class:`SlubData`. [K] cache, [N] node, [C] CPU, [S] slab, [O] object."""

    caches: I64  # [K, NR_CACHE]
    nodes: I64  # [K, N, NR_NODE]
    cpus: I64  # [K, C, NR_CPU]
    slabs: I64  # [S, NR_SLAB]
    #: The next free object of the list that an object is on, or NONE; IN_USE. [O]
    link: I32
    #: Which home has an object that is not in its slab; 0: it is in it. [O]
    home: I32
    #: Which slab a page is of: an open hash of page numbers + 1 and rows of slabs. [F, 2]; F: a power of two
    frames: I64
    ctl: I64
    #: Objects that a call is about, and the slab and the row of each.
    objects: I64
    rows: I64
    which: I64


class SlubData(_Arrays):
    """The arrays, and the table of their addresses by which kernels find them."""

    @cached_property
    def table(self) -> I64:
        """The address of each array's data followed by its shape (array_table.py)."""
        return table_of("SlubData", self._asdict(), LAYOUT)

    @cached_property
    def address(self) -> int:
        """Address of the table, which is what a kernel is passed; valid while this SlubData exists."""
        return self.table.ctypes.data


def alloc_slub_data(nodes: int, cpus: int) -> SlubData:
    """Arrays for so many nodes and CPUs, with room for few caches and slabs."""

    def z(*shape: int) -> I64:
        return np.zeros(shape, dtype=np.int64)

    ctl = z(NR_CTL)
    ctl[[CTL_DISCARD, CTL_BACK]] = NONE
    return SlubData(
        caches=z(8, NR_CACHE),
        nodes=z(8, nodes, NR_NODE),
        cpus=z(8, cpus, NR_CPU),
        slabs=z(16, NR_SLAB),
        link=np.zeros(512, dtype=np.int32),
        home=np.zeros(512, dtype=np.int32),
        frames=z(64, 2),
        ctl=ctl,
        objects=z(64),
        rows=z(64),
        which=z(64),
    )


LAYOUT = layout_of(alloc_slub_data(1, 1)._asdict())


class SlubRefType(types.Type):
    """Numba's type of a :class:`SlubData`."""

    def __init__(self) -> None:
        super().__init__(name="SlubRef")


SLUBREF = SlubRefType()
array_ref(SLUBREF, SlubData, LAYOUT)

if TYPE_CHECKING:

    def slub_at(address: int) -> SlubData:
        """Inside a kernel: the SlubData whose `address` this is."""

else:

    @intrinsic
    def slub_at(typingctx, address):
        """Inside a kernel: the SlubData whose ``SlubData.address`` this is."""

        def generate(context, builder, signature, args):
            return args[0]

        return SLUBREF(types.int64), generate
