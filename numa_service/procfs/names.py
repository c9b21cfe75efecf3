"""What files of the kernels say, per profile: names of lines in their order, and forms that differ.

Facts copied from captures of booted kernels (6.1, 6.12) and from 3.0's ``mm/vmstat.c`` (``vmstat_text[]``),
``fs/proc/meminfo.c`` and ``drivers/base/node.c``. A name that ends in ``_*`` stands for one line a zone type.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from numa_service.machine.spec import MachineSpec
from numa_service.mm.mmzone import ZONE_NAMES
from numa_service.mm.profile import PROFILES
from numa_service.mm.snapshot import MachineSnapshot

#: Per-zone NUMA events (CONFIG_NUMA), every profile.
NUMA_STAT = ("numa_hit", "numa_miss", "numa_foreign", "numa_interleave", "numa_local", "numa_other")

#: The same events as ``/sys/devices/system/node/nodeN/numastat`` names them.
NODE_NUMASTAT = ("numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node")


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True, slots=True)
class KernelNames:
    """What one kernel prints, built with everything on; :func:`kernel_names` takes out the rest."""

    zone_stat: tuple[str, ...]
    node_stat: tuple[str, ...]
    #: Computed or boot-time lines of vmstat between the counters and the events.
    vmstat_extra: tuple[str, ...]
    vm_event: tuple[str, ...]
    meminfo: tuple[str, ...]
    node_meminfo: tuple[str, ...]
    #: Labels of a node's meminfo that are padded one column less than the others.
    node_meminfo_short: tuple[str, ...]
    #: Files of cpuN/topology. The names in _siblings are those before 5.3, kept since.
    topology: tuple[str, ...]
    #: Every counter is a zone's, and zoneinfo prints them so (before 4.8).
    counts_per_zone: bool
    #: pagetypeinfo stops counting a free list here, so as not to hold the zone lock for too long (since 5.4).
    freecount_limit: int | None
    #: MIGRATE_RECLAIMABLE is 1 and MIGRATE_MOVABLE 2 (up to 4.3).
    reclaimable_before_movable: bool
    #: Of the first swap area, unless somebody set it (least_priority).
    swap_priority: int
    #: What becomes of memory that is added, as the captured distribution configures it.
    auto_online_blocks: str
    #: Kinds of files that this kernel does not have: patterns of ``procfs/tree.py``.
    absent_files: frozenset[str]


_ZONE_STAT_6_1 = _names(
    """
    nr_free_pages nr_zone_inactive_anon nr_zone_active_anon nr_zone_inactive_file nr_zone_active_file
    nr_zone_unevictable nr_zone_write_pending nr_mlock nr_bounce nr_zspages nr_free_cma
    """
)

_NODE_STAT_6_1 = _names(
    """
    nr_inactive_anon nr_active_anon nr_inactive_file nr_active_file nr_unevictable nr_slab_reclaimable
    nr_slab_unreclaimable nr_isolated_anon nr_isolated_file workingset_nodes workingset_refault_anon
    workingset_refault_file workingset_activate_anon workingset_activate_file workingset_restore_anon
    workingset_restore_file workingset_nodereclaim nr_anon_pages nr_mapped nr_file_pages nr_dirty
    nr_writeback nr_writeback_temp nr_shmem nr_shmem_hugepages nr_shmem_pmdmapped nr_file_hugepages
    nr_file_pmdmapped nr_anon_transparent_hugepages nr_vmscan_write nr_vmscan_immediate_reclaim nr_dirtied
    nr_written nr_throttled_written nr_kernel_misc_reclaimable nr_foll_pin_acquired nr_foll_pin_released
    nr_kernel_stack nr_page_table_pages nr_sec_page_table_pages nr_swapcached pgpromote_success
    pgpromote_candidate
    """
)

_VM_EVENT_6_1 = _names(
    """
    pgpgin pgpgout pswpin pswpout pgalloc_* allocstall_* pgskip_* pgfree pgactivate pgdeactivate pglazyfree
    pgfault pgmajfault pglazyfreed pgrefill pgreuse pgsteal_kswapd pgsteal_direct pgdemote_kswapd
    pgdemote_direct pgscan_kswapd pgscan_direct pgscan_direct_throttle pgscan_anon pgscan_file pgsteal_anon
    pgsteal_file zone_reclaim_failed pginodesteal slabs_scanned kswapd_inodesteal
    kswapd_low_wmark_hit_quickly kswapd_high_wmark_hit_quickly pageoutrun pgrotated drop_pagecache drop_slab
    oom_kill numa_pte_updates numa_huge_pte_updates numa_hint_faults numa_hint_faults_local
    numa_pages_migrated pgmigrate_success pgmigrate_fail thp_migration_success thp_migration_fail
    thp_migration_split compact_migrate_scanned compact_free_scanned compact_isolated compact_stall
    compact_fail compact_success compact_daemon_wake compact_daemon_migrate_scanned
    compact_daemon_free_scanned htlb_buddy_alloc_success htlb_buddy_alloc_fail unevictable_pgs_culled
    unevictable_pgs_scanned unevictable_pgs_rescued unevictable_pgs_mlocked unevictable_pgs_munlocked
    unevictable_pgs_cleared unevictable_pgs_stranded thp_fault_alloc thp_fault_fallback
    thp_fault_fallback_charge thp_collapse_alloc thp_collapse_alloc_failed thp_file_alloc thp_file_fallback
    thp_file_fallback_charge thp_file_mapped thp_split_page thp_split_page_failed thp_deferred_split_page
    thp_split_pmd thp_scan_exceed_none_pte thp_scan_exceed_swap_pte thp_scan_exceed_share_pte thp_split_pud
    thp_zero_page_alloc thp_zero_page_alloc_failed thp_swpout thp_swpout_fallback balloon_inflate
    balloon_deflate balloon_migrate swap_ra swap_ra_hit ksm_swpin_copy cow_ksm zswpin zswpout
    direct_map_level2_splits direct_map_level3_splits nr_unstable
    """
)

_MEMINFO_6_1 = _names(
    """
    MemTotal MemFree MemAvailable Buffers Cached SwapCached Active Inactive Active(anon) Inactive(anon)
    Active(file) Inactive(file) Unevictable Mlocked HighTotal HighFree LowTotal LowFree SwapTotal SwapFree
    Zswap Zswapped Dirty Writeback AnonPages Mapped Shmem KReclaimable Slab SReclaimable SUnreclaim
    KernelStack PageTables SecPageTables NFS_Unstable Bounce WritebackTmp CommitLimit Committed_AS
    VmallocTotal VmallocUsed VmallocChunk Percpu HardwareCorrupted AnonHugePages ShmemHugePages
    ShmemPmdMapped FileHugePages FilePmdMapped HugePages_Total HugePages_Free HugePages_Rsvd HugePages_Surp
    Hugepagesize Hugetlb DirectMap4k DirectMap2M
    """
)

_NODE_MEMINFO_6_1 = _names(
    """
    MemTotal MemFree MemUsed SwapCached Active Inactive Active(anon) Inactive(anon) Active(file)
    Inactive(file) Unevictable Mlocked Dirty Writeback FilePages Mapped AnonPages Shmem KernelStack
    PageTables SecPageTables NFS_Unstable Bounce WritebackTmp KReclaimable Slab SReclaimable SUnreclaim
    AnonHugePages ShmemHugePages ShmemPmdMapped FileHugePages FilePmdMapped HugePages_Total HugePages_Free
    HugePages_Surp
    """
)

_NODE_STAT_6_12 = _names(
    """
    nr_inactive_anon nr_active_anon nr_inactive_file nr_active_file nr_unevictable nr_slab_reclaimable
    nr_slab_unreclaimable nr_isolated_anon nr_isolated_file workingset_nodes workingset_refault_anon
    workingset_refault_file workingset_activate_anon workingset_activate_file workingset_restore_anon
    workingset_restore_file workingset_nodereclaim nr_anon_pages nr_mapped nr_file_pages nr_dirty
    nr_writeback nr_writeback_temp nr_shmem nr_shmem_hugepages nr_shmem_pmdmapped nr_file_hugepages
    nr_file_pmdmapped nr_anon_transparent_hugepages nr_vmscan_write nr_vmscan_immediate_reclaim nr_dirtied
    nr_written nr_throttled_written nr_kernel_misc_reclaimable nr_foll_pin_acquired nr_foll_pin_released
    nr_kernel_stack nr_page_table_pages nr_sec_page_table_pages nr_iommu_pages nr_swapcached
    pgpromote_success pgpromote_candidate pgdemote_kswapd pgdemote_direct pgdemote_khugepaged
    """
)

_VM_EVENT_6_12 = _names(
    """
    pgpgin pgpgout pswpin pswpout pgalloc_* allocstall_* pgskip_* pgfree pgactivate pgdeactivate pglazyfree
    pgfault pgmajfault pglazyfreed pgrefill pgreuse pgsteal_kswapd pgsteal_direct pgsteal_khugepaged
    pgscan_kswapd pgscan_direct pgscan_khugepaged pgscan_direct_throttle pgscan_anon pgscan_file
    pgsteal_anon pgsteal_file zone_reclaim_success zone_reclaim_failed pginodesteal slabs_scanned
    kswapd_inodesteal kswapd_low_wmark_hit_quickly kswapd_high_wmark_hit_quickly pageoutrun pgrotated
    drop_pagecache drop_slab oom_kill numa_pte_updates numa_huge_pte_updates numa_hint_faults
    numa_hint_faults_local numa_pages_migrated pgmigrate_success pgmigrate_fail thp_migration_success
    thp_migration_fail thp_migration_split compact_migrate_scanned compact_free_scanned compact_isolated
    compact_stall compact_fail compact_success compact_daemon_wake compact_daemon_migrate_scanned
    compact_daemon_free_scanned htlb_buddy_alloc_success htlb_buddy_alloc_fail unevictable_pgs_culled
    unevictable_pgs_scanned unevictable_pgs_rescued unevictable_pgs_mlocked unevictable_pgs_munlocked
    unevictable_pgs_cleared unevictable_pgs_stranded thp_fault_alloc thp_fault_fallback
    thp_fault_fallback_charge thp_collapse_alloc thp_collapse_alloc_failed thp_file_alloc thp_file_fallback
    thp_file_fallback_charge thp_file_mapped thp_split_page thp_split_page_failed thp_deferred_split_page
    thp_underused_split_page thp_split_pmd thp_scan_exceed_none_pte thp_scan_exceed_swap_pte
    thp_scan_exceed_share_pte thp_split_pud thp_zero_page_alloc thp_zero_page_alloc_failed thp_swpout
    thp_swpout_fallback balloon_inflate balloon_deflate balloon_migrate swap_ra swap_ra_hit swpin_zero
    swpout_zero ksm_swpin_copy cow_ksm zswpin zswpout zswpwb direct_map_level2_splits
    direct_map_level3_splits nr_unstable
    """
)


def _after(names: tuple[str, ...], before: str, name: str) -> tuple[str, ...]:
    at = names.index(before) + 1
    return (*names[:at], name, *names[at:])


_DIRTY_THRESHOLDS = ("nr_dirty_threshold", "nr_dirty_background_threshold")

# 3.0 counts everything per zone. nr_anon_transparent_hugepages comes after the NUMA events there: it is
# printed by the renderers from node_stat, which has no other member.
_ZONE_STAT_3_0 = _names(
    """
    nr_free_pages nr_inactive_anon nr_active_anon nr_inactive_file nr_active_file nr_unevictable nr_mlock
    nr_anon_pages nr_mapped nr_file_pages nr_dirty nr_writeback nr_slab_reclaimable nr_slab_unreclaimable
    nr_page_table_pages nr_kernel_stack nr_unstable nr_bounce nr_vmscan_write nr_writeback_temp
    nr_isolated_anon nr_isolated_file nr_shmem nr_dirtied nr_written
    """
)

_VM_EVENT_3_0 = _names(
    """
    pgpgin pgpgout pswpin pswpout pgalloc_* pgfree pgactivate pgdeactivate pgfault pgmajfault pgrefill_*
    pgsteal_* pgscan_kswapd_* pgscan_direct_* zone_reclaim_failed pginodesteal slabs_scanned kswapd_steal
    kswapd_inodesteal kswapd_low_wmark_hit_quickly kswapd_high_wmark_hit_quickly kswapd_skip_congestion_wait
    pageoutrun allocstall pgrotated compact_blocks_moved compact_pages_moved compact_pagemigrate_failed
    compact_stall compact_fail compact_success htlb_buddy_alloc_success htlb_buddy_alloc_fail
    unevictable_pgs_culled unevictable_pgs_scanned unevictable_pgs_rescued unevictable_pgs_mlocked
    unevictable_pgs_munlocked unevictable_pgs_cleared unevictable_pgs_stranded unevictable_pgs_mlockfreed
    thp_fault_alloc thp_fault_fallback thp_collapse_alloc thp_collapse_alloc_failed thp_split
    """
)

_MEMINFO_3_0 = _names(
    """
    MemTotal MemFree Buffers Cached SwapCached Active Inactive Active(anon) Inactive(anon) Active(file)
    Inactive(file) Unevictable Mlocked HighTotal HighFree LowTotal LowFree SwapTotal SwapFree Dirty
    Writeback AnonPages Mapped Shmem Slab SReclaimable SUnreclaim KernelStack PageTables NFS_Unstable
    Bounce WritebackTmp CommitLimit Committed_AS VmallocTotal VmallocUsed VmallocChunk HardwareCorrupted
    AnonHugePages HugePages_Total HugePages_Free HugePages_Rsvd HugePages_Surp Hugepagesize DirectMap4k
    DirectMap2M
    """
)

_NODE_MEMINFO_3_0 = _names(
    """
    MemTotal MemFree MemUsed Active Inactive Active(anon) Inactive(anon) Active(file) Inactive(file)
    Unevictable Mlocked Dirty Writeback FilePages Mapped AnonPages Shmem KernelStack PageTables
    NFS_Unstable Bounce WritebackTmp Slab SReclaimable SUnreclaim AnonHugePages HugePages_Total
    HugePages_Free HugePages_Surp
    """
)

_TOPOLOGY_3_0 = _names(
    "physical_package_id core_id core_siblings core_siblings_list thread_siblings thread_siblings_list"
)
_TOPOLOGY_6_1 = _names(
    """
    physical_package_id core_id die_id package_cpus package_cpus_list die_cpus die_cpus_list core_cpus
    core_cpus_list core_siblings core_siblings_list thread_siblings thread_siblings_list
    """
)

_NODE_MEMORY_FAILURE = "sys/devices/system/node/node*/memory_failure/*"
_ABSENT_3_0 = _names(
    """
    sys/devices/system/node/has_generic_initiator sys/devices/system/memory/auto_online_blocks
    sys/devices/system/memory/memory*/online sys/devices/system/memory/memory*/removable
    sys/devices/system/memory/memory*/valid_zones sys/kernel/mm/transparent_hugepage/hpage_pmd_size
    sys/kernel/mm/numa/demotion_enabled
    """
)

_LINUX_6_1 = KernelNames(
    zone_stat=_ZONE_STAT_6_1,
    node_stat=_NODE_STAT_6_1,
    vmstat_extra=_DIRTY_THRESHOLDS,
    vm_event=_VM_EVENT_6_1,
    meminfo=_MEMINFO_6_1,
    node_meminfo=_NODE_MEMINFO_6_1,
    node_meminfo_short=("FileHugePages", "FilePmdMapped"),
    topology=_TOPOLOGY_6_1,
    counts_per_zone=False,
    freecount_limit=100_000,
    reclaimable_before_movable=False,
    swap_priority=-2,
    auto_online_blocks="offline",
    absent_files=frozenset({_NODE_MEMORY_FAILURE}),
)

#: By profile.
KERNELS: dict[str, KernelNames] = {
    "linux-6.1": _LINUX_6_1,
    "linux-6.12": replace(
        _LINUX_6_1,
        zone_stat=(*_ZONE_STAT_6_1, "nr_unaccepted"),
        node_stat=_NODE_STAT_6_12,
        vmstat_extra=(*_DIRTY_THRESHOLDS, "nr_memmap_pages", "nr_memmap_boot_pages"),
        vm_event=_VM_EVENT_6_12,
        meminfo=_after(_MEMINFO_6_1, "FilePmdMapped", "Unaccepted"),
        node_meminfo=_after(_NODE_MEMINFO_6_1, "FilePmdMapped", "Unaccepted"),
        node_meminfo_short=(),
        auto_online_blocks="online",
        absent_files=frozenset(),
    ),
    "linux-3.0": KernelNames(
        zone_stat=_ZONE_STAT_3_0,
        node_stat=("nr_anon_transparent_hugepages",),
        vmstat_extra=_DIRTY_THRESHOLDS,
        vm_event=_VM_EVENT_3_0,
        meminfo=_MEMINFO_3_0,
        node_meminfo=_NODE_MEMINFO_3_0,
        node_meminfo_short=(),
        topology=_TOPOLOGY_3_0,
        counts_per_zone=True,
        freecount_limit=None,
        reclaimable_before_movable=True,
        swap_priority=-1,
        auto_online_blocks="offline",
        absent_files=frozenset({_NODE_MEMORY_FAILURE, *_ABSENT_3_0}),
    ),
}

#: Not in an i386 kernel: NUMA balancing and PUD-sized huge pages are x86-64's.
_X86_64_ONLY = _names(
    """
    pgpromote_success pgpromote_candidate numa_pte_updates numa_huge_pte_updates numa_hint_faults
    numa_hint_faults_local numa_pages_migrated thp_split_pud
    """
)
_NUMA_ONLY = ("zone_reclaim_success", "zone_reclaim_failed")
_HIGHMEM_ONLY = ("HighTotal", "HighFree", "LowTotal", "LowFree")


def has_numa(machine: MachineSnapshot | MachineSpec) -> bool:
    """Is this kernel built with CONFIG_NUMA? Every x86-64 one is; i386 only if it has more than one node."""
    return machine.arch != "i386" or len(machine.nodes) > 1


def _zone_suffixes(snapshot: MachineSnapshot) -> tuple[str, ...]:
    """TEXTS_FOR_ZONES: what of dma, dma32, normal, high, movable and device this kernel has."""
    zone_device = PROFILES[snapshot.profile].zone_device
    present = [name for name in ZONE_NAMES[snapshot.arch] if name != "Device" or zone_device]
    return tuple("high" if name == "HighMem" else name.lower() for name in present)


def numa_stat_names(snapshot: MachineSnapshot) -> tuple[str, ...]:
    """Per-zone NUMA events that this kernel prints: none without CONFIG_NUMA."""
    return NUMA_STAT if has_numa(snapshot) else ()


def printed_by(profile: str) -> KernelNames:
    """What the kernel of a profile prints, built with everything on; ValueError if that is not known."""
    kernel = KERNELS.get(profile)
    if kernel is None:
        raise ValueError(f"no /proc format for profile {profile!r}: one of {', '.join(KERNELS)}")
    return kernel


def kernel_names(snapshot: MachineSnapshot) -> KernelNames:
    """What the kernel of `snapshot` prints, zone suffixes filled in; ValueError as of printed_by."""
    kernel = printed_by(snapshot.profile)
    absent: set[str] = set()
    if snapshot.arch == "i386":
        absent.update(_X86_64_ONLY)
    else:
        absent.update(_HIGHMEM_ONLY)
    if not has_numa(snapshot):
        absent.update(_NUMA_ONLY)

    def built(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in absent)

    events: list[str] = []
    for name in built(kernel.vm_event):
        if name.endswith("_*"):
            events += [f"{name[:-1]}{suffix}" for suffix in _zone_suffixes(snapshot)]
        else:
            events.append(name)
    return replace(
        kernel,
        node_stat=built(kernel.node_stat),
        vm_event=tuple(events),
        meminfo=built(kernel.meminfo),
    )
