"""Profiles: the constants and rules of one kernel version, put together from the tables of ``mm/rules``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from numa_service.mm.rules.axis import Axis, Change, Series
from numa_service.mm.rules.boot import BOOT, FILES
from numa_service.mm.rules.distributions import DISTRIBUTIONS, Distribution
from numa_service.mm.rules.hotplug_locks import HOTPLUG_LOCKS
from numa_service.mm.rules.hugetlb import HUGETLB
from numa_service.mm.rules.oom import OOM, OOM_REPORT
from numa_service.mm.rules.pages import ALLOCATION, RECLAIM
from numa_service.mm.rules.policies import POLICIES
from numa_service.mm.rules.sysctls import DEFAULTS, MAXIMA, PRESENT
from numa_service.mm.rules.unmodelled import UNMODELLED
from numa_service.mm.rules.waits import WAITS
from numa_service.mm.rules.zones import PAGESETS, WATERMARKS, ZONELISTS

#: All rules, by the group in which they are shown.
RULES: Mapping[str, tuple[Axis, ...]] = {
    "watermarks": WATERMARKS,
    "pagesets": PAGESETS,
    "zonelists": ZONELISTS,
    "allocation": ALLOCATION,
    "reclaim": RECLAIM,
    "memory policies": POLICIES,
    "hugetlb": HUGETLB,
    "OOM killer": OOM,
    "report of an OOM kill": OOM_REPORT,
    "waiting": WAITS,
    "locks of hotplug": HOTPLUG_LOCKS,
    "boot": BOOT,
    "files": FILES,
    "sysctl is there": PRESENT,
    "sysctl default": DEFAULTS,
    "sysctl maximum": MAXIMA,
    "not modelled": UNMODELLED,
}

#: Releases that stand for their series: the captured ones, and the last 3.0. Of others it is the first.
_RELEASES: Mapping[Series, str] = {(3, 0): "3.0.101", (6, 1): "6.1.192", (6, 12): "6.12.117"}

#: The last minor number of each major number; of 2.6 the third number counts.
_LAST_MINOR: Mapping[int, int] = {3: 19, 4: 20, 5: 19, 6: 19}
_OLDEST: Series = (2, 6, 30)
_LAST_2_6: Series = (2, 6, 39)
_NEWEST: Series = (6, 19)

_NAME = re.compile(r"linux-((?:2\.6\.|[3-9]\.)\d{1,2})(?:\.(\d{1,4}))?(?:-([a-z]+\d+(?:sp\d)?))?", re.ASCII)
_VERSION = re.compile(
    r"(?:Linux version )?(2\.6\.\d{1,2}|\d{1,3}\.\d{1,3})(?!\d)(?:\.(\d{1,4}))?(?!\d)(\S*)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Profile:
    """Constants and rules of one kernel version; comments name the function where that version has them."""

    name: str
    #: Release that ``/proc/version`` and the boot log show.
    release: str
    #: The series that the release is of: (6, 12), or with three numbers (2, 6, 32).
    series: Series

    # watermarks, pagesets, zonelists

    #: calculate_min_free_kbytes (3.0: init_per_zone_wmark_min): largest default of min_free_kbytes.
    min_free_kbytes_max: int
    #: __setup_per_zone_wmarks: zones whose MIN is managed/1024 clamped to 32…128 pages, and not low memory.
    wmark_highmem_zones: tuple[str, ...]
    #: __setup_per_zone_wmarks: LOW and HIGH follow watermark_scale_factor. Else they are MIN plus a quarter
    #: and plus a half of the zone's share of min_free_kbytes.
    watermark_scale: bool
    #: sysctl_lowmem_reserve_ratio has an entry for every zone type, and a ratio of 0 reserves nothing. Else
    #: it has none for the highest zone type, and a ratio below 1 is made 1.
    lowmem_reserve_per_zone: bool
    #: RESERVE_*: which zones have a lowmem_reserve, and which pages count (setup_per_zone_lowmem_reserve).
    lowmem_reserve_rules: int
    #: zone_batchsize: largest batch, in pages, before the division by four.
    pcp_batch_cap: int
    #: zone_highsize: "wmark" is the LOW watermark divided by the node's CPUs; "batch" is six batches (3.0).
    pcp_high: str
    #: Highest order that has pageset lists, beside that of huge pages; 0: order 0 only, and no huge pages.
    pcp_max_order: int
    #: LOAD_*: how build_zonelists() changes node_load of the node that begins a new distance.
    node_load: int
    #: find_next_best_node: the local node comes first even if it has no memory.
    memoryless_local_first: bool
    #: ORDER_*: whether zonelists may be in zone order (set_zonelist_order).
    zone_order: int
    #: build_zonelists: nodes farther apart than RECLAIM_DISTANCE turn vm.zone_reclaim_mode on.
    distance_sets_zone_reclaim: bool
    #: khugepaged raises min_free_kbytes (set_recommended_min_free_kbytes).
    thp_min_free: bool
    #: With THP off khugepaged recalculates min_free_kbytes, from memory above the HIGH watermarks in force.
    thp_off_recalculates: bool

    # allocation

    #: Names in pagetypeinfo, by migratetype; None: this kernel is built without that type.
    migratetype_names: tuple[str | None, ...]
    #: BLOCKS_*: fallback to other types, and how pageblocks change their type.
    block_rules: int
    #: WMARK_*: what __zone_watermark_ok() subtracts.
    watermark_rules: int
    #: PAGESET_*: how pagesets are filled and drained.
    pageset_rules: int
    #: alloc_flags_nofragment: the fast path sets ALLOC_NOFRAGMENT.
    avoids_fragmentation: bool
    #: The fast path takes pages from the zones of a node in turn, by their size (ALLOC_FAIR).
    fair_zones: bool
    #: DIRTY_*: what reclaim does with dirty pages of files.
    dirty_rules: int
    #: PASS_*: when kswapd's passes end, and how the priority changes.
    pass_rules: int
    #: Zones found full are passed over for a second (zlc_setup; removed in 4.4).
    zonelist_cache: bool
    #: global_dirtyable_memory() leaves out the zones' reserves (dirty_balance_reserve, since 3.3).
    dirtyable_less_reserves: bool

    # memory policies

    #: MPOL_* modes without the prefix (``mm/mempolicy/policy.py``).
    mempolicies: tuple[str, ...]
    #: Modes that take MPOL_F_NUMA_BALANCING; if none does, the flag is unknown.
    balanced_mempolicies: tuple[str, ...]
    #: set_mempolicy_home_node() is there.
    mempolicy_home_node: bool
    #: Bits of a page's place in its mapping or file by which it is interleaved (offset_il_node).
    interleave_offset_bits: int
    #: errno that move_pages() gives for an anonymous page that is not there.
    move_pages_absent: int

    # hugetlb

    #: htlb_alloc_mask: huge pages of a pool may come from ZONE_MOVABLE.
    hugetlb_movable: bool
    #: gigantic_page_runtime_supported: gigantic pages can be added after boot.
    gigantic_at_runtime: bool
    #: hugepages= takes numbers of single nodes.
    hugepages_per_node: bool
    #: set_max_huge_pages of one node leaves surplus pages out of what all nodes have.
    node_write_counts_persistent: bool

    # OOM killer

    #: BADNESS_*: how oom_badness() rates a task.
    oom_badness_rules: int
    #: Levels of page tables that oom_badness() counts, from the lowest.
    oom_counts_tables: int
    #: oom_kill_process: the worst child of the task that was chosen is killed in its place.
    oom_kills_child: bool
    #: oom_evaluate_task: of tasks with as many points the last is chosen, else the first.
    oom_last_of_equals: bool
    #: constrained_alloc: present pages of the nodes count, else spanned ones.
    oom_counts_present: bool
    #: Modes whose nodes say which tasks may be killed for the nodes of a policy (oom_cpuset_eligible).
    oom_policy_modes: tuple[str, ...]
    #: What the report has: oom_adj; names of gfp flags; the policy's nodes in the first line; the line
    #: "oom-kill:constraint="; the columns of the task table, and a line above it; how much is told of the
    #: task that was killed.
    oom_prints_adj: bool
    oom_prints_gfp_names: bool
    oom_prints_nodemask: bool
    oom_prints_summary: bool
    oom_task_columns: tuple[str, ...]
    oom_tasks_headed: bool
    oom_killed_fields: int

    # waiting

    #: page_waitqueue: who waits for a page is in a table of its zone; else in one of 256 queues for all.
    wait_table_per_zone: bool
    #: hash_long: addresses are multiplied with the golden ratio; else with a prime near it.
    golden_ratio_hash: bool

    #: Times that a memory block that comes on-line or goes off-line takes node_size_lock and span_seqlock.
    hotplug_locks: Mapping[str, int]

    # boot

    #: The boot allocator is bootmem (mm/bootmem.c); else it is memblock.
    bootmem: bool
    #: kB of low memory reserved for firmware: CONFIG_X86_RESERVE_LOW, or all below 1 MiB (reserve_real_mode).
    reserve_low_kb: int
    #: sizeof(struct page), by architecture.
    struct_page_bytes: Mapping[str, int]
    #: ZONE_DEVICE is a zone type (since 4.3).
    zone_device: bool
    #: The kernel reads the HMAT (drivers/acpi/numa/hmat.c, since 5.2).
    reads_hmat: bool
    #: The boot log has lines of early_node_map (add_active_range).
    early_node_map: bool
    #: free_area_init() logs "Initializing node … as memoryless".
    says_initializing_memoryless: bool
    #: build_zonelists() logs "Fallback order for Node …".
    prints_fallback_order: bool
    #: nr_all_pages ("Total pages" of the boot log) is present pages less memory map and DMA reserve.
    total_less_memmap: bool
    #: The size of a zone's memory map is taken from its span, holes included (calc_memmap_size).
    memmap_by_span: bool
    #: What start_kernel calls to set up memory, in order: the steps of mm_init (since 6.4 mm_core_init), and
    #: kmem_cache_init_late.
    mm_init: tuple[str, ...]
    #: Slab allocators that the kernel can be built with, its default first (CONFIG_SLUB, _SLAB, _SLOB).
    slab_allocators: tuple[str, ...]

    # files and tracepoints

    #: /proc/zoneinfo prints the managed pages of a zone.
    prints_managed: bool
    #: /proc/zoneinfo prints the promo watermark.
    has_promo: bool
    #: /proc/zoneinfo prints the boost of the watermarks.
    prints_boost: bool
    #: /proc/zoneinfo prints zones without pages, up to their protection.
    prints_empty_zones: bool
    #: /proc/zoneinfo prints the free CMA pages beside the sizes of a zone.
    prints_cma: bool
    #: Blocks after which pagetypeinfo stops counting a free list, so as not to hold the zone lock for too
    #: long; None: it counts all.
    freecount_limit: int | None
    #: MIGRATE_RECLAIMABLE is 1 and MIGRATE_MOVABLE 2.
    reclaimable_before_movable: bool
    #: mm_vmscan_lru_isolate has a field isolate_mode.
    traces_isolate_mode: bool
    #: mm_migrate_pages has a field nr_split.
    traces_nr_split: bool
    #: kmalloc_node and kmem_cache_alloc_node are tracepoints of their own; else the others have a field node.
    traces_kmem_node: bool
    #: kmem_cache_free has a field name.
    traces_slab_name: bool

    # sysctls (machine/sysctl.py has those that most kernels have in common)

    #: sysctls that this kernel does not have.
    absent_sysctls: frozenset[str] = frozenset()
    #: Defaults and largest values that differ from those in machine/sysctl.py.
    sysctl_defaults: Mapping[str, str] = field(default_factory=dict)
    sysctl_maxima: Mapping[str, int] = field(default_factory=dict)

    #: The distribution that the kernel is of, as DISTRIBUTIONS names it: "el8". Empty: none, or not known.
    distribution: str = ""

    @property
    def version(self) -> str:
        """The series as text: "6.1"."""
        return ".".join(map(str, self.series))


# from a version to its rules


def rule_of(axis: Axis, series: Series, patch: int | None, distribution: str = "") -> Change:
    """What a rule is in a release, or in what a distribution made of it; `patch` None: the newest."""
    taken_over = DISTRIBUTIONS[distribution].rules.get(axis.name) if distribution else None
    return axis.at(series, patch) if taken_over is None else axis.at(taken_over, None)


def profile_rules(profile: Profile) -> dict[tuple[str, str], Change]:
    """What every rule is in a profile's kernel, also those that are not modelled, by (group, axis name)."""
    patch = _patch_of(profile.name)
    return {
        (group, axis.name): rule_of(axis, profile.series, patch, profile.distribution)
        for group, axes in RULES.items()
        for axis in axes
    }


