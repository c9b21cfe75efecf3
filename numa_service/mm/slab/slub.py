"""SLUB: the geometry of a cache, and the list of caches with those that are merged (``mm/slub.c``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from numa_service.mm.slab.flags import DEBUG_FLAGS, DEBUG_METADATA_FLAGS, SlabFlag
from numa_service.mm.slab.kmem_cache import (
    PAGE_SIZE,
    X86_64,
    KmemCacheArgs,
    SlabArch,
    align_up,
    calculate_alignment,
    get_order,
)
from numa_service.mm.slab.merge import find_mergeable, slab_unmergeable
from numa_service.mm.slab.slub_parameters import MAX_ORDER, ParameterRules, SlubParameters

#: An order for which no number of objects wastes little enough is sought with fewer objects, and at last with
#: one (calculate_order until 6.6).
ORDER_FEWER_OBJECTS = 0
#: It is sought with more waste, up to half of the slab, and at last the least that holds an object (since
#: 6.7).
ORDER_MORE_WASTE = 1

#: MIN_PARTIAL and MAX_PARTIAL: slabs that a node keeps on its partial list although they are empty.
MIN_PARTIAL = 5
MAX_PARTIAL = 10


@dataclass(frozen=True, slots=True)
class SlubRules:
    """What kernel versions do differently. Sizes are bytes."""

    #: ORDER_*.
    order_rules: int
    #: Objects that a slab can have at most (MAX_OBJS_PER_PAGE).
    max_objects: int
    #: CPUs that ``min_objects`` follows are the present ones, unless there is one only; else the possible
    #: ones.
    present_cpus: bool
    #: sizeof(struct track), of which STORE_USER adds two.
    track_bytes: int
    #: STORE_USER keeps the size that was asked of kmalloc (since 6.1).
    keeps_request_size: bool
    #: Red zones have a left part in front of the object (since 4.6).
    red_zone_left: bool
    #: The free pointer of a free object is in its middle, away from what overruns reach; else at its start.
    free_pointer_middle: bool
    #: An object that is smaller than a pointer and has a red zone has its free pointer behind it.
    small_red_zone_pointer: bool
    #: So has one whose red zone follows the requested size of kmalloc.
    request_red_zone_pointer: bool
    #: The number of partial slabs kept is half the logarithm of the size (since 3.2).
    min_partial_halved: bool
    #: CPUs have partial slabs (since 3.2).
    cpu_partial: bool
    #: A cache with a usersize does not merge (since 4.16).
    usercopy: bool
    #: New caches merge with the newest that fits; else with the oldest.
    merge_newest: bool
    #: What stands in the name of a merged cache for one that kmemcheck may track.
    tracked_letter: str
    #: sizeof(struct kmem_cache) up to the pointers to the nodes, of which a machine has as many as node ids.
    kmem_cache_bytes: int
    #: sizeof(struct kmem_cache_node).
    kmem_cache_node_bytes: int
    #: What is made of the command line.
    parameters: ParameterRules
    arch: SlabArch = X86_64


@dataclass(slots=True)
class SlubCache:
    """A cache of SLUB (struct kmem_cache). Sizes are bytes."""

    args: KmemCacheArgs
    #: With what ``slub_debug`` adds.
    flags: SlabFlag
    #: Largest object of those that share the cache.
    object_size: int
    #: From one object to the next, with what alignment and debugging add.
    size: int
    #: Where metadata begins.
    inuse: int
    #: Where the free pointer is.
    offset: int
    #: Red zone in front of the object.
    red_left_pad: int
    align: int
    #: Pages of a slab are 2 to this power.
    order: int
    #: Objects of a slab.
    objects: int
    #: Empty slabs that a node keeps.
    min_partial: int
    #: Free objects that a CPU's partial slabs should have.
    cpu_partial: int
    #: Name under /sys/kernel/slab.
    sysfs_name: str
    exempt: bool = False
    #: Names of the caches that share it, without its own.
    aliases: list[str] = field(default_factory=list)
    #: How often, in percent, a node without partial slabs looks for those of another. It is kept and shown.
    remote_node_defrag_ratio: int = 100
    #: KFENCE never guards its objects. It is kept and shown.
    skip_kfence: int = 0

    @property
    def name(self) -> str:
        """Name of the first of its creators, which is the one that /proc/slabinfo prints."""
        return self.args.name

    @property
    def min_order(self) -> int:
        """The least order that holds an object, tried when memory is short (``oo_order(s->min)``)."""
        return get_order(self.size)


def min_objects_of(rules: SlubRules, present_cpus: int, possible_cpus: int) -> int:
    """Objects that a slab should have on a machine with so many CPUs (calculate_order)."""
    cpus = present_cpus if rules.present_cpus and present_cpus > 1 else possible_cpus
    return 4 * (cpus.bit_length() + 1)


def _calc_slab_order(size: int, least: int, largest: int, fraction: int) -> int:
    """The first order from `least` that wastes at most one part in `fraction`; above `largest`: none does."""
    order = least
    while order <= largest:
        slab = PAGE_SIZE << order
        if slab % size <= slab // fraction:
            break
        order += 1
    return order


def calculate_order(size: int, rules: SlubRules, parameters: SlubParameters, min_objects: int) -> int:
    """The order of the slabs of a cache with objects of `size` bytes (calculate_order).

    `min_objects` is what the number of CPUs asks for; ``slub_min_objects`` takes its place. Raises ValueError
    if no slab can hold an object.
    """
    wanted = parameters.min_objects or min_objects
    largest = parameters.max_order
    if (PAGE_SIZE << parameters.min_order) // size > rules.max_objects:
        return get_order(size * rules.max_objects) - 1
    most = (PAGE_SIZE << largest) // size
    if rules.order_rules == ORDER_MORE_WASTE:
        least = max(parameters.min_order, get_order(min(wanted, max(most, 1)) * size))
        if (PAGE_SIZE << least) // size > rules.max_objects:
            return get_order(size * rules.max_objects) - 1
        for fraction in (16, 8, 4, 2):
            order = _calc_slab_order(size, least, largest, fraction)
            if order <= largest:
                return order
        order = get_order(size)
    else:
        for objects in range(min(wanted, most), 1, -1):
            least = max(parameters.min_order, get_order(objects * size))
            for fraction in (16, 8, 4):
                order = _calc_slab_order(size, least, largest, fraction)
                if order <= largest:
                    return order
        least = max(parameters.min_order, get_order(size))
        order = _calc_slab_order(size, least, largest, 1)
        if order > largest:
            order = _calc_slab_order(size, least, MAX_ORDER, 1)
    if order > MAX_ORDER:
        raise ValueError(f"no slab can hold an object of {size} bytes")
    return order


@dataclass(frozen=True, slots=True)
class _Sizes:
    size: int
    inuse: int
    offset: int
    red_left_pad: int


def _calculate_sizes(args: KmemCacheArgs, flags: SlabFlag, align: int, rules: SlubRules) -> _Sizes:
    """Where things are in an object, and how far apart objects are (calculate_sizes, but for the order)."""
    object_size, word = args.size, rules.arch.word
    size = align_up(object_size, word)
    red_zone = SlabFlag.RED_ZONE in flags
    if red_zone and size == object_size:
        size += word  # the red zone behind an object that leaves no room for one
    inuse = size
    keeps_request = SlabFlag.STORE_USER in flags and SlabFlag.KMALLOC in flags and rules.keeps_request_size
    behind = bool(flags & SlabFlag.POISON) or args.ctor != ""
    behind |= SlabFlag.TYPESAFE_BY_RCU in flags and not args.freeptr
    if red_zone:
        behind |= rules.small_red_zone_pointer and object_size < word
        behind |= rules.request_red_zone_pointer and keeps_request
    if behind:  # a free object is not written to: the free pointer is behind it
        offset = size
        size += word
    else:
        # where a creator put it (freeptr) is not kept here
        offset = object_size // 2 // word * word if rules.free_pointer_middle else 0
    if SlabFlag.STORE_USER in flags:
        size += 2 * rules.track_bytes
        if keeps_request:
            size += 4  # sizeof(unsigned int)
    left = 0
    if red_zone:
        size += word
        if rules.red_zone_left:
            left = align_up(word, align)
            size += left
    return _Sizes(align_up(size, align), inuse, offset, left)


def _cpu_partial(size: int, flags: SlabFlag, rules: SlubRules) -> int:
    """Free objects that the partial slabs of a CPU should have (set_cpu_partial); none with debugging."""
    if not rules.cpu_partial or flags & DEBUG_FLAGS:
        return 0
    if size >= PAGE_SIZE:
        return 6
    if size >= 1024:
        return 24
    return 52 if size >= 256 else 120


def create_unique_id(flags: SlabFlag, size: int, rules: SlubRules) -> str:
    """Name under /sys/kernel/slab of a cache that others can merge with (create_unique_id)."""
    letters = "".join(
        letter
        for flag, letter in (
            (SlabFlag.CACHE_DMA, "d"),
            (SlabFlag.CACHE_DMA32, "D"),
            (SlabFlag.RECLAIM_ACCOUNT, "a"),
            (SlabFlag.CONSISTENCY_CHECKS, "F"),
            (SlabFlag.ACCOUNT, "A"),
        )
        if flag in flags
    )
    letters += rules.tracked_letter
    return f":{letters}{'-' if letters else ''}{size:07d}"


class SlubCaches:
    """The caches of a machine in the order in which they were created (``slab_caches``)."""

    def __init__(
        self, rules: SlubRules, parameters: SlubParameters, present_cpus: int, possible_cpus: int
    ) -> None:
        self.rules = rules
        self.parameters = parameters
        self.caches: list[SlubCache] = []
        self._min_objects = min_objects_of(rules, present_cpus, possible_cpus)

    def kmem_cache_init(self, node_ids: int) -> None:
        """The two caches that SLUB makes for itself: of caches, and of their per-node parts.

        `node_ids` is nr_node_ids, one more than the largest node number that is possible.
        """
        for name, size in (
            ("kmem_cache", self.rules.kmem_cache_bytes + self.rules.arch.word * node_ids),
            ("kmem_cache_node", self.rules.kmem_cache_node_bytes),
        ):
            args = KmemCacheArgs(name, size, flags=SlabFlag.HWCACHE_ALIGN)
            self.create_boot_cache(args, exempt=True)

    def create_boot_cache(self, args: KmemCacheArgs, *, exempt: bool = False) -> SlubCache:
        """A cache that merges with none that exists, as kmalloc's do (create_boot_cache).

        Later ones can merge with it, unless it is `exempt`.
        """
        flags = self.parameters.debug.kmem_cache_flags(args.name, args.flags)
        cache = self._kmem_cache_open(args, flags, exempt=exempt)
        self.caches.append(cache)
        return cache

    def kmem_cache_create(self, args: KmemCacheArgs) -> SlubCache:
        """The cache that a creator gets: one that fits, or a new one (kmem_cache_create_usercopy)."""
        usercopy = self.rules.usercopy
        flags = self.parameters.debug.kmem_cache_flags(args.name, args.flags)
        if not self.parameters.nomerge:
            order: Iterable[SlubCache] = reversed(self.caches) if self.rules.merge_newest else self.caches
            if cache := find_mergeable(
                order, args, flags, usercopy=usercopy, divides=False, arch=self.rules.arch
            ):
                cache.object_size = max(cache.object_size, args.size)
                cache.inuse = max(cache.inuse, align_up(args.size, self.rules.arch.word))
                cache.aliases.append(args.name)
                return cache
        cache = self._kmem_cache_open(args, flags)
        self.caches.append(cache)
        return cache

    def kmem_cache_open(self, args: KmemCacheArgs) -> SlubCache:
        """A cache that merges with none, and that is not one of `caches`."""
        return self._kmem_cache_open(args, self.parameters.debug.kmem_cache_flags(args.name, args.flags))

    def _kmem_cache_open(self, args: KmemCacheArgs, flags: SlabFlag, *, exempt: bool = False) -> SlubCache:
        rules, parameters = self.rules, self.parameters
        align = calculate_alignment(args.flags, args.align, args.size, rules.arch)
        sizes = _calculate_sizes(args, flags, align, rules)
        if parameters.debug.keep_order and get_order(sizes.size) > get_order(args.size):
            flags &= ~DEBUG_METADATA_FLAGS
            sizes = _calculate_sizes(args, flags, align, rules)
        order = calculate_order(sizes.size, rules, parameters, self._min_objects)
        logarithm = sizes.size.bit_length() - 1
        cache = SlubCache(
            args=args,
            flags=flags,
            object_size=args.size,
            size=sizes.size,
            inuse=sizes.inuse,
            offset=sizes.offset,
            red_left_pad=sizes.red_left_pad,
            align=align,
            order=order,
            objects=min((PAGE_SIZE << order) // sizes.size, rules.max_objects),
            min_partial=min(
                MAX_PARTIAL, max(MIN_PARTIAL, logarithm // 2 if rules.min_partial_halved else logarithm)
            ),
            cpu_partial=_cpu_partial(sizes.size, flags, rules),
            sysfs_name=args.name,
            exempt=exempt,
        )
        alone = parameters.nomerge or slab_unmergeable(cache, usercopy=rules.usercopy)
        if not alone:
            cache.sysfs_name = create_unique_id(flags, cache.size, rules)
        return cache
