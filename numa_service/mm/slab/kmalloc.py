"""The size classes of kmalloc, and the caches that they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from numa_service.mm.gfp import Gfp
from numa_service.mm.slab.flags import NO_FLAGS, SlabFlag
from numa_service.mm.slab.kmem_cache import (
    PAGE_SHIFT,
    WORD,
    X86_64,
    KmemCacheArgs,
    SlabArch,
    calculate_alignment,
)

#: Every class has the least alignment (ARCH_KMALLOC_MINALIGN); 3.0.
ALIGN_WORD = 0
#: Powers of two are aligned to their size; since 5.4 (59bb47985c1d).
ALIGN_POWER_OF_TWO = 1
#: Every class is aligned to the largest power of two that divides it; 6.12.
ALIGN_DIVISOR = 2

#: The largest class has two pages, as SLUB and, since 6.1, SLAB have it.
SHIFT_TWO_PAGES = PAGE_SHIFT + 1
#: The largest class is the largest block of pages, 4 MiB: SLAB of 3.0.
SHIFT_MAX_BLOCK = PAGE_SHIFT + 10

#: What of gfp flags asks for which kind of cache, the weightiest first.
_KINDS = (
    (Gfp.DMA, SlabFlag.CACHE_DMA),
    (Gfp.RECLAIMABLE, SlabFlag.RECLAIM_ACCOUNT),
    (Gfp.ACCOUNT, SlabFlag.ACCOUNT),
)


@dataclass(frozen=True, slots=True)
class KmallocType:
    """One kind of kmalloc caches (enum kmalloc_cache_type)."""

    #: What stands before the size in the name: "kmalloc-rcl-".
    prefix: str
    flags: SlabFlag = NO_FLAGS
    #: What stands behind it: "(DMA)".
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class KmemBuckets:
    """The arguments of kmem_buckets_create: a private set of kmalloc caches (since 6.11).

    Of each object, `usersize` bytes from `useroffset` may be copied to user space, as far as it has them.
    """

    name: str
    flags: SlabFlag
    useroffset: int
    usersize: int


@dataclass(frozen=True, slots=True)
class KmallocRules:
    """How a kernel makes its kmalloc caches (create_kmalloc_caches)."""

    #: Smallest class is 2 to this power (KMALLOC_SHIFT_LOW).
    shift_low: int
    #: Largest class is 2 to this power (KMALLOC_SHIFT_HIGH).
    shift_high: int
    #: Kinds, in the order in which they are created.
    types: tuple[KmallocType, ...]
    #: 96 and 192 come before the powers of two; else each after the power below it.
    odd_first: bool
    #: Names say "1k" for 1024; else bytes.
    short_names: bool
    #: ALIGN_*.
    align_rules: int
    #: Every class has these too (ARCH_KMALLOC_FLAGS, passed by SLAB).
    flags: SlabFlag = NO_FLAGS
    #: The classes of the first kind that are made before all others, for the allocator's own structures of
    #: CPUs and nodes (INDEX_AC and INDEX_NODE of SLAB).
    first: tuple[int, ...] = ()
    #: Of each class all kinds are made, one after the other; else of each kind all classes.
    by_class: bool = False
    #: Odd classes that there are, besides the powers of two.
    odd: tuple[int, ...] = (96, 192)
    #: All of a class may be copied to and from user space, so kmalloc caches do not merge.
    usercopy: bool = True
    arch: SlabArch = X86_64

    def sizes(self) -> list[int]:
        """Sizes of the classes in bytes, in the order of creation."""
        sizes = [1 << shift for shift in range(self.shift_low, self.shift_high + 1)]
        return [*self.odd, *sizes] if self.odd_first else sorted([*self.odd, *sizes])

    def class_of(self, size: int) -> int | None:
        """Size of the class that serves a request (kmalloc_slab); None: it gets pages (kmalloc_large)."""
        return min((fits for fits in self.sizes() if fits >= size), default=None)

    def cache_of(self, size: int, gfp: int) -> str | None:
        """The cache that serves a request (kmalloc_slab, kmalloc_type); None: it gets pages.

        The zone counts before whether the memory can be reclaimed, and that before who is charged for it; a
        kind that the kernel does not have counts as none.
        """
        fits = self.class_of(size)
        if fits is None:
            return None
        kind = self.types[0]
        for asked, flags in reversed(_KINDS):
            if gfp & asked:
                kind = next((known for known in self.types if known.flags == flags), kind)
        return self._name(kind, fits)

    def _name(self, kind: KmallocType, size: int) -> str:
        return kind.prefix + self.label(size) + kind.suffix

    def _align(self, size: int) -> int:
        power = size & -size
        if self.align_rules == ALIGN_DIVISOR or (self.align_rules == ALIGN_POWER_OF_TWO and power == size):
            return max(power, WORD)
        return WORD

    def caches(self) -> Iterator[KmemCacheArgs]:
        """What create_boot_cache is called with for each class, in the order of creation."""
        sizes, kinds = self.sizes(), self.types
        if self.by_class:
            made = [(kind, size) for size in sizes for kind in kinds]
        else:
            made = [(kind, size) for kind in kinds for size in sizes]
        made.sort(key=lambda one: one[0] is not kinds[0] or one[1] not in self.first)
        for kind, size in made:
            flags = kind.flags | self.flags | SlabFlag.KMALLOC
            yield KmemCacheArgs(
                name=self._name(kind, size),
                size=size,
                align=calculate_alignment(flags, self._align(size), size, self.arch),
                flags=flags,
                usersize=size if self.usercopy else 0,
            )

    def label(self, size: int) -> str:
        """How the name of a class ends."""
        return f"{size >> 10}k" if self.short_names and size >= 1024 else str(size)

    def buckets(self, buckets: KmemBuckets) -> Iterator[KmemCacheArgs]:
        """The caches of a private set (kmem_buckets_create); they never merge."""
        for size in self.sizes():
            yield KmemCacheArgs(
                name=f"{buckets.name}-{self.label(size)}",
                size=size,
                flags=buckets.flags | SlabFlag.NO_MERGE,
                usersize=max(0, min(size - buckets.useroffset, buckets.usersize)),
            )
