"""The size classes of kmalloc, and the caches that they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from numa_service.mm.gfp import Gfp
from numa_service.mm.slab.flags import NO_FLAGS, SlabFlag
from numa_service.mm.slab.kmem_cache import PAGE_SHIFT, WORD, KmemCacheArgs, calculate_alignment

#: Every class has the least alignment (ARCH_KMALLOC_MINALIGN); 3.0.
ALIGN_WORD = 0
#: Powers of two are aligned to their size; since 5.4 (59bb47985c1d).
ALIGN_POWER_OF_TWO = 1
#: Every class is aligned to the largest power of two that divides it; 6.12.
ALIGN_DIVISOR = 2

#: The largest class has two pages, as SLUB and, since 6.1, SLAB have it.
SHIFT_TWO_PAGES = PAGE_SHIFT + 1

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
    #: The class that is made before all others, for the allocator's own per-node structure (INDEX_NODE of
    #: SLAB).
    first: int = 0
    #: All of a class may be copied to and from user space, so kmalloc caches do not merge.
    usercopy: bool = True

    def sizes(self) -> list[int]:
        """Sizes of the classes in bytes, in the order of creation."""
        odd = {64: 96, 128: 192}
        sizes = []
        if self.odd_first:
            sizes += [96, 192]
        for shift in range(self.shift_low, self.shift_high + 1):
            sizes.append(1 << shift)
            if not self.odd_first and 1 << shift in odd:
                sizes.append(odd[1 << shift])
        return sizes

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
        return kind.prefix + self.label(fits)

    def _align(self, size: int) -> int:
        power = size & -size
        if self.align_rules == ALIGN_DIVISOR or (self.align_rules == ALIGN_POWER_OF_TWO and power == size):
            return max(power, WORD)
        return WORD

    def caches(self) -> Iterator[KmemCacheArgs]:
        """What create_boot_cache is called with for each class, in the order of creation."""
        for kind in self.types:
            sizes = self.sizes()
            if self.first and kind is self.types[0]:
                sizes.sort(key=lambda size: size != self.first)
            for size in sizes:
                flags = kind.flags | self.flags | SlabFlag.KMALLOC
                yield KmemCacheArgs(
                    name=kind.prefix + self.label(size),
                    size=size,
                    align=calculate_alignment(flags, self._align(size), size),
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
