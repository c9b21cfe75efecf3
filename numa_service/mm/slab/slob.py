"""SLOB: what an object takes, and which list of pages it comes from (``mm/slob.c``).

SLOB has no slabs: objects of all caches and of kmalloc share pages, of which it has three lists by size. What
fills a page or more comes from the page allocator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmem_cache import (
    MIN_ALIGN,
    PAGE_SIZE,
    WORD,
    X86_64,
    KmemCacheArgs,
    SlabArch,
    align_up,
    calculate_alignment,
    get_order,
)

#: SLOB_UNIT: blocks of a page are multiples of so many bytes.
UNIT = 2
#: SLOB_BREAK1 and SLOB_BREAK2: objects of fewer bytes come from small and from medium pages.
BREAK_SMALL = 256
BREAK_MEDIUM = 1024
#: Bytes in front of an object of kmalloc, the size of which they keep.
HEADER = WORD


@dataclass(frozen=True, slots=True)
class SlobRules:
    """What kernel versions do differently."""

    #: Objects of kmalloc whose size is a power of two are aligned to it.
    aligns_powers_of_two: bool = True
    #: SLAB_HWCACHE_ALIGN asks for a whole cache line, also for objects of half a line and less.
    whole_cache_line: bool = False
    #: If an object fills its page up the next search begins behind that page; else where this one began.
    goes_on_behind_full: bool = False
    #: sizeof(struct slob_rcu): bytes behind an object that is freed a grace period later.
    rcu_footer: int = 24
    arch: SlabArch = X86_64


#: Those of 6.1 on x86_64.
_RULES = SlobRules()


class SlobList(Enum):
    """The list of partly free pages that an object comes from."""

    #: free_slob_small.
    SMALL = "small"
    #: free_slob_medium.
    MEDIUM = "medium"
    #: free_slob_large.
    LARGE = "large"


@dataclass(frozen=True, slots=True)
class SlobBlock:
    """What one object takes. Sizes are bytes."""

    #: With header or footer; whole pages if `order` says so.
    size: int
    #: The address of the object is a multiple of this.
    align: int
    #: Bytes in front of the object.
    header: int
    #: The list that the block comes from; None: it is pages.
    pages: SlobList | None
    #: Order of the pages that it is; None: it is a part of one.
    order: int | None

    @property
    def units(self) -> int:
        """The object's length in units of SLOB (SLOB_UNITS)."""
        return align_up(self.size, UNIT) // UNIT


def slob_list(size: int) -> SlobList:
    """The list of a block that is smaller than a page (slob_alloc)."""
    if size < BREAK_SMALL:
        return SlobList.SMALL
    return SlobList.MEDIUM if size < BREAK_MEDIUM else SlobList.LARGE


def kmalloc_block(size: int, rules: SlobRules = _RULES) -> SlobBlock | None:
    """What kmalloc takes for so many bytes (__do_kmalloc_node); None for no bytes: ZERO_SIZE_PTR."""
    if size >= PAGE_SIZE - HEADER:
        order = get_order(size)
        return SlobBlock(PAGE_SIZE << order, PAGE_SIZE, 0, None, order)
    if not size:
        return None
    power = rules.aligns_powers_of_two and size & (size - 1) == 0
    align = max(HEADER, size) if power else HEADER
    taken = size + HEADER
    return SlobBlock(taken, align, HEADER, slob_list(taken), None)


def cache_block(args: KmemCacheArgs, rules: SlobRules = _RULES) -> SlobBlock:
    """What an object of a cache takes (__kmem_cache_create, slob_alloc_node). SLOB merges no caches."""
    size = args.size
    if SlabFlag.TYPESAFE_BY_RCU in args.flags:
        size += rules.rcu_footer
    if size < PAGE_SIZE:
        if rules.whole_cache_line:
            line = rules.arch.cache_line if SlabFlag.HWCACHE_ALIGN in args.flags else 0
            align = max(line, MIN_ALIGN, args.align)
        else:
            align = calculate_alignment(args.flags, args.align, args.size, rules.arch)
        return SlobBlock(size, align, 0, slob_list(size), None)
    return SlobBlock(size, PAGE_SIZE, 0, None, get_order(size))


@dataclass(frozen=True, slots=True)
class SlobCache:
    """A cache of SLOB, which keeps nothing of it but what its creator asked for (struct kmem_cache)."""

    args: KmemCacheArgs
    rules: SlobRules = _RULES
    #: It stands for what kmalloc gives for so many bytes.
    kmalloc: bool = False
    #: None: it shares its memory with all others.
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name."""
        return self.args.name

    @property
    def object_size(self) -> int:
        """Bytes that its creator asked for."""
        return self.args.size

    @property
    def flags(self) -> SlabFlag:
        """Flags of its creator."""
        return self.args.flags

    @property
    def block(self) -> SlobBlock:
        """What an object takes."""
        of_kmalloc = kmalloc_block(self.args.size, self.rules) if self.kmalloc else None
        return of_kmalloc or cache_block(self.args, self.rules)

    @property
    def size(self) -> int:
        """Bytes that an object takes."""
        return self.block.size

    @property
    def order(self) -> int:
        """Order of the pages that an object comes from."""
        return self.block.order or 0

    @property
    def objects(self) -> int:
        """Objects for which such pages have room, if no others are in them."""
        return (PAGE_SIZE << self.order) // self.size


class SlobCaches:
    """The caches of a machine in the order in which they were created. None is shared."""

    def __init__(self, rules: SlobRules, caches: Iterable[SlobCache]) -> None:
        self.rules = rules
        self.caches = list(caches)

    def kmem_cache_create(self, args: KmemCacheArgs) -> SlobCache:
        """A new cache (kmem_cache_create_usercopy)."""
        self.caches.append(self.kmem_cache_open(args))
        return self.caches[-1]

    def kmem_cache_open(self, args: KmemCacheArgs) -> SlobCache:
        """A cache that is not one of `caches`."""
        return SlobCache(args, self.rules)
