"""Slab allocators of each kernel version, as data: rules, kmalloc's classes, caches of a captured boot.

The rules of SLUB in 6.1 and 6.12 are compared with captures. Those of 3.0 are from its source: no boot of it
was captured, so it has no table of caches.
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
from numa_service.mm.slab.boot_caches import BootCaches
from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.kmalloc import (
    ALIGN_DIVISOR,
    ALIGN_POWER_OF_TWO,
    ALIGN_WORD,
    SHIFT_TWO_PAGES,
    KmallocRules,
    KmallocType,
)
from numa_service.mm.slab.kmem_cache import I386
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
    """SLAB of one kernel version; its rules are those of ``slab.py``."""

    #: sizeof(struct kmem_cache) up to the pointers to the nodes.
    kmem_cache_bytes: int
    kmalloc: KmallocRules
    boot: BootCaches
    #: The first built-in cache that is created when the boot CPU is counted among those of its node.
    first_with_boot_cpu: str
    #: The first that is created when all CPUs run (by an initcall).
    first_after_smp: str


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
        return replace(profile, rules=rules, boot=_I386_BOOT.get(kernel))
    if kernel in SLUB:
        return SLUB[kernel]
    series = profile_named(kernel).series
    nearest = next((name for since, name in _SINCE if series >= since), LINUX_3_0.name)
    return replace(SLUB[nearest], boot=None)


#: SLAB by the name of a kernel. 6.12 has none: it went in 6.8. That of 3.0 has other rules, which are not
#: here.
SLAB: dict[str, SlabProfile] = {
    LINUX_6_1.name: SlabProfile(
        kmem_cache_bytes=120,
        kmalloc=KmallocRules(
            shift_low=5,
            shift_high=SHIFT_TWO_PAGES,
            types=(_NORMAL, _RECLAIM, _DMA),
            odd_first=False,
            short_names=True,
            align_rules=ALIGN_POWER_OF_TWO,
            flags=SlabFlag.HWCACHE_ALIGN,
            first=128,  # sizeof(struct kmem_cache_node) is of this class
        ),
        boot=BootCaches(boot_caches_6_1_small.BUILT_IN, boot_caches_6_1_small.MODULES),
        first_with_boot_cpu="pid",
        first_after_smp="file_lock_ctx",
    ),
}


def slab_of(kernel: str) -> SlabProfile:
    """SLAB for a kernel; that of 6.1 for one that has none, or whose SLAB is not known."""
    return SLAB.get(kernel, SLAB[LINUX_6_1.name])
