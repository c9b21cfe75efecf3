"""SLAB: the geometry of a cache, its tunables, and the list of caches (``mm/slab.c`` of 6.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmalloc import KmallocRules
from numa_service.mm.slab.kmem_cache import (
    CACHE_LINE,
    PAGE_SIZE,
    WORD,
    KmemCacheArgs,
    align_up,
    calculate_alignment,
    get_order,
)
from numa_service.mm.slab.merge import find_mergeable
from numa_service.mm.slab.slub_parameters import get_option

#: KMALLOC_MAX_ORDER.
MAX_ORDER = 10
#: SLAB_OBJ_MAX_NUM: an index in the free list is one byte.
MAX_OBJECTS = 255
#: SLAB_OBJ_MIN_SIZE: no page has more objects than that index can say.
MIN_SIZE = 16
#: SLAB_MAX_ORDER_LO and SLAB_MAX_ORDER_HI: the largest order with little memory and with more.
MAX_ORDER_LOW = 0
MAX_ORDER_HIGH = 1
#: Memory above which the largest order is the high one.
_MUCH_MEMORY = 32 << 20
_THREE_NUMBERS = re.compile(r"\s*([+-]?\d+)\s+([+-]?\d+)\s+([+-]?\d+)", re.ASCII)
#: Objects of another node that are kept before they go home (alloc_alien_cache).
ALIEN_LIMIT = 12


@dataclass(frozen=True, slots=True)
class SlabParameters:
    """The parameters of SLAB."""

    #: None: it follows the size of memory.
    max_order: int | None = None
    nomerge: bool = False
    #: Objects of other nodes go straight to their slabs.
    noaliencache: bool = False


def slab_parameters(cmdline: str) -> SlabParameters:
    """The parameters in a command line, read from left to right; other words are passed over."""
    max_order, nomerge, noaliencache = None, False, False
    for word in cmdline.split():
        key, _, value = word.partition("=")
        if key in ("slab_nomerge", "slab_merge"):
            nomerge = key == "slab_nomerge"
        elif key == "noaliencache":
            noaliencache = True
        elif key == "slab_max_order":
            max_order = min(max(get_option(value), 0), MAX_ORDER)
    return SlabParameters(max_order, nomerge, noaliencache)


class Freelist(StrEnum):
    """Where the indices of the free objects of a slab are."""

    #: In a free object (CFLGS_OBJFREELIST_SLAB).
    IN_OBJECT = "in a free object"
    #: In an object of a kmalloc cache (CFLGS_OFF_SLAB).
    OFF_SLAB = "off the slab"
    #: Behind the last object.
    ON_SLAB = "at the end of the slab"


@dataclass(slots=True)
class SlabCache:
    """A cache of SLAB (struct kmem_cache). Sizes are bytes."""

    args: KmemCacheArgs
    flags: SlabFlag
    #: Largest object of those that share the cache.
    object_size: int
    #: From one object to the next.
    size: int
    align: int
    #: Pages of a slab are 2 to this power.
    order: int
    #: Objects of a slab.
    objects: int
    freelist: Freelist
    #: How many places the first object of a slab can have; 0 and 1 are the same.
    colour: int
    #: Bytes from one of these places to the next.
    colour_off: int
    #: Objects that the array of a CPU can hold.
    limit: int
    #: Objects that go to it or from it at once.
    batchcount: int
    #: How many times `batchcount` objects the array that CPUs of a node share can hold (sharedfactor).
    shared: int
    #: Objects of another node that are kept before they go home together; 0: each goes by itself.
    alien_limit: int
    exempt: bool = False
    #: Names of the caches that share it, without its own.
    aliases: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the first of its creators, which is the one that /proc/slabinfo prints."""
        return self.args.name

    def colours(self) -> list[int]:
        """Where the first object of a slab can be, in bytes from its start (cache_grow_begin)."""
        return [number * self.colour_off for number in range(max(self.colour, 1))]

    def free_limit(self, cpus: int) -> int:
        """Free objects that a node with so many CPUs may keep in its slabs (init_cache_node)."""
        return (1 + cpus) * self.batchcount + self.objects


@dataclass(frozen=True, slots=True)
class _Fit:
    order: int
    objects: int
    left_over: int


def _estimate(order: int, size: int, freelist: Freelist) -> tuple[int, int]:
    """Objects of a slab of this order, and the bytes that are left over (cache_estimate)."""
    each = size + 1 if freelist is Freelist.ON_SLAB else size
    return divmod(PAGE_SIZE << order, each)


def enable_cpucache(size: int, possible_cpus: int) -> tuple[int, int, int]:
    """limit, batchcount and shared of a new cache whose objects take `size` bytes (enable_cpucache)."""
    steps = ((131072, 1), (PAGE_SIZE, 8), (1024, 24), (256, 54))
    limit = next((limit for above, limit in steps if size > above), 120)
    return limit, (limit + 1) // 2, 8 if size <= PAGE_SIZE and possible_cpus > 1 else 0


def parse_tunables(text: str) -> tuple[str, int, int, int]:
    """The parts of "name limit batchcount shared", as written to /proc/slabinfo; ValueError (EINVAL)."""
    name, _, rest = text.partition(" ")
    numbers = _THREE_NUMBERS.match(rest)
    if not numbers:
        raise ValueError(f"not a cache and three numbers: {text!r:.80}")
    limit, batchcount, shared = map(int, numbers.groups())
    return name, limit, batchcount, shared


def tunables_are_sane(limit: int, batchcount: int, shared: int) -> bool:
    """Whether the kernel takes these numbers; others change nothing, without an error (slabinfo_write)."""
    return limit >= 1 and 1 <= batchcount <= limit and shared >= 0


