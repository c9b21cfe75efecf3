"""Which caches become one: the merging that SLUB and SLAB share (``mm/slab_common.c``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import X86_64, KmemCacheArgs, SlabArch, align_up, calculate_alignment

#: SLAB_NEVER_MERGE.
NEVER_MERGE = (
    SlabFlag.RED_ZONE
    | SlabFlag.POISON
    | SlabFlag.STORE_USER
    | SlabFlag.TRACE
    | SlabFlag.TYPESAFE_BY_RCU
    | SlabFlag.NOLEAKTRACE
    | SlabFlag.FAILSLAB
    | SlabFlag.NO_MERGE
)

#: SLAB_MERGE_SAME: caches merge only if they agree on these. SLAB_DEBUG_FREE of 3.0 is CONSISTENCY_CHECKS.
MERGE_SAME = SlabFlag.RECLAIM_ACCOUNT | SlabFlag.CACHE_DMA | SlabFlag.CACHE_DMA32 | SlabFlag.ACCOUNT


class Mergeable(Protocol):
    """What merging asks of a cache that exists."""

    args: KmemCacheArgs
    #: With what the command line added.
    flags: SlabFlag
    #: Bytes from one object to the next.
    size: int
    align: int
    #: The boot code forbids that others merge with it (a negative refcount).
    exempt: bool


Cache = TypeVar("Cache", bound=Mergeable)


def slab_unmergeable(cache: Mergeable, *, usercopy: bool) -> bool:
    """Whether a cache stays alone (slab_unmergeable); `usercopy`: a cache with a usersize does."""
    if cache.exempt or cache.args.ctor or cache.flags & NEVER_MERGE:
        return True
    return usercopy and cache.args.usersize > 0


def find_mergeable(
    caches: Iterable[Cache],
    args: KmemCacheArgs,
    flags: SlabFlag,
    *,
    usercopy: bool,
    divides: bool,
    arch: SlabArch = X86_64,
) -> Cache | None:
    """The first of the caches that a new one can share, or None (find_mergeable).

    `caches` are in the order in which the kernel looks at them. `flags` are those of the new cache with what
    the command line added. `divides`: alignments have to divide each other, which only SLAB asks.
    """
    if args.ctor or flags & NEVER_MERGE or (usercopy and args.usersize):
        return None
    size = align_up(args.size, arch.word)
    align = calculate_alignment(args.flags, args.align, size, arch)
    size = align_up(size, align)
    for cache in caches:
        if slab_unmergeable(cache, usercopy=usercopy) or size > cache.size:
            continue
        if (flags ^ cache.flags) & MERGE_SAME:
            continue
        if cache.size % align or cache.size - size >= arch.word:
            continue
        if divides and cache.align % align:
            continue
        return cache
    return None
