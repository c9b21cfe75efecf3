"""The text of each kernel's files, by profile: names of lines in their order, and formats that differ.

The names are taken from captures of booted kernels (6.1, 6.12), and for 3.0 from ``mm/vmstat.c``
(``vmstat_text[]``), ``fs/proc/meminfo.c`` and ``drivers/base/node.c``. A name that ends in ``_*`` stands for
one line for each zone type.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from numa_service.machine.zonelists import has_numa
from numa_service.mm.mmzone import ZONE_NAMES
from numa_service.mm.profile import profile_named
from numa_service.mm.rules.axis import ALWAYS, Series
from numa_service.mm.snapshot import MachineSnapshot

#: Per-zone NUMA events (CONFIG_NUMA), the same in every profile.
NUMA_STAT = ("numa_hit", "numa_miss", "numa_foreign", "numa_interleave", "numa_local", "numa_other")

#: The same events as ``/sys/devices/system/node/nodeN/numastat`` names them.
NODE_NUMASTAT = ("numa_hit", "numa_miss", "numa_foreign", "interleave_hit", "local_node", "other_node")


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True, slots=True)
class KernelNames:
    """Names and formats of one kernel, with all its options built in.

    :func:`kernel_names` leaves out those of options that a machine's kernel does not have.
    """

    #: The first series that prints more like this kernel than like the one before it.
    since: Series
    zone_stat: tuple[str, ...]
    node_stat: tuple[str, ...]
    #: Lines of vmstat between the counters and the events, with computed or boot-time values.
    vmstat_extra: tuple[str, ...]
    vm_event: tuple[str, ...]
    meminfo: tuple[str, ...]
    node_meminfo: tuple[str, ...]
    #: Labels of a node's meminfo that are padded one column less than the others.
    node_meminfo_short: tuple[str, ...]
    #: Files of cpuN/topology. The names with _siblings are those from before 5.3, which were kept.
    topology: tuple[str, ...]
    #: Whether all counters are per zone, also in zoneinfo (before 4.8).
    counts_per_zone: bool
    #: Priority of the first swap area, if none was set (least_priority).
    swap_priority: int
    #: The default of auto_online_blocks in the captured distribution.
    auto_online_blocks: str
    #: Whether an HMAT decides on memory tiers (mt_perf_to_adistance, since 6.7).
    tiers_by_hmat: bool
    #: Files that this kernel does not have, as patterns of ``procfs/tree.py``.
    absent_files: frozenset[str]
    #: Files of a slab cache (``slab_attrs``) that the kernel does not have.
    absent_slab_files: frozenset[str]
    #: What stands before the numbers of huge pages in a node's line of Mem-Info.
    thp_field_space: str
    #: The line with which a call trace begins (dump_stack_print_info).
    dump_stack: str


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

# 3.0 counts everything per zone. Its nr_anon_transparent_hugepages comes after the NUMA events: it is the
# only member of node_stat, which renderers print there.
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

_NODE_MEMORY_FAILURE = "sys/devices/system/node/node#/memory_failure/*"
_ABSENT_3_0 = _names(
    """
    sys/devices/system/node/has_generic_initiator sys/devices/system/memory/auto_online_blocks
    sys/devices/system/memory/memory#/online sys/devices/system/memory/memory#/removable
    sys/devices/system/memory/memory#/valid_zones sys/kernel/mm/transparent_hugepage/hpage_pmd_size
    sys/kernel/mm/numa/demotion_enabled
    sys/devices/virtual/memory_tiering/memory_tier#/nodelist
    """
)

_LINUX_6_1 = KernelNames(
    since=(4, 8),  # counters per node
    zone_stat=_ZONE_STAT_6_1,
    node_stat=_NODE_STAT_6_1,
    vmstat_extra=_DIRTY_THRESHOLDS,
    vm_event=_VM_EVENT_6_1,
    meminfo=_MEMINFO_6_1,
    node_meminfo=_NODE_MEMINFO_6_1,
    node_meminfo_short=("FileHugePages", "FilePmdMapped"),
    topology=_TOPOLOGY_6_1,
    counts_per_zone=False,
    swap_priority=-2,
    auto_online_blocks="offline",
    tiers_by_hmat=False,
    absent_files=frozenset({_NODE_MEMORY_FAILURE}),
    absent_slab_files=frozenset({"skip_kfence"}),
    thp_field_space=" ",
    dump_stack="CPU: {cpu} PID: {pid} Comm: {comm} Not tainted {release} #1",
)

#: The names of the kernels whose files were read, by profile.
KERNELS: dict[str, KernelNames] = {
    "linux-6.1": _LINUX_6_1,
    "linux-6.12": replace(
        _LINUX_6_1,
        since=(6, 12),
        zone_stat=(*_ZONE_STAT_6_1, "nr_unaccepted"),
        node_stat=_NODE_STAT_6_12,
        vmstat_extra=(*_DIRTY_THRESHOLDS, "nr_memmap_pages", "nr_memmap_boot_pages"),
        vm_event=_VM_EVENT_6_12,
        meminfo=_after(_MEMINFO_6_1, "FilePmdMapped", "Unaccepted"),
        node_meminfo=_after(_NODE_MEMINFO_6_1, "FilePmdMapped", "Unaccepted"),
        node_meminfo_short=(),
        auto_online_blocks="online",
        tiers_by_hmat=True,
        absent_files=frozenset(),
        absent_slab_files=frozenset(),
        thp_field_space="",
        dump_stack="CPU: {cpu} UID: 0 PID: {pid} Comm: {comm} Not tainted {release} #1",
    ),
    "linux-3.0": KernelNames(
        since=ALWAYS,
        zone_stat=_ZONE_STAT_3_0,
        node_stat=("nr_anon_transparent_hugepages",),
        vmstat_extra=_DIRTY_THRESHOLDS,
        vm_event=_VM_EVENT_3_0,
        meminfo=_MEMINFO_3_0,
        node_meminfo=_NODE_MEMINFO_3_0,
        node_meminfo_short=(),
        topology=_TOPOLOGY_3_0,
        counts_per_zone=True,
        swap_priority=-1,
        auto_online_blocks="offline",
        tiers_by_hmat=False,
        absent_files=frozenset({_NODE_MEMORY_FAILURE, *_ABSENT_3_0}),
        absent_slab_files=frozenset({"skip_kfence", "usersize", "cpu_partial", "slabs_cpu_partial"}),
        thp_field_space="",
        dump_stack="Pid: {pid}, comm: {comm} Not tainted {release} #1",
    ),
}

#: Names that i386 kernels lack: only x86-64 has NUMA balancing and PUD-sized huge pages.
_X86_64_ONLY = _names(
    """
    pgpromote_success pgpromote_candidate numa_pte_updates numa_huge_pte_updates numa_hint_faults
    numa_hint_faults_local numa_pages_migrated thp_split_pud
    """
)
_NUMA_ONLY = ("zone_reclaim_success", "zone_reclaim_failed")
_HIGHMEM_ONLY = ("HighTotal", "HighFree", "LowTotal", "LowFree")


def _zone_suffixes(snapshot: MachineSnapshot) -> tuple[str, ...]:
    """Those of dma, dma32, normal, high, movable and device that the kernel has (TEXTS_FOR_ZONES)."""
    zone_device = profile_named(snapshot.profile).zone_device
    present = [name for name in ZONE_NAMES[snapshot.arch] if name != "Device" or zone_device]
    return tuple("high" if name == "HighMem" else name.lower() for name in present)


def numa_stat_names(snapshot: MachineSnapshot) -> tuple[str, ...]:
    """Per-zone NUMA events that the kernel prints; none without CONFIG_NUMA."""
    return NUMA_STAT if has_numa(snapshot) else ()


def printed_by(profile: str) -> KernelNames:
    """The names of a profile's kernel with all its options: those of the nearest kernel in KERNELS.

    ValueError if the profile is not known.
    """
    series = profile_named(profile).series
    return max((names for names in KERNELS.values() if names.since <= series), key=lambda names: names.since)


def kernel_names(snapshot: MachineSnapshot) -> KernelNames:
    """The names that the kernel of a snapshot prints, with zone suffixes filled in.

    ValueError as of :func:`printed_by`.
    """
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