class SlabCaches:
    """The caches of a machine in the order in which they were created (``slab_caches``)."""

    def __init__(
        self,
        kmalloc: KmallocRules,
        parameters: SlabParameters,
        possible_cpus: int,
        node_ids: int,
        memory_bytes: int,
    ) -> None:
        self.parameters = parameters
        self.caches: list[SlabCache] = []
        self._kmalloc = kmalloc
        self._possible_cpus = possible_cpus
        self._node_ids = node_ids
        self._max_order = MAX_ORDER_HIGH if memory_bytes > _MUCH_MEMORY else MAX_ORDER_LOW
        if parameters.max_order is not None:
            self._max_order = parameters.max_order

    def kmem_cache_init(self, kmem_cache_bytes: int) -> None:
        """The cache of caches: each has a pointer for every node number that is possible."""
        size = kmem_cache_bytes + WORD * self._node_ids
        args = KmemCacheArgs("kmem_cache", size, flags=SlabFlag.HWCACHE_ALIGN)
        self.create_boot_cache(args, exempt=True)

    def create_boot_cache(self, args: KmemCacheArgs, *, exempt: bool = False) -> SlabCache:
        """A cache that merges with none that exists (create_boot_cache).

        Later ones can merge with it, unless it is `exempt`.
        """
        cache = self.kmem_cache_open(args)
        cache.exempt = exempt
        self.caches.append(cache)
        return cache

    def kmem_cache_create(self, args: KmemCacheArgs) -> SlabCache:
        """The cache that a creator gets: one that fits, or a new one (kmem_cache_create_usercopy)."""
        if not self.parameters.nomerge:
            cache = find_mergeable(self.caches, args, args.flags, usercopy=True, divides=True)
            if cache:
                cache.object_size = max(cache.object_size, args.size)
                cache.aliases.append(args.name)
                return cache
        cache = self.kmem_cache_open(args)
        self.caches.append(cache)
        return cache

    def kmem_cache_open(self, args: KmemCacheArgs) -> SlabCache:
        """A cache that merges with none, and that is not one of `caches` (__kmem_cache_create)."""
        align = calculate_alignment(args.flags, args.align, args.size)
        size = align_up(align_up(args.size, WORD), align)
        if size < MIN_SIZE:
            size = align_up(MIN_SIZE, align)
        for place in (self._in_object, self._off_slab, self._on_slab):
            if fit := place(args, size):
                freelist, fitted = fit
                break
        else:
            raise ValueError(f"no slab can hold an object of {args.size} bytes")
        colour_off = max(CACHE_LINE, align)
        limit, batchcount, shared = enable_cpucache(size, self._possible_cpus)
        return SlabCache(
            args=args,
            flags=args.flags,
            object_size=args.size,
            size=size,
            align=align,
            order=fitted.order,
            objects=fitted.objects,
            freelist=freelist,
            colour=fitted.left_over // colour_off,
            colour_off=colour_off,
            limit=limit,
            batchcount=batchcount,
            shared=shared,
            alien_limit=ALIEN_LIMIT if self._node_ids > 1 and not self.parameters.noaliencache else 0,
        )

    def _in_object(self, args: KmemCacheArgs, size: int) -> tuple[Freelist, _Fit] | None:
        """The free list in a free object, if nobody looks into one and it is large enough."""
        if args.ctor or SlabFlag.TYPESAFE_BY_RCU in args.flags:
            return None
        fit = self._calculate_slab_order(args, size, Freelist.IN_OBJECT)
        return (Freelist.IN_OBJECT, fit) if fit and fit.objects <= args.size else None

    def _off_slab(self, args: KmemCacheArgs, size: int) -> tuple[Freelist, _Fit] | None:
        """The free list in an object of its own, unless what is left over in the slab can hold it."""
        if SlabFlag.NOLEAKTRACE in args.flags:
            return None
        fit = self._calculate_slab_order(args, size, Freelist.OFF_SLAB)
        return (Freelist.OFF_SLAB, fit) if fit and fit.left_over < fit.objects else None

    def _on_slab(self, args: KmemCacheArgs, size: int) -> tuple[Freelist, _Fit] | None:
        fit = self._calculate_slab_order(args, size, Freelist.ON_SLAB)
        return (Freelist.ON_SLAB, fit) if fit else None

    def _calculate_slab_order(self, args: KmemCacheArgs, size: int, freelist: Freelist) -> _Fit | None:
        """The order of slabs with their free list there; None: it cannot be (calculate_slab_order)."""
        found = None
        for order in range(MAX_ORDER + 1):
            objects, left_over = _estimate(order, size, freelist)
            if not objects:
                continue
            if objects > MAX_OBJECTS:
                break
            if freelist is Freelist.OFF_SLAB:
                taken = self._kmalloc.class_of(objects) or PAGE_SIZE << get_order(objects)
                if taken > args.size // 2:  # not worth it
                    continue
            found = _Fit(order, objects, left_over)
            # filesystems reclaim with allocations that may not wait for large pages
            if SlabFlag.RECLAIM_ACCOUNT in args.flags or order >= self._max_order:
                break
            if left_over * 8 <= PAGE_SIZE << order:
                break
        return found

    def slabinfo_write(self, text: str) -> SlabCache | None:
        """A line written to /proc/slabinfo: "name limit batchcount shared" (slabinfo_write).

        Returns the cache; None: the numbers make no sense and change nothing. Raises ValueError (EINVAL) if
        there is no such cache or fewer than three numbers.
        """
        name, limit, batchcount, shared = parse_tunables(text)
        cache = next((cache for cache in self.caches if cache.name == name), None)
        if cache is None:
            raise ValueError(f"no cache is called {name!r}")
        if tunables_are_sane(limit, batchcount, shared):
            cache.limit, cache.batchcount, cache.shared = limit, batchcount, shared
            return cache
        return None
