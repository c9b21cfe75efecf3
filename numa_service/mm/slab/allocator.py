"""The interface of the three slab allocators (``mm/slab.h``, ``mm/slab_common.c``).

SLUB (``slub_alloc.py``), SLAB (``slab_alloc.py``) and SLOB (``slob_alloc.py``) each keep to it. Addresses are
those of the direct map; a CPU is named by its number, a node by its own or by NUMA_NO_NODE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from numa_service.mm.slab.kmem_cache import KmemCacheArgs
from numa_service.mm.slab.pages import NUMA_NO_NODE


@dataclass(frozen=True, slots=True)
class SlabInfo:
    """What /proc/slabinfo says of a cache (struct slabinfo)."""

    name: str
    #: Bytes from one object to the next.
    size: int
    objects_per_slab: int
    #: Pages of a slab are 2 to this power.
    order: int
    #: Objects that are in use, or that a CPU has at hand.
    active_objects: int
    objects: int
    active_slabs: int
    slabs: int
    #: Tunables, which only SLAB has.
    limit: int = 0
    batchcount: int = 0
    shared: int = 0
    #: Objects in the arrays that the CPUs of a node share; only SLAB has those.
    shared_available: int = 0


class SlabAllocator(Protocol):
    """A slab allocator of a machine."""

    def kmem_cache_create(self, args: KmemCacheArgs) -> None:
        """Make a cache, which may be an alias of one that exists. ValueError: the name is taken, or no slab
        can hold an object.
        """

    def kmem_cache_destroy(self, name: str) -> None:
        """A creator needs its cache no more; the last of those that share one ends it.

        Raises SlabBugError with the kernel's report if there are objects: the cache stays, as it was made.
        """

    def kmem_cache_shrink(self, name: str) -> bool:
        """Give back what slabs can be; whether slabs are left."""

    def kmem_cache_alloc(self, name: str, cpu: int, gfp: int, node: int = NUMA_NO_NODE) -> int | None:
        """The address of an object for a CPU; None: there is no memory."""

    def kmem_cache_alloc_bulk(self, name: str, cpu: int, gfp: int, count: int) -> list[int]:
        """So many objects, or none if there is no memory for all of them."""

    def kmem_cache_free(self, name: str, cpu: int, address: int) -> None:
        """An object comes back. Raises SlabBugError if it is not one of this cache that is allocated."""

    def kmem_cache_free_bulk(self, name: str, cpu: int, objects: Sequence[int]) -> None:
        """Objects come back. Raises SlabBugError before anything is freed."""

    def kmalloc(self, size: int, cpu: int, gfp: int, node: int = NUMA_NO_NODE) -> int | None:
        """The address of `size` bytes; ZERO_SIZE_PTR for none; None: there is no memory."""

    def kfree(self, cpu: int, address: int) -> None:
        """Free what kmalloc returned, or an object of a cache; NULL and ZERO_SIZE_PTR are nothing.

        Raises SlabBugError for anything else.
        """

    def rcu_callbacks(self) -> None:
        """A grace period is over for all that waits for one."""

    def slabinfo(self) -> list[SlabInfo]:
        """Each cache, in the order of creation. SLOB has nothing to say: it has no /proc/slabinfo."""
