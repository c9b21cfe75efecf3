"""Kernels, as data: the constants and named strategies in which kernel versions differ."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Profile:
    """Constants of one kernel version. Sources: the functions named per field, in that version."""

    name: str
    #: Release that ``/proc/version`` and the boot log show.
    release: str
    #: init_per_zone_wmark_min: bounds of min_free_kbytes.
    min_free_kbytes_max: int
    #: setup_per_zone_wmarks: zones whose min is managed/1024 clamped to 32…128; they are not lowmem.
    wmark_highmem_zones: tuple[str, ...]
    #: setup_per_zone_wmarks: low and high from watermark_scale_factor (else min/4 and min/2).
    watermark_scale: bool
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
    #: Type names in pagetypeinfo, by migratetype index; None = not built into this kernel.
    migratetype_names: tuple[str | None, ...]
    #: zoneinfo prints the promo watermark.
    has_promo: bool
    #: BLOCKS_*: what is stolen from whom, and how pageblocks change their type.
    block_rules: int
    #: WMARK_*: what __zone_watermark_ok deducts.
    watermark_rules: int
    #: PAGESET_*: how pagesets fill and drain.
    pageset_rules: int
    #: Zones found full are passed over for a second (zlc_setup; gone since 4.4).
    zonelist_cache: bool = False


LINUX_6_1 = Profile(
    name="linux-6.1",
    release="6.1.192",
    min_free_kbytes_max=262144,
    wmark_highmem_zones=("HighMem",),
    watermark_scale=True,
    pcp_batch_cap=256,
    pcp_high="wmark",
    pcp_max_order=3,
    node_load="add",
    memoryless_local_first=True,
    thp_min_free=True,
    thp_off_recalculates=True,
    migratetype_names=("Unmovable", "Movable", "Reclaimable", "HighAtomic", None, "Isolate"),
    has_promo=False,
    block_rules=BLOCKS_STEAL,
    watermark_rules=WMARK_RESERVED,
    pageset_rules=PAGESET_FREE_FACTOR,
)

LINUX_6_12 = Profile(
    name="linux-6.12",
    release="6.12.117",
    min_free_kbytes_max=262144,
    wmark_highmem_zones=("HighMem", "Movable"),
    watermark_scale=True,
    pcp_batch_cap=256,
    pcp_high="wmark",
    pcp_max_order=3,
    node_load="add",
    memoryless_local_first=False,
    thp_min_free=True,
    thp_off_recalculates=True,
    migratetype_names=("Unmovable", "Movable", "Reclaimable", "HighAtomic", None, "Isolate"),
    has_promo=True,
    block_rules=BLOCKS_CLAIM,
    watermark_rules=WMARK_FREE_RESERVE,
    pageset_rules=PAGESET_AUTO_TUNED,
)

LINUX_3_0 = Profile(
    name="linux-3.0",
    release="3.0.101",
    min_free_kbytes_max=65536,
    wmark_highmem_zones=("HighMem",),
    watermark_scale=False,
    pcp_batch_cap=128,
    pcp_high="batch",
    pcp_max_order=0,
    node_load="remaining",
    memoryless_local_first=True,
    thp_min_free=True,
    thp_off_recalculates=False,
    migratetype_names=("Unmovable", "Movable", "Reclaimable", "Reserve", None, "Isolate"),
    has_promo=False,
    block_rules=BLOCKS_TAKE,
    watermark_rules=WMARK_PER_ORDER,
    pageset_rules=PAGESET_HOT_COLD,
    zonelist_cache=True,
)

PROFILES: dict[str, Profile] = {p.name: p for p in (LINUX_6_1, LINUX_6_12, LINUX_3_0)}
