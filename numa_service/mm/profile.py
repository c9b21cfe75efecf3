"""Kernels, as data: the constants and named strategies in which kernel versions differ."""

from __future__ import annotations

from dataclasses import dataclass


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
    #: Type names in pagetypeinfo, by migratetype index; None = not built into this kernel.
    migratetype_names: tuple[str | None, ...]
    #: zoneinfo prints the promo watermark.
    has_promo: bool


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
    migratetype_names=("Unmovable", "Movable", "Reclaimable", "HighAtomic", None, "Isolate"),
    has_promo=False,
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
    migratetype_names=("Unmovable", "Movable", "Reclaimable", "HighAtomic", None, "Isolate"),
    has_promo=True,
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
    migratetype_names=("Unmovable", "Movable", "Reclaimable", "Reserve", None, "Isolate"),
    has_promo=False,
)

PROFILES: dict[str, Profile] = {p.name: p for p in (LINUX_6_1, LINUX_6_12, LINUX_3_0)}