def _patch_of(name: str) -> int | None:
    found = _NAME.fullmatch(name)
    return int(found[2]) if found and found[2] else None


@lru_cache(maxsize=256)
def _profile(series: Series, patch: int | None, distribution: str) -> Profile:
    """The profile of a release: that of its series, unless the rules of the series' newest differ."""

    def values(axes: tuple[Axis, ...], patch: int | None) -> dict[str, Any]:
        return {axis.name: rule_of(axis, series, patch, distribution).value for axis in axes}

    fields = (
        *WATERMARKS,
        *PAGESETS,
        *ZONELISTS,
        *ALLOCATION,
        *RECLAIM,
        *POLICIES,
        *HUGETLB,
        *OOM,
        *OOM_REPORT,
        *WAITS,
        *HOTPLUG_LOCKS,
        *BOOT,
        *FILES,
    )
    if patch is not None:
        every = tuple(axis for axes in RULES.values() for axis in axes)
        if distribution or values(every, patch) == values(every, None):
            return _profile(series, None, distribution)
    version = ".".join(map(str, series))
    first = version if len(series) > 2 else f"{version}.0"
    suffix = distribution and f"-{distribution}"
    if patch is not None:
        name = release = f"{version}.{patch}"
    else:
        name, release = version, _RELEASES.get(series, first) if not distribution else first
    return Profile(
        name=f"linux-{name}{suffix}",
        release=f"{release}{suffix}",
        series=series,
        distribution=distribution,
        absent_sysctls=frozenset(name for name, there in values(PRESENT, patch).items() if not there),
        sysctl_defaults={name: text for name, text in values(DEFAULTS, patch).items() if text is not None},
        sysctl_maxima={name: most for name, most in values(MAXIMA, patch).items() if most is not None},
        **values(fields, patch),
    )


