"""What passes between the nodes of a machine for objects of slab caches, as plain data."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from numa_service.mm.slab.slub_place import SlabRef
from numa_service.node.owners import Owner

#: How the name begins under which pages that kmalloc gives whole are known, before their order
#: (kmalloc_large). No cache has such a name.
LARGE = "kmalloc-large-"
#: How names of caches of kmalloc begin; no other cache has such a name.
KMALLOC = "kmalloc-"
#: KMALLOC_MAX_ORDER: kmalloc gives no more pages at once.
MAX_LARGE_ORDER = 10


class GiveBack(NamedTuple):
    """Slabs or objects of another node that go back to it: the fields of ops.KmemCall."""

    call: str
    cache: str
    #: The node, and its lineage when they were got.
    nid: int
    lineage: int
    #: First pages of slabs.
    pfns: tuple[int, ...] = ()
    #: Packed addresses.
    objects: bytes = b""


class CpuAlloc(NamedTuple):
    """What a CPU got without asking anybody, and what is needed for more."""

    #: Addresses, run by run of one slab.
    got: list[tuple[SlabRef, list[int]]]
    back: list[GiveBack]
    #: "": nothing; "slab": a new slab. Of SLUB, "freelist": the free objects of `slab`; "get_partial":
    #: partial slabs. Of the others, "take": objects for the caller.
    need: str = ""
    slab: SlabRef | None = None
    #: The node that has it.
    nid: int = -1
    #: At most so many objects; 0: all of a slab.
    most: int = 0
    #: All that comes is the caller's; else only the last object, and the others are for the CPU.
    direct: bool = False
    #: What the kernel prints of free objects that were written to.
    report: tuple[str, ...] = ()


class CpuFree(NamedTuple):
    """What came back of objects that a CPU frees."""

    #: What goes to other nodes now.
    back: list[GiveBack]
    freed: list[int]
    #: Packed addresses of the objects that are to be freed after that.
    left: bytes


class KmemAnswer(NamedTuple):
    """What the node of a slab answers to a KmemCall."""

    #: The node's lineage: slabs and objects of an earlier one are lost.
    lineage: int
    pfns: tuple[int, ...] = ()
    #: Packed addresses.
    objects: bytes = b""
    #: The CPU that frees has the slab now.
    frozen: bool = False
    #: What the kernel prints of a wrong free, or of free objects that were written to.
    report: tuple[str, ...] = ()


class Shutdown(NamedTuple):
    """What a node finds of a cache that is destroyed."""

    #: Slabs that have objects.
    slabs: int = 0
    #: What the kernel prints of them.
    report: tuple[str, ...] = ()


class Question(NamedTuple):
    """What a home asks of the node that has a slab: the fields of ops.KmemCall, objects unpacked."""

    home: Owner
    call: str
    cache: str
    cpu: int
    lineage: int
    pfns: tuple[int, ...]
    objects: list[int]
    #: At most so many objects are wanted.
    most: int


class SlabView(NamedTuple):
    """A slab as its first page shows it."""

    cache: str
    #: Objects that are not free in it, and all; None: not counted, as by SLOB.
    inuse: int | None
    objects: int | None
    #: The next object to be allocated.
    freelist: int | None
    #: The list that it is on, by name and with the first pages of all that are on it; None: on none.
    listed: tuple[str, list[int]] | None


#: Calls that give slabs or objects to the asker.
GIVING = frozenset(("get_partial", "get_freelist", "take"))


def pack(addresses: Sequence[int]) -> bytes:
    """Addresses as little-endian uint64. OverflowError: one has not 64 bits."""
    return array("Q", addresses).tobytes()


def unpack(objects: bytes) -> list[int]:
    """The addresses that :func:`pack` packed."""
    return array("Q", objects).tolist()


def large_order(name: str) -> int | None:
    """The order of pages that kmalloc gives whole, from the name under which they are known."""
    order = name.removeprefix(LARGE)
    if order == name or not order.isdecimal() or int(order) > MAX_LARGE_ORDER or str(int(order)) != order:
        return None
    return int(order)
