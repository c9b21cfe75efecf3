"""SLAB: the geometry of a cache, its tunables, and the list of caches (``mm/slab.c``)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum

from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmalloc import KmallocRules
from numa_service.mm.slab.kmem_cache import (
    PAGE_SIZE,
    X86_64,
    KmemCacheArgs,
    SlabArch,
    align_up,
    calculate_alignment,
    get_order,
)
from numa_service.mm.slab.merge import find_mergeable
from numa_service.mm.slab.slub_parameters import get_option

#: KMALLOC_MAX_ORDER.
MAX_ORDER = 10
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


#: What is known of the objects of a slab is a struct slab with an index for each object behind it, in front
#: of the objects or in an object of kmalloc; 3.0.
STRUCT_SLAB = 0
#: It is in struct page, but for an index for each object, which may be in a free object; 6.1.
FREE_INDICES = 1


@dataclass(frozen=True, slots=True)
class SlabRules:
    """What kernel versions do differently. Sizes are bytes."""

    #: STRUCT_SLAB or FREE_INDICES: where the free objects of a slab are noted.
    management: int
    #: sizeof(struct slab); 0: its fields are in struct page.
    slab_bytes: int
    #: sizeof(kmem_bufctl_t) or sizeof(freelist_idx_t).
    index_bytes: int
    #: Objects that a slab can have at most (SLAB_LIMIT, SLAB_OBJ_MAX_NUM); None: as many as fit.
    max_objects: int | None
    #: No object takes less (SLAB_OBJ_MIN_SIZE).
    min_size: int
    #: Caches that are alike become one.
    merges: bool
    #: The command line can say ``slab_max_order=``, ``slab_nomerge`` and ``slab_merge``.
    order_parameter: bool
    #: A new slab has the next colour, which is counted up then; else the one behind it.
    colour_counted_after: bool
    #: A refill looks for slabs although no object is free, so that the reaper spares empty slabs once more.
    refill_always_looks: bool
    #: If a node has too many free objects a slab goes as its last object comes back; else those that were
    #: empty before it go first.
    destroys_as_freed: bool
    #: Pages of a slab are compound (__GFP_COMP).
    compound: bool
    arch: SlabArch = X86_64


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
    #: In front of the first object, with struct slab.
    AT_START = "at the start of the slab"


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
    #: What the free list takes where it is (slab_size, freelist_size).
    freelist_bytes: int
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
    rules: SlabRules
    exempt: bool = False
    #: Names of the caches that share it, without its own.
    aliases: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the first of its creators, which is the one that /proc/slabinfo prints."""
        return self.args.name

    @property
    def first_offset(self) -> int:
        """Bytes from the colour of a slab to its first object."""
        return self.freelist_bytes if self.freelist is Freelist.AT_START else 0

    def colours(self) -> list[int]:
        """Where the first object of a slab can be, in bytes from its start (cache_grow_begin)."""
        return [self.first_offset + number * self.colour_off for number in range(max(self.colour, 1))]

    def free_limit(self, cpus: int) -> int:
        """Free objects that a node with so many CPUs may keep in its slabs (init_cache_node)."""
        return (1 + cpus) * self.batchcount + self.objects


