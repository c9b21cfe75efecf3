"""Slab allocators of each kernel version, as data: rules, kmalloc's classes, caches of a captured boot.

The rules of SLUB in 6.1 and 6.12, and of SLAB and SLOB in 6.1, are compared with captures. Those of 3.0 are
from its source: no boot of it was captured, so it has no table of caches. Sizes of its SLAB are compared with
those of a public machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from numa_service.mm.profile import LINUX_3_0, LINUX_6_1, LINUX_6_12, profile_named
from numa_service.mm.slab import (
    boot_caches_6_1,
    boot_caches_6_1_i386,
    boot_caches_6_1_small,
    boot_caches_6_12,
)
from numa_service.mm.slab.boot_caches import NO_BOOT_CACHES, BootCaches
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmalloc import (
    ALIGN_DIVISOR,
    ALIGN_POWER_OF_TWO,
    ALIGN_WORD,
    SHIFT_MAX_BLOCK,
    SHIFT_TWO_PAGES,
    KmallocRules,
    KmallocType,
)
from numa_service.mm.slab.kmem_cache import I386
from numa_service.mm.slab.slab import FREE_INDICES, STRUCT_SLAB, SlabRules
from numa_service.mm.slab.slob import SlobRules
from numa_service.mm.slab.slub import ORDER_FEWER_OBJECTS, ORDER_MORE_WASTE, SlubRules
from numa_service.mm.slab.slub_parameters import ParameterRules
from numa_service.mm.slab.slub_work_rules import SlubWorkRules


@dataclass(frozen=True, slots=True)
class SlubProfile:
    """SLUB of one kernel version."""

    rules: SlubRules
    kmalloc: KmallocRules
    #: None: no boot was captured.
    boot: BootCaches | None
    #: What it does with objects.
    work: SlubWorkRules


@dataclass(frozen=True, slots=True)
class SlabProfile:
    """SLAB of one kernel version."""

    rules: SlabRules
    #: sizeof(struct kmem_cache) up to the pointers to the nodes.
    kmem_cache_bytes: int
    kmalloc: KmallocRules
    #: Empty: no boot was captured.
    boot: BootCaches = NO_BOOT_CACHES
    #: The first built-in cache that is created when the boot CPU is counted among those of its node.
    first_with_boot_cpu: str = ""
    #: The first that is created when all CPUs run (by an initcall).
    first_after_smp: str = ""


_NORMAL = KmallocType("kmalloc-")
_CGROUP = KmallocType("kmalloc-cg-", SlabFlag.ACCOUNT)
_RECLAIM = KmallocType("kmalloc-rcl-", SlabFlag.RECLAIM_ACCOUNT)
_DMA = KmallocType("dma-kmalloc-", SlabFlag.CACHE_DMA)

_SLUB_6_1 = SlubProfile(
    rules=SlubRules(
        order_rules=ORDER_FEWER_OBJECTS,
        max_objects=32767,
        present_cpus=True,
        track_bytes=32,  # with CONFIG_STACKDEPOT
        keeps_request_size=True,
        red_zone_left=True,
        free_pointer_middle=True,
        small_red_zone_pointer=True,
        request_red_zone_pointer=False,
        min_partial_halved=True,
        cpu_partial=True,
        usercopy=True,
        merge_newest=False,
        tracked_letter="",
        kmem_cache_bytes=216,
        kmem_cache_node_bytes=64,
        parameters=ParameterRules(
            nomerge=("slab_nomerge", "slub_nomerge"),
            merge=("slab_merge", "slub_merge"),
            renamed=False,
            orders_agree=False,
            debug_one_prefix=False,
        ),
    ),
    kmalloc=KmallocRules(
        shift_low=3,
        shift_high=SHIFT_TWO_PAGES,
        types=(_NORMAL, _CGROUP, _RECLAIM, _DMA),
        odd_first=False,
        short_names=True,
        align_rules=ALIGN_POWER_OF_TWO,
    ),
    boot=BootCaches(boot_caches_6_1.BUILT_IN, boot_caches_6_1.MODULES),
    work=SlubWorkRules(preferred_node_first=False, always_compound=False),
)

_SLUB_6_12 = SlubProfile(
    rules=replace(
        _SLUB_6_1.rules,
        order_rules=ORDER_MORE_WASTE,
        request_red_zone_pointer=True,
        parameters=replace(_SLUB_6_1.rules.parameters, renamed=True, orders_agree=True),
    ),
    kmalloc=replace(
        _SLUB_6_1.kmalloc,
        types=(_NORMAL, _RECLAIM, _DMA, _CGROUP),
        odd_first=True,
        align_rules=ALIGN_DIVISOR,
    ),
    boot=BootCaches(boot_caches_6_12.BUILT_IN, boot_caches_6_12.MODULES),
    work=SlubWorkRules(preferred_node_first=True, always_compound=True, all_is_checked=True),
)

_SLUB_3_0 = SlubProfile(
    rules=replace(
        _SLUB_6_1.rules,
        max_objects=65535,
        present_cpus=False,
        track_bytes=24,
        keeps_request_size=False,
        red_zone_left=False,
        free_pointer_middle=False,
        small_red_zone_pointer=False,
        min_partial_halved=False,
        cpu_partial=False,
        usercopy=False,
        merge_newest=True,
        tracked_letter="t",
        parameters=ParameterRules(
            nomerge=("slub_nomerge",), merge=(), renamed=False, orders_agree=False, debug_one_prefix=True
        ),
    ),
    kmalloc=KmallocRules(
        shift_low=3,
        shift_high=SHIFT_TWO_PAGES,
        types=(_NORMAL, _DMA),
        odd_first=True,
        short_names=False,
        align_rules=ALIGN_WORD,
        usercopy=False,
    ),
    boot=None,
    work=SlubWorkRules(
        preferred_node_first=False,
        always_compound=False,
        objects_remaining="Objects remaining on kmem_cache_close()",
        still_has_objects="SLUB {cache}: kmem_cache_destroy called for cache that still has objects.",
        report_prefix="INFO: ",
        left_redzone="Redzone",
        right_redzone="Redzone",
        end_poison="Poison",
        tells_offset=False,
        tells_restored=False,
        validates_debugged=False,
    ),
)

#: SLUB by the name of a kernel.
SLUB: dict[str, SlubProfile] = {
    LINUX_6_1.name: _SLUB_6_1,
    LINUX_6_12.name: _SLUB_6_12,
    LINUX_3_0.name: _SLUB_3_0,
}

#: The kernels whose rules stand for later ones, newest first. What changed between 3.0 and 5.16, where the
#: partial lists of CPUs began to be measured in slabs, is not here.
_SINCE = (((6, 12), LINUX_6_12.name), ((5, 16), LINUX_6_1.name))


#: Caches of the boots of 32-bit kernels, by the name of a kernel.
_I386_BOOT = {
    LINUX_6_1.name: BootCaches(
        boot_caches_6_1_i386.BUILT_IN, boot_caches_6_1_i386.MODULES, boot_caches_6_1_i386.OF_HIGHMEM
    )
}


def slub_of(kernel: str, arch: str = "x86_64") -> SlubProfile:
    """SLUB of a kernel by the name of its profile: that of the nearest older kernel that is here.

    Which caches a boot makes is known of the kernels that are here only: others have those of kmalloc.
    """
    if arch == "i386":
        profile = slub_of(kernel)
        # struct kmem_cache is known to the alignment
        rules = replace(profile.rules, arch=I386, kmem_cache_bytes=132, kmem_cache_node_bytes=32)
        kmalloc = replace(profile.kmalloc, arch=I386)
        return replace(profile, rules=rules, kmalloc=kmalloc, boot=_I386_BOOT.get(kernel))
    if kernel in SLUB:
        return SLUB[kernel]
    series = profile_named(kernel).series
    nearest = next((name for since, name in _SINCE if series >= since), LINUX_3_0.name)
    return replace(SLUB[nearest], boot=None)


_SLAB_6_1 = SlabProfile(
    rules=SlabRules(
        management=FREE_INDICES,
        slab_bytes=0,
        index_bytes=1,
        max_objects=255,
        min_size=16,
        merges=True,
        order_parameter=True,
        colour_counted_after=False,
        refill_always_looks=False,
        destroys_as_freed=False,
        compound=True,
    ),
    kmem_cache_bytes=120,
    kmalloc=KmallocRules(
        shift_low=5,
        shift_high=SHIFT_TWO_PAGES,
        types=(_NORMAL, _RECLAIM, _DMA),
        odd_first=False,
        short_names=True,
        align_rules=ALIGN_POWER_OF_TWO,
        flags=SlabFlag.HWCACHE_ALIGN,
        first=(128,),  # sizeof(struct kmem_cache_node) is of this class
    ),
    boot=BootCaches(boot_caches_6_1_small.BUILT_IN, boot_caches_6_1_small.MODULES),
    first_with_boot_cpu="pid",
    first_after_smp="file_lock_ctx",
)

_SLAB_3_0 = SlabProfile(
    rules=SlabRules(
        management=STRUCT_SLAB,
        slab_bytes=48,
        index_bytes=4,
        max_objects=None,
        min_size=0,
        merges=False,
        order_parameter=False,
        colour_counted_after=True,
        refill_always_looks=True,
        destroys_as_freed=True,
        compound=False,
    ),
    # struct kmem_cache begins with a pointer for each of NR_CPUS: 512 as Debian configures it
    kmem_cache_bytes=512 * 8 + 104,
    kmalloc=KmallocRules(
        shift_low=5,
        shift_high=SHIFT_MAX_BLOCK,
        types=(KmallocType("size-"), KmallocType("size-", SlabFlag.CACHE_DMA, "(DMA)")),
        odd_first=False,
        short_names=False,
        align_rules=ALIGN_WORD,
        flags=SlabFlag.HWCACHE_ALIGN,
        first=(32, 128),  # of struct arraycache_init and struct kmem_list3
        by_class=True,
        odd=(192,),  # 96 only where a cache line is shorter than 64 bytes
        usercopy=False,
    ),
)

#: SLAB by the name of a kernel. 6.12 has none: it went in 6.8.
SLAB: dict[str, SlabProfile] = {LINUX_6_1.name: _SLAB_6_1, LINUX_3_0.name: _SLAB_3_0}

#: The first series whose free lists of SLAB are those of 6.1 (OBJFREELIST_SLAB); what changed besides
#: between 3.0 and 6.1 is not here.
_SLAB_OF_6_1 = (4, 6)


def slab_of(kernel: str, arch: str = "x86_64") -> SlabProfile:
    """SLAB of a kernel by the name of its profile: that of 6.1 for later ones, too, else that of 3.0.

    Which caches a boot makes is known of 6.1 only: older kernels have those of kmalloc.
    """
    if arch == "i386":
        return _slab_of_i386(kernel)
    if kernel in SLAB:
        return SLAB[kernel]
    return _SLAB_6_1 if profile_named(kernel).series >= _SLAB_OF_6_1 else _SLAB_3_0


def _slab_of_i386(kernel: str) -> SlabProfile:
    """SLAB of a 32-bit kernel. The caches of its boot are those of a captured one with SLUB.

    Those of kmalloc are compared with a boot of 6.1; else it is from source.
    """
    profile = slab_of(kernel)
    if profile.rules.management == STRUCT_SLAB:
        rules = replace(profile.rules, arch=I386, slab_bytes=28)
        kmalloc = replace(profile.kmalloc, arch=I386, first=(32, 64), odd=(96, 192))
        return replace(profile, rules=rules, kmalloc=kmalloc, kmem_cache_bytes=32 * 4 + 76)
    rules = replace(profile.rules, arch=I386)
    kmalloc = replace(profile.kmalloc, arch=I386, first=(64,))
    return replace(
        profile,
        rules=rules,
        kmem_cache_bytes=84,
        kmalloc=kmalloc,
        boot=_I386_BOOT[LINUX_6_1.name],
        first_after_smp="fsnotify_mark_connector",
    )


#: SLOB since 5.4, as the captures of 6.1 have it.
_SLOB_6_1 = SlobRules(aligns_powers_of_two=True, whole_cache_line=False, goes_on_behind_full=False)
_SLOB_3_0 = SlobRules(aligns_powers_of_two=False, whole_cache_line=True, goes_on_behind_full=True)
#: The first series with the rules of 6.1; between 3.0 and it they changed one by one.
_SLOB_OF_6_1 = (5, 4)


def slob_of(kernel: str, arch: str = "x86_64") -> SlobRules:
    """SLOB of a kernel by the name of its profile; that of 6.1 for one that has none."""
    rules = _SLOB_6_1 if profile_named(kernel).series >= _SLOB_OF_6_1 else _SLOB_3_0
    return replace(rules, arch=I386, rcu_footer=12) if arch == "i386" else rules
