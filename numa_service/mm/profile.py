"""Kernels, as data: the constants and named strategies in which kernel versions differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

# Named strategies, as the numbers that kernels compare (``PgData.tune``).

#: Pageblocks and fallback: the largest block of another type is taken along and what is left of it stays with
#: its type; MIGRATE_RESERVE is the last resort; any two buddies merge (__rmqueue_fallback of 3.0).
BLOCKS_TAKE = 0
#: The largest block is stolen, or for small movable requests the smallest; blocks keep apart from HIGHATOMIC,
#: CMA and ISOLATE; a page goes back to the list it came from (steal_suitable_fallback, 6.1).
BLOCKS_STEAL = 1
#: Whole pageblocks are claimed; failing that the smallest block is split and stays with its type; lists and
#: pageblocks always agree (__rmqueue_claim and __rmqueue_steal, 6.12).
BLOCKS_CLAIM = 2

#: Every order below the asked one is deducted and halves the mark (3.0).
WMARK_PER_ORDER = 0
#: What HIGHATOMIC blocks were reserved is deducted; HARDER and HIGH add up (6.1).
WMARK_RESERVED = 1
#: What is free in HIGHATOMIC blocks is deducted; NON_BLOCK helps only MIN_RESERVE (6.12).
WMARK_FREE_RESERVE = 2

#: Order 0, hot at the head and cold at the tail, one batch freed round-robin (3.0).
PAGESET_HOT_COLD = 0
#: Batches that double while only frees come (6.1).
PAGESET_FREE_FACTOR = 1
#: `high` moves between a floor and a ceiling; batches double either way (6.12).
PAGESET_AUTO_TUNED = 2

#: Who scans a dirty page of a file writes it, kswapd and direct reclaim alike (shrink_page_list of 3.0).
DIRTY_WRITTEN = 0
#: Dirty pages of files are left to flusher threads: direct reclaim writes none since 3.2 (ee72886d8ed5), and
#: since 4.12 they are activated, out of the way (c55e8d035b28), while a batch that is all dirty wakes the
#: flushers (726d061fbd36). Reclaim counts them: NR_VMSCAN_IMMEDIATE (3.2, 49ea7eb65e7c).
DIRTY_LEFT = 1

#: A pass of kswapd aims at no number of pages and scans all that its priority says. Each raises the priority,
#: down to 0, until the passes since DEF_PRIORITY have reclaimed SWAP_CLUSTER_MAX pages: then kswapd begins
#: anew at DEF_PRIORITY (balance_pgdat of 3.0).
PASS_WHOLE = 0
#: A pass aims at the high watermarks and ends when it has reclaimed as much, with both sides scanned in
#: proportion (e82e0561dae9). It raises the priority only if it has scanned less than that, or reclaimed
#: nothing (balance_pgdat since 3.11).
PASS_AIMS = 1


@dataclass(frozen=True, slots=True)
class Profile:
    """Constants of one kernel version. Sources: the functions named per field, in that version."""

    name: str
    #: Release that ``/proc/version`` and the boot log show.
    release: str
    #: First version (major, minor) that behaves more like this profile than like the one before.
    since: tuple[int, int]

    # watermarks, pagesets, zonelists

    #: init_per_zone_wmark_min: bounds of min_free_kbytes.
    min_free_kbytes_max: int
    #: setup_per_zone_wmarks: zones whose min is managed/1024 clamped to 32…128; they are not lowmem.
    wmark_highmem_zones: tuple[str, ...]
    #: setup_per_zone_wmarks: low and high from watermark_scale_factor (else min/4 and min/2).
    watermark_scale: bool
    #: sysctl_lowmem_reserve_ratio has an entry for every zone type, and 0 keeps nothing. Else it has none for
    #: the highest, and a ratio below 1 is made 1.
    lowmem_reserve_per_zone: bool
    #: zone_batchsize: cap, in pages, before the division by four.
    pcp_batch_cap: int
    #: zone_highsize: "wmark" = low watermark over local CPUs; "batch" = six batches.
    pcp_high: str
    #: Pageset lists: orders 0 to this one (and THP) have their own; 0 = order 0 only.
    pcp_max_order: int
    #: build_zonelists: "add" adds one to node_load per distance group, "remaining" sets it to what is left.
    node_load: str
    #: find_next_best_node: a local node without memory still comes first.
    memoryless_local_first: bool
    #: khugepaged raises min_free_kbytes (set_recommended_min_free_kbytes).
    thp_min_free: bool
    #: With THP off it computes min_free_kbytes anew, from what lies above the high watermarks of before.
    thp_off_recalculates: bool

    # allocation

    #: Type names in pagetypeinfo, by migratetype index; None = not built into this kernel.
    migratetype_names: tuple[str | None, ...]
    #: BLOCKS_*: what is stolen from whom, and how pageblocks change their type.
    block_rules: int
    #: WMARK_*: what __zone_watermark_ok deducts.
    watermark_rules: int
    #: PAGESET_*: how pagesets fill and drain.
    pageset_rules: int
    #: DIRTY_*: what reclaim does with dirty pages of files.
    dirty_rules: int
    #: PASS_*: how kswapd's passes end and follow each other.
    pass_rules: int
    #: Zones found full are passed over for a second (zlc_setup; gone since 4.4).
    zonelist_cache: bool
    #: global_dirtyable_memory leaves out what zones keep in reserve (since 3.3).
    dirtyable_less_reserves: bool

    # boot

    #: The boot allocator is the bitmap (mm/bootmem.c); else it is memblock throughout.
    bootmem: bool
    #: Low memory that firmware may use, kB: CONFIG_X86_RESERVE_LOW, or all below 1 MiB (reserve_real_mode).
    reserve_low_kb: int
    #: sizeof(struct page), by architecture.
    struct_page_bytes: Mapping[str, int]
    #: ZONE_DEVICE is a zone type (since 4.3).
    zone_device: bool
    #: HMAT is read (drivers/acpi/numa/hmat.c, since 5.2).
    reads_hmat: bool
    #: The boot log tells of zones in lines of early_node_map (add_active_range).
    early_node_map: bool
    #: free_area_init says "Initializing node … as memoryless".
    says_initializing_memoryless: bool
    #: nr_all_pages is present pages less memory map and DMA reserve.
    total_less_memmap: bool
    #: calc_memmap_size takes the span of a zone, holes included.
    memmap_by_span: bool

    # what is shown

    #: zoneinfo prints the promo watermark.
    has_promo: bool
    #: mm_vmscan_lru_isolate has a field isolate_mode.
    traces_isolate_mode: bool
    #: mm_migrate_pages has a field nr_split.
    traces_nr_split: bool

    # sysctls (machine/sysctl.py has what most kernels have in common)

    #: Those that this kernel does not have.
    absent_sysctls: frozenset[str] = frozenset()
    #: Defaults and largest values that differ here.
    sysctl_defaults: Mapping[str, str] = field(default_factory=dict)
    sysctl_maxima: Mapping[str, int] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Major and minor number of the release: "6.1"."""
        return ".".join(self.release.split(".")[:2])