@dataclass(frozen=True, slots=True)
class _Fit:
    freelist: Freelist
    order: int
    objects: int
    left_over: int
    freelist_bytes: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The cache whose slabs are to be measured."""

    args: KmemCacheArgs
    #: From one object to the next.
    size: int
    align: int
    #: It is made before kmalloc works, so that it cannot have its free lists there (slab_early_init).
    early: bool
    #: The first order that holds an object is right, whatever it wastes.
    first_order: bool


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
        rules: SlabRules,
        kmalloc: KmallocRules,
        parameters: SlabParameters,
        possible_cpus: int,
        node_ids: int,
        memory_bytes: int,
    ) -> None:
        self.rules = rules
        self.parameters = parameters
        self.caches: list[SlabCache] = []
        self._kmalloc = kmalloc
        self._possible_cpus = possible_cpus
        self._node_ids = node_ids
        self._max_order = MAX_ORDER_HIGH if memory_bytes > _MUCH_MEMORY else MAX_ORDER_LOW
        if parameters.max_order is not None and rules.order_parameter:
            self._max_order = parameters.max_order

    def kmem_cache_init(self, kmem_cache_bytes: int) -> None:
        """The cache of caches: each has a pointer for every node number that is possible."""
        size = kmem_cache_bytes + self.rules.arch.word * self._node_ids
        args = KmemCacheArgs("kmem_cache", size, flags=SlabFlag.HWCACHE_ALIGN)
        self.create_boot_cache(args, exempt=True)

    def create_boot_cache(self, args: KmemCacheArgs, *, exempt: bool = False) -> SlabCache:
        """A cache that merges with none that exists (create_boot_cache).

        Later ones can merge with it, unless it is `exempt`: the cache of caches.
        """
        cache = self.kmem_cache_open(args, early=exempt)
        cache.exempt = exempt
        self.caches.append(cache)
        return cache

    def kmem_cache_create(self, args: KmemCacheArgs) -> SlabCache:
        """The cache that a creator gets: one that fits, or a new one (kmem_cache_create_usercopy)."""
        if self.rules.merges and not self.parameters.nomerge:
            arch = self.rules.arch
            cache = find_mergeable(self.caches, args, args.flags, usercopy=True, divides=True, arch=arch)
            if cache:
                cache.object_size = max(cache.object_size, args.size)
                cache.aliases.append(args.name)
                return cache
        cache = self.kmem_cache_open(args)
        self.caches.append(cache)
        return cache

    def kmem_cache_open(self, args: KmemCacheArgs, *, early: bool = False) -> SlabCache:
        """A cache that merges with none, and that is not one of `caches` (__kmem_cache_create without DEBUG).

        `early`: kmalloc has no caches yet. (kmem_cache_create of 3.0.)
        """
        rules, word = self.rules, self.rules.arch.word
        align = calculate_alignment(args.flags, args.align, align_up(args.size, word), rules.arch)
        size = align_up(align_up(args.size, word), align)
        if size < rules.min_size:
            size = align_up(rules.min_size, align)
        wanted = _Wanted(args, size, align, early, first_order=early and rules.management == STRUCT_SLAB)
        fit = self._struct_slab(wanted) if rules.management == STRUCT_SLAB else self._free_indices(wanted)
        if fit is None:
            raise ValueError(f"no slab can hold an object of {args.size} bytes")
        colour_off = max(rules.arch.cache_line, align)
        limit, batchcount, shared = enable_cpucache(size, self._possible_cpus)
        return SlabCache(
            args=args,
            flags=args.flags,
            object_size=args.size,
            size=size,
            align=align,
            order=fit.order,
            objects=fit.objects,
            freelist=fit.freelist,
            freelist_bytes=fit.freelist_bytes,
            colour=fit.left_over // colour_off,
            colour_off=colour_off,
            limit=limit,
            batchcount=batchcount,
            shared=shared,
            alien_limit=ALIEN_LIMIT if self._node_ids > 1 and not self.parameters.noaliencache else 0,
            rules=rules,
        )

    def _struct_slab(self, wanted: _Wanted) -> _Fit | None:
        """Free lists with struct slab: off the slabs of large objects, unless what is left over holds them.

        (kmem_cache_create of 3.0.)
        """
        large = align_up(wanted.args.size, self.rules.arch.word) >= PAGE_SIZE >> 3
        if not large or wanted.early or SlabFlag.NOLEAKTRACE in wanted.args.flags:
            return self._calculate_slab_order(wanted, Freelist.AT_START)
        fit = self._calculate_slab_order(wanted, Freelist.OFF_SLAB)
        if fit is None:
            return None
        on_slab = align_up(fit.freelist_bytes, wanted.align)
        if fit.left_over < on_slab:
            return fit
        left_over = fit.left_over - on_slab
        return replace(fit, freelist=Freelist.AT_START, left_over=left_over, freelist_bytes=on_slab)

    def _free_indices(self, wanted: _Wanted) -> _Fit | None:
        """Free lists of indices: in a free object if nobody looks into one and it is large enough, else off
        the slab unless what is left over holds them, else behind the objects (set_objfreelist_slab_cache,
        set_off_slab_cache, set_on_slab_cache).
        """
        args = wanted.args
        if not args.ctor and SlabFlag.TYPESAFE_BY_RCU not in args.flags:
            fit = self._calculate_slab_order(wanted, Freelist.IN_OBJECT)
            if fit and fit.freelist_bytes <= args.size:
                return fit
        if SlabFlag.NOLEAKTRACE not in args.flags:
            fit = self._calculate_slab_order(wanted, Freelist.OFF_SLAB)
            if fit and fit.left_over < fit.freelist_bytes:
                return fit
        return self._calculate_slab_order(wanted, Freelist.ON_SLAB)

    def _estimate(self, order: int, wanted: _Wanted, freelist: Freelist) -> tuple[int, int, int]:
        """Objects of a slab of this order, the bytes that are left over, and what the free list takes.

        (cache_estimate.)
        """
        rules, space, size = self.rules, PAGE_SIZE << order, wanted.size
        if freelist is Freelist.AT_START:
            objects = max((space - rules.slab_bytes) // (size + rules.index_bytes), 0)
            taken = align_up(rules.slab_bytes + objects * rules.index_bytes, wanted.align)
            if objects and taken + objects * size > space:
                objects -= 1
                taken = align_up(rules.slab_bytes + objects * rules.index_bytes, wanted.align)
            return objects, space - objects * size - taken, taken
        each = size + rules.index_bytes if freelist is Freelist.ON_SLAB else size
        objects, left_over = divmod(space, each)
        return objects, left_over, rules.slab_bytes + objects * rules.index_bytes

    def _is_too_much(self, wanted: _Wanted, objects: int, freelist_bytes: int) -> bool:
        """Whether a free list that is off its slab takes what is not worth it.

        In 3.0 it could have to come from the very cache; since then it may take half an object.
        """
        rules, size = self.rules, wanted.size
        if rules.management == STRUCT_SLAB:
            return objects > (size - rules.slab_bytes) // rules.index_bytes
        taken = self._kmalloc.class_of(freelist_bytes) or PAGE_SIZE << get_order(freelist_bytes)
        return taken > wanted.args.size // 2

    def _calculate_slab_order(self, wanted: _Wanted, freelist: Freelist) -> _Fit | None:
        """The order of slabs with their free list there; None: it cannot be (calculate_slab_order)."""
        rules, found = self.rules, None
        for order in range(MAX_ORDER + 1):
            objects, left_over, freelist_bytes = self._estimate(order, wanted, freelist)
            if not objects:
                continue
            if rules.max_objects and objects > rules.max_objects:
                break
            if freelist is Freelist.OFF_SLAB and self._is_too_much(wanted, objects, freelist_bytes):
                if rules.management == STRUCT_SLAB:
                    break
                continue
            found = _Fit(freelist, order, objects, left_over, freelist_bytes)
            # filesystems reclaim with allocations that may not wait for large pages
            if SlabFlag.RECLAIM_ACCOUNT in wanted.args.flags or order >= self._max_order:
                break
            if wanted.first_order or left_over * 8 <= PAGE_SIZE << order:
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
