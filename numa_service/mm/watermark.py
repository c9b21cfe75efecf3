"""Computation of watermarks, lowmem_reserve and pageset sizes (``mm/page_alloc.c``, ``mm/vmstat.c``).

These are the numbers that ``/proc/zoneinfo`` shows. A zone's share of min_free_kbytes is its share of all low
memory, so that watermarks are computed for all nodes at once. `managed` is always a mapping or list of
managed pages by zone, empty zones included; results are pages unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

from numa_service.mm.mmzone import PAGE_SHIFT, PAGEBLOCK_NR_PAGES
from numa_service.mm.profile import Profile
from numa_service.mm.variants import RESERVE_FORCED, RESERVE_SKIPPED

DEFAULT_WATERMARK_SCALE_FACTOR = 10
#: MIN_PERCPU_PAGELIST_HIGH_FRACTION: from 6.7, high_max of pagesets is 1/8 of the zone, divided by its CPUs.
PAGESET_HIGH_MAX_FRACTION = 8

#: hugepage_init() turns THP, and khugepaged with it, off on machines with less than 512 MiB.
THP_LEAST_PAGES = 512 << (20 - PAGE_SHIFT)

#: A zone of the machine: (nid, zone name).
ZoneKey = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Watermarks:
    """The watermarks of one zone, in pages, without boost."""

    min: int
    low: int
    high: int
    promo: int


def highmem_zones(managed: Mapping[ZoneKey, int], profile: Profile) -> frozenset[str]:
    """Names of the zones that count as high memory (is_highmem): their min is clamped.

    On a machine with high memory ZONE_MOVABLE consists of it, and is high memory as well.
    """
    names = frozenset(profile.wmark_highmem_zones)
    has_highmem = any(pages for (_, zone), pages in managed.items() if zone == "HighMem")
    return names | {"Movable"} if has_highmem else names


def lowmem_pages(managed: Mapping[ZoneKey, int], profile: Profile) -> int:
    """Managed pages of low memory, among which min_free_kbytes is divided (__setup_per_zone_wmarks)."""
    high = highmem_zones(managed, profile)
    return sum(pages for (_, zone), pages in managed.items() if zone not in high)


def calculate_min_free_kbytes(managed: Mapping[ZoneKey, int], profile: Profile) -> int:
    """Default of min_free_kbytes: √(lowmem kB × 16), at least 128 (init_per_zone_wmark_min).

    lowmem is nr_free_buffer_pages(), the memory that GFP_USER may use; the largest value is the profile's.
    """
    kbytes = free_buffer_pages(managed) << (PAGE_SHIFT - 10)
    return max(128, min(isqrt(kbytes * 16), profile.min_free_kbytes_max))


def free_buffer_pages(managed: Mapping[ZoneKey, int]) -> int:
    """Managed pages of zones that GFP_USER may use (nr_free_buffer_pages before there are watermarks)."""
    return sum(pages for (_, zone), pages in managed.items() if zone not in ("HighMem", "Movable"))


def recommended_min_free_kbytes(
    managed: Mapping[ZoneKey, int],
    profile: Profile,
    plain: int | None = None,
    populated: Collection[ZoneKey] | None = None,
) -> int:
    """The min_free_kbytes to which khugepaged raises it with THP on (set_recommended_min_free_kbytes).

    For each zone it is two pageblocks, and nine more for fallbacks between three migratetypes. But it is at
    most 1/20 of nr_free_buffer_pages(), which leaves out the HIGH watermarks in force. Those are the ones
    that min_free_kbytes `plain` makes: at boot, and if None, the result of :func:`calculate_min_free_kbytes`.
    `populated` are the zones with present pages, which count even if none is managed; None: those with
    managed pages.
    """
    counted = [key for key, pages in managed.items() if pages] if populated is None else populated
    zones = sum(1 for _, zone in counted if zone not in ("HighMem", "Movable"))
    pages = PAGEBLOCK_NR_PAGES * zones * (2 + 3 * 3)
    if plain is None:
        plain = calculate_min_free_kbytes(managed, profile)
    pages = min(pages, free_buffer_pages(above_high(managed, profile, plain)) // 20)
    return pages << (PAGE_SHIFT - 10)


def boot_min_free_kbytes(
    managed: Mapping[ZoneKey, int],
    profile: Profile,
    thp: bool,
    populated: Collection[ZoneKey] | None = None,
) -> int:
    """min_free_kbytes after boot, if no sysctl sets it: khugepaged may raise or recalculate it.

    On machines with less than 512 MiB khugepaged does not start (hugepage_init). With THP off, 6.x calculates
    it again, from nr_free_buffer_pages() less the watermarks in force (calculate_min_free_kbytes).
    """
    plain = calculate_min_free_kbytes(managed, profile)
    if not profile.thp_min_free or sum(managed.values()) < THP_LEAST_PAGES:
        return plain
    if thp:
        return max(plain, recommended_min_free_kbytes(managed, profile, populated=populated))
    if profile.thp_off_recalculates:
        return calculate_min_free_kbytes(above_high(managed, profile, plain), profile)
    return plain


def above_high(managed: Mapping[ZoneKey, int], profile: Profile, min_free_kbytes: int) -> dict[ZoneKey, int]:
    """Managed pages less the HIGH watermark that `min_free_kbytes` makes, by zone (nr_free_zone_pages)."""
    marks = setup_per_zone_wmarks(managed, profile, min_free_kbytes, DEFAULT_WATERMARK_SCALE_FACTOR)
    return {key: max(0, pages - marks[key].high) for key, pages in managed.items()}


def setup_per_zone_wmarks(
    managed: Mapping[ZoneKey, int], profile: Profile, min_free_kbytes: int, watermark_scale_factor: int
) -> dict[ZoneKey, Watermarks]:
    """Watermarks of every zone (__setup_per_zone_wmarks; setup_per_zone_wmarks in 3.0)."""
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
    managed: Sequence[int], ratio: Sequence[int], profile: Profile
) -> list[list[int]]:
    """lowmem_reserve[zone][class] of one node; `managed` by zone index.

    From requests whose highest zone is above it, a zone keeps back 1/ratio of the managed pages of all zones
    of the node above it, up to that one. The profile's RESERVE_* say what a ratio below 1 means, whether
    empty zones have reserves, and whether the pages of a zone without reserve count for the zones below.
    """
    rules = profile.lowmem_reserve_rules
    nr_zones = len(managed)
    divisors = [ratio[zone] if zone < len(ratio) else 0 for zone in range(nr_zones)]
    if rules == RESERVE_FORCED:
        divisors = [max(divisor, 1) for divisor in divisors]
    keeps = [
        divisor >= 1 and (pages > 0 or rules < RESERVE_SKIPPED)
        for divisor, pages in zip(divisors, managed, strict=True)
    ]
    reserve = [[0] * nr_zones for _ in range(nr_zones)]
    for upper in range(1, nr_zones):
        above = managed[upper]
        for zone in range(upper - 1, -1, -1):
            if keeps[zone]:
                reserve[zone][upper] = above // divisors[zone]
            if keeps[zone] or rules != RESERVE_SKIPPED:
                above += managed[zone]
    return reserve


def zone_batchsize(managed: int, profile: Profile) -> int:
    """per_cpu_pages.batch: pages moved at once between a pageset and the buddy lists (zone_batchsize)."""
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
    """per_cpu_pages.high: pages that one CPU's pageset of a zone may hold (zone_highsize).

    It is the LOW watermark, or 1/high_fraction of the zone, divided by the number of CPUs of the zone's node
    (of all CPUs if it has none), at least four batches. In 3.0 it is six batches, or 1/high_fraction of the
    zone.
    """
    if profile.pcp_high == "batch":
        return managed // high_fraction if high_fraction else 6 * batch
    total = managed // high_fraction if high_fraction else wmark_low
    return max(total // max(local_cpus or online_cpus, 1), 4 * batch)


def stat_threshold(managed: int, online_cpus: int) -> int:
    """Pages that a CPU may keep to itself in its part of a counter (calculate_normal_threshold)."""
    mem = managed >> (27 - PAGE_SHIFT)
    return min(125, 2 * online_cpus.bit_length() * (1 + mem.bit_length()))


def pressure_threshold(marks: Watermarks, online_cpus: int) -> int:
    """The same while kswapd runs: all CPUs together less than LOW - MIN (calculate_pressure_threshold)."""
    return min(125, max(1, (marks.low - marks.min) // max(online_cpus, 1)))


def percpu_drift_mark(managed: int, marks: Watermarks, online_cpus: int) -> int:
    """Free pages below which kswapd adds every CPU's part to the counter (refresh_zone_stat_thresholds).

    0 if all parts together cannot exceed LOW - MIN, so that kswapd never has to.
    """
    drift = online_cpus * stat_threshold(managed, online_cpus)
    return marks.high + drift if drift > marks.low - marks.min else 0