def profile_named(name: str) -> Profile:
    """The profile of this name: "linux-4.18", "linux-6.12.5", "linux-2.6.32" or "linux-4.18-el8".

    ValueError says which names there are. Names of one kernel's rules may be several: the profile has one.
    """
    found = _NAME.fullmatch(name)
    if found:
        series = tuple(map(int, found[1].split(".")))
        distribution = found[3] or ""
        based_on = DISTRIBUTIONS[distribution].series if distribution in DISTRIBUTIONS else None
        if series == _nearest(series) and (not distribution or series == based_on):
            return _profile(series, int(found[2]) if found[2] else None, distribution)
    oldest, newest = (".".join(map(str, series)) for series in (_OLDEST, _NEWEST))
    raise ValueError(f"unknown profile {name[:40]!r}: linux-{oldest} to linux-{newest}, or as linux-4.18-el8")


def profile_of_version(text: str) -> Profile:
    """The profile of the kernel that calls itself `text`: "4.18.0-305.el8.x86_64", "Linux version 6.1.192 …".

    A version newer or older than all known ones counts as the nearest. Where a distribution's build hides the
    stable release (Debian's "5.10.0-8-amd64"), it counts as the newest of its series. ValueError if there is
    no version in front.
    """
    found = _VERSION.match(text.strip())
    if found is None:
        raise ValueError(f"{text[:40]!r} does not begin with a kernel's version")
    told = tuple(map(int, found[1].split(".")))
    series = _nearest(told)
    distribution = next(
        (
            name
            for name, known in DISTRIBUTIONS.items()
            if known.series == series and _is_of(name, known, found[3])
        ),
        "",
    )
    built = re.match(r"-\d", found[3]) is not None and found[2] in (None, "0")
    if series != told or built or not (found[2] or "-rc" in found[3]):
        return _profile(series, None, distribution)
    return _profile(series, int(found[2] or 0), distribution)


def _is_of(name: str, known: Distribution, rest: str) -> bool:
    """Whether what stands behind the numbers of a version, as "-305.el8.x86_64", is a distribution's."""
    return bool(re.search(rf"[.-]{name}(?!\d)", rest) or (known.build and re.match(known.build, rest)))


def _nearest(series: Series) -> Series:
    """The known series nearest to this one, from below where there is one."""
    if series[0] < 3:
        return max(_OLDEST, min(series, _LAST_2_6))
    if series[0] > _NEWEST[0]:
        return _NEWEST
    return series[0], min(series[1], _LAST_MINOR[series[0]])


LINUX_6_1 = profile_named("linux-6.1")
LINUX_6_12 = profile_named("linux-6.12")
LINUX_3_0 = profile_named("linux-3.0")

#: The profiles that captures and sources were compared with closely, by name.
PROFILES: dict[str, Profile] = {p.name: p for p in (LINUX_6_1, LINUX_6_12, LINUX_3_0)}

#: Profile of a machine that does not name one.
DEFAULT_PROFILE = LINUX_6_1.name