LINUX_6_1 = Profile(
    name="linux-6.1",
    release="6.1.192",
    since=(4, 8),  # per-node LRU lists, watermark_scale_factor
    min_free_kbytes_max=262144,
    wmark_highmem_zones=("HighMem",),
    watermark_scale=True,
    lowmem_reserve_per_zone=True,
    pcp_batch_cap=256,
    pcp_high="wmark",
    pcp_max_order=3,
    node_load="add",
    memoryless_local_first=True,
    thp_min_free=True,
    thp_off_recalculates=True,
    migratetype_names=("Unmovable", "Movable", "Reclaimable", "HighAtomic", None, "Isolate"),
    block_rules=BLOCKS_STEAL,
    watermark_rules=WMARK_RESERVED,
    pageset_rules=PAGESET_FREE_FACTOR,
    dirty_rules=DIRTY_LEFT,
    pass_rules=PASS_AIMS,
    zonelist_cache=False,
    dirtyable_less_reserves=True,
    bootmem=False,
    reserve_low_kb=1024,
    # 40 on i386 is what "Total pages" of the captured boots comes to
    struct_page_bytes={"x86_64": 64, "i386": 40},
    zone_device=True,
    reads_hmat=True,
    early_node_map=False,
    says_initializing_memoryless=True,
    total_less_memmap=True,
    memmap_by_span=False,
    has_promo=False,
    traces_isolate_mode=True,
    traces_nr_split=False,
)

LINUX_6_12 = replace(
    LINUX_6_1,
    name="linux-6.12",
    release="6.12.117",
    since=(6, 12),
    wmark_highmem_zones=("HighMem", "Movable"),
    memoryless_local_first=False,
    block_rules=BLOCKS_CLAIM,
    watermark_rules=WMARK_FREE_RESERVE,
    pageset_rules=PAGESET_AUTO_TUNED,
    says_initializing_memoryless=False,
    total_less_memmap=False,
    has_promo=True,
    traces_isolate_mode=False,
    traces_nr_split=True,
)

LINUX_3_0 = Profile(
    name="linux-3.0",
    release="3.0.101",
    since=(0, 0),
    min_free_kbytes_max=65536,
    wmark_highmem_zones=("HighMem",),
    watermark_scale=False,
    lowmem_reserve_per_zone=False,
    pcp_batch_cap=128,
    pcp_high="batch",
    pcp_max_order=0,
    node_load="remaining",
    memoryless_local_first=True,
    thp_min_free=True,
    thp_off_recalculates=False,
    migratetype_names=("Unmovable", "Movable", "Reclaimable", "Reserve", None, "Isolate"),
    block_rules=BLOCKS_TAKE,
    watermark_rules=WMARK_PER_ORDER,
    pageset_rules=PAGESET_HOT_COLD,
    dirty_rules=DIRTY_WRITTEN,
    pass_rules=PASS_WHOLE,
    zonelist_cache=True,
    dirtyable_less_reserves=False,
    bootmem=True,
    reserve_low_kb=64,
    # what "pages used for memmap" of boot logs of its time comes to
    struct_page_bytes={"x86_64": 56, "i386": 32},
    zone_device=False,
    reads_hmat=False,
    early_node_map=True,
    says_initializing_memoryless=False,
    total_less_memmap=True,
    memmap_by_span=True,
    has_promo=False,
    traces_isolate_mode=True,
    traces_nr_split=False,
    absent_sysctls=frozenset(
        {
            "kernel.numa_balancing",
            "vm.compact_unevictable_allowed",
            "vm.compaction_proactiveness",
            "vm.numa_stat",
            "vm.percpu_pagelist_high_fraction",
            "vm.watermark_boost_factor",
            "vm.watermark_scale_factor",
        }
    ),
    sysctl_defaults={"vm.numa_zonelist_order": "default"},
    sysctl_maxima={"vm.swappiness": 100},
)

#: Every kernel, by name. Names that its files print: ``procfs/names.py``.
PROFILES: dict[str, Profile] = {p.name: p for p in (LINUX_6_1, LINUX_6_12, LINUX_3_0)}

#: Of a machine that does not say.
DEFAULT_PROFILE = LINUX_6_1.name


def profile_of_version(version: tuple[int, int]) -> Profile:
    """The profile that behaves most like a kernel of that version (major, minor)."""
    return max((p for p in PROFILES.values() if p.since <= version), key=lambda p: p.since)
