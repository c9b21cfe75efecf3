"""Watermarks, lowmem_reserve and pageset sizes of every zone (``mm/page_alloc.c``).

Pure arithmetic on page counts: the numbers that ``/proc/zoneinfo`` shows. They depend on the whole
machine (a zone's share of min_free_kbytes is by its part of all low memory), so they are computed for all
nodes at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

from numa_service.mm.mmzone import PAGE_SHIFT, PAGEBLOCK_NR_PAGES
from numa_service.mm.profile import Profile

DEFAULT_WATERMARK_SCALE_FACTOR = 10
#: MIN_PERCPU_PAGELIST_HIGH_FRACTION: an auto-tuned pageset may hold this part of its zone.
PAGESET_HIGH_MAX_FRACTION = 8

#: hugepage_init leaves THP off, and khugepaged with it, on machines of less than 512 MiB.
THP_LEAST_PAGES = 512 << (20 - PAGE_SHIFT)

#: (nid, zone name): a zone of the machine.
ZoneKey = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Watermarks:
    """min, low, high and promo of one zone, in pages, without boost."""

    min: int
    low: int
    high: int
    promo: int


def highmem_zones(managed: Mapping[ZoneKey, int], profile: Profile) -> frozenset[str]:
    """Zones whose min is clamped, and which are not low memory (is_highmem).

    Where there is high memory, ZONE_MOVABLE is taken from it, and is high memory too.
    """
    names = frozenset(profile.wmark_highmem_zones)
    has_highmem = any(pages for (_, zone), pages in managed.items() if zone == "HighMem")
    return names | {"Movable"} if has_highmem else names


def lowmem_pages(managed: Mapping[ZoneKey, int], profile: Profile) -> int:
    """Pages that share min_free_kbytes: everything that is not in a highmem-like zone."""
    high = highmem_zones(managed, profile)
    return sum(pages for (_, zone), pages in managed.items() if zone not in high)


def calculate_min_free_kbytes(managed: Mapping[ZoneKey, int], profile: Profile) -> int:
    """min_free_kbytes when nobody set it (init_per_zone_wmark_min): √(lowmem kB × 16), clamped.

    Low memory here is nr_free_buffer_pages(): what GFP_USER may use.
    """
    kbytes = free_buffer_pages(managed) << (PAGE_SHIFT - 10)
    return max(128, min(isqrt(kbytes * 16), profile.min_free_kbytes_max))


def free_buffer_pages(managed: Mapping[ZoneKey, int]) -> int:
    """Managed pages of zones that GFP_USER may use (nr_free_buffer_pages at boot)."""
    return sum(pages for (_, zone), pages in managed.items() if zone not in ("HighMem", "Movable"))


def recommended_min_free_kbytes(
    managed: Mapping[ZoneKey, int], profile: Profile, plain: int | None = None
) -> int:
    """What khugepaged raises min_free_kbytes to with THP on (set_recommended_min_free_kbytes).

    Two pageblocks a zone, and room for all fallbacks between three migratetypes; at most 5 % of low memory,
    less the high watermarks that min_free_kbytes without THP had set by then (nr_free_buffer_pages): `plain`,
    at boot calculate_min_free_kbytes().
    """
    zones = sum(1 for (_, zone), pages in managed.items() if pages and zone not in ("HighMem", "Movable"))
    pages = PAGEBLOCK_NR_PAGES * zones * (2 + 3 * 3)
    if plain is None:
        plain = calculate_min_free_kbytes(managed, profile)
    pages = min(pages, free_buffer_pages(_above_high(managed, profile, plain)) // 20)
    return pages << (PAGE_SHIFT - 10)


def boot_min_free_kbytes(managed: Mapping[ZoneKey, int], profile: Profile, thp: bool) -> int:
    """min_free_kbytes once the initcalls are through, nobody having set it.

    With less than 512 MiB khugepaged never looks at it (hugepage_init). With THP off, 6.x recalculates.
    """
    plain = calculate_min_free_kbytes(managed, profile)
    if not profile.thp_min_free or sum(managed.values()) < THP_LEAST_PAGES:
        return plain
    if thp:
        return max(plain, recommended_min_free_kbytes(managed, profile))
    if profile.thp_off_recalculates:
        return calculate_min_free_kbytes(_above_high(managed, profile, plain), profile)
    return plain


def _above_high(managed: Mapping[ZoneKey, int], profile: Profile, min_free_kbytes: int) -> dict[ZoneKey, int]:
    """Pages above the high watermarks that this min_free_kbytes makes (nr_free_zone_pages)."""
    marks = setup_per_zone_wmarks(managed, profile, min_free_kbytes, DEFAULT_WATERMARK_SCALE_FACTOR)
    return {key: max(0, pages - marks[key].high) for key, pages in managed.items()}


def setup_per_zone_wmarks(
    managed: Mapping[ZoneKey, int], profile: Profile, min_free_kbytes: int, watermark_scale_factor: int
) -> dict[ZoneKey, Watermarks]:
    """Watermarks of every zone (__setup_per_zone_wmarks); `managed` in pages, empty zones too."""
    pages_min = min_free_kbytes >> (PAGE_SHIFT - 10)
    lowmem = lowmem_pages(managed, profile)
    highmem = highmem_zones(managed, profile)
    result = {}
    for key, pages in managed.items():
        share = pages_min * pages // lowmem if lowmem else 0
        wmark_min = share
        if key[1] in highmem:
            wmark_min = max(32, min(pages // 1024, 128)) if pages else 0
        gap = share >> 2
        if profile.watermark_scale:
            gap = max(gap, pages * watermark_scale_factor // 10000)
            low, high, promo = wmark_min + gap, wmark_min + 2 * gap, wmark_min + 3 * gap
        else:
            low, high = wmark_min + gap, wmark_min + (share >> 1)
            promo = high
        result[key] = Watermarks(wmark_min, low, high, promo)
    return result


def setup_per_zone_lowmem_reserve(
    managed: Sequence[int], ratio: Sequence[int], force_ratio: bool = False
) -> list[list[int]]:
    """lowmem_reserve[zone][class] of one node; `managed` by zone index.

    A zone keeps back, from requests that could use a higher zone, its ratio-th part of what lies above it in
    the same node. With `force_ratio` (3.0) a ratio is at least 1; later, a ratio of 0 or an empty zone
    reserves nothing.
    """
    nr_zones = len(managed)
    reserve = [[0] * nr_zones for _ in range(nr_zones)]
    for zone in range(nr_zones - 1):
        divisor = ratio[zone] if zone < len(ratio) else 0
        if force_ratio:
            divisor = max(divisor, 1)
        above = 0
        for upper in range(zone + 1, nr_zones):
            above += managed[upper]
            if divisor >= 1 and managed[zone]:
                reserve[zone][upper] = above // divisor
    return reserve


def zone_batchsize(managed: int, profile: Profile) -> int:
    """Pages moved at once between a pageset and the buddy lists (zone_batchsize)."""
    batch = max(min(managed // 1024, profile.pcp_batch_cap) // 4, 1)
    return max(1, (1 << ((batch + batch // 2).bit_length() - 1)) - 1)


def zone_highsize(
    managed: int,
    wmark_low: int,
    batch: int,
    local_cpus: int,
    online_cpus: int,
    profile: Profile,
    high_fraction: int,
) -> int:
    """Pages that one CPU's pageset of a zone may hold (zone_highsize).

    The low watermark, or 1/high_fraction of the zone, split over the CPUs of the zone's node (over all
    CPUs if it has none); at least four batches.
    """
    if profile.pcp_high == "batch":
        return managed // high_fraction if high_fraction else 6 * batch
    total = managed // high_fraction if high_fraction else wmark_low
    return max(total // max(local_cpus or online_cpus, 1), 4 * batch)


def stat_threshold(managed: int, online_cpus: int) -> int:
    """Drift a CPU may keep in its own counters (calculate_normal_threshold)."""
    mem = managed >> (27 - PAGE_SHIFT)
    return min(125, 2 * online_cpus.bit_length() * (1 + mem.bit_length()))


def pressure_threshold(marks: Watermarks, online_cpus: int) -> int:
    """Drift a CPU may keep while kswapd is awake (calculate_pressure_threshold): never past the MIN mark."""
    return min(125, max(1, (marks.low - marks.min) // max(online_cpus, 1)))


def percpu_drift_mark(managed: int, marks: Watermarks, online_cpus: int) -> int:
    """Free pages below which kswapd adds up every CPU's part; 0 where drift cannot hide a failed mark.

    (refresh_zone_stat_thresholds.)
    """
    drift = online_cpus * stat_threshold(managed, online_cpus)
    return marks.high + drift if drift > marks.low - marks.min else 0
