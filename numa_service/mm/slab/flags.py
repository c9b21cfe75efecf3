"""Flags of a slab cache, with the names and the values of ``include/linux/slab.h`` of 6.1."""

from __future__ import annotations

from enum import IntFlag


class SlabFlag(IntFlag):
    """SLAB_*: what the creator of a cache asks for, and what debugging adds."""

    #: Metadata is checked at each allocation and free: "F" of ``slub_debug``.
    CONSISTENCY_CHECKS = 0x100
    #: Red zones around objects: "Z".
    RED_ZONE = 0x400
    #: Free objects are filled with a pattern: "P".
    POISON = 0x800
    #: A cache that kmalloc allocates from.
    KMALLOC = 0x1000
    #: Objects are aligned to cache lines, small ones to a part of a line.
    HWCACHE_ALIGN = 0x2000
    #: Pages come from ZONE_DMA.
    CACHE_DMA = 0x4000
    #: Pages come from ZONE_DMA32.
    CACHE_DMA32 = 0x8000
    #: Who allocated and who freed an object is stored behind it: "U".
    STORE_USER = 0x10000
    #: Objects can be reclaimed, and their pages are mobile as such.
    RECLAIM_ACCOUNT = 0x20000
    #: Pages are freed a grace period later, so that objects are read without a lock. It was called
    #: SLAB_DESTROY_BY_RCU until 4.11.
    TYPESAFE_BY_RCU = 0x80000
    #: Allocations and frees are logged: "T".
    TRACE = 0x200000
    #: kmemleak does not track the objects.
    NOLEAKTRACE = 0x800000
    #: The creator forbids merging.
    NO_MERGE = 0x1000000
    #: Allocations may be made to fail: "A".
    FAILSLAB = 0x2000000
    #: Objects are accounted to the memory cgroup.
    ACCOUNT = 0x4000000


#: No flag.
NO_FLAGS = SlabFlag(0)

#: SLAB_DEBUG_FLAGS: a cache with one of them has no per-CPU slabs (kmem_cache_debug).
DEBUG_FLAGS = (
    SlabFlag.RED_ZONE | SlabFlag.POISON | SlabFlag.STORE_USER | SlabFlag.TRACE | SlabFlag.CONSISTENCY_CHECKS
)

#: DEBUG_METADATA_FLAGS: those that make objects larger.
DEBUG_METADATA_FLAGS = SlabFlag.RED_ZONE | SlabFlag.POISON | SlabFlag.STORE_USER

#: DEBUG_DEFAULT_FLAGS: what ``slub_debug`` without letters asks for.
DEBUG_DEFAULT_FLAGS = SlabFlag.CONSISTENCY_CHECKS | SlabFlag.RED_ZONE | SlabFlag.POISON | SlabFlag.STORE_USER
