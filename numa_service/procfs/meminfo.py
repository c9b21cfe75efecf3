"""``/proc/meminfo`` (``meminfo_proc_show`` in fs/proc/meminfo.c).

Buffers, Zswap, Committed_AS and Percpu are not modelled, and are 0. DirectMap lines show
the direct map as boot builds it, before the kernel splits any of its 2 MiB entries: captures have more in
4 KiB entries, and the same sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from numa_service.mm.mmzone import PAGE_SHIFT
from numa_service.mm.snapshot import MachineSnapshot, NodeSnapshot
from numa_service.procfs.counters import (
    global_node_page_state,
    global_zone_page_state,
    is_highmem,
    low_wmark_pages,
    node_page_state,
    sum_zone_node_page_state,
    sysctl_int,
    totalreserve_pages,
    zones,
)
from numa_service.procfs.names import kernel_names

#: Pages of a huge page, a PMD entry of 2 MiB on x86-64 and on i386 with PAE.
HPAGE_PMD_NR = 512

#: kB of vmalloc address space: 32 TiB on x86-64. On i386 it is what lowmem leaves of the kernel's 1 GiB, less
#: 24584 kB for the 8 MiB hole after lowmem, kmaps, fixmaps and CPU entry areas, as in both captures.
_VMALLOC_TOTAL_X86_64 = 34359738367
_I386_KERNEL_SPACE = 1 << 20
_I386_NOT_VMALLOC = 24584

_PAGECACHE = ("nr_active_file", "nr_inactive_file")
_RECLAIMABLE = ("nr_slab_reclaimable", "nr_kernel_misc_reclaimable")

#: The lines that count huge pages, and are the only ones without a unit.
_HUGE_PAGE_COUNTS = ("HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp")


def meminfo(snapshot: MachineSnapshot) -> str:
    """The file: the machine's memory in kB; a line that is not modelled is 0."""
    values = _values_kb(snapshot)
    return "".join(f"{row(name, values.get(name, 0))}\n" for name in _lines(snapshot))


def _lines(snapshot: MachineSnapshot) -> tuple[str, ...]:
    """Names of the lines. Those of CMA, which captured kernels lack, are there if the machine has areas."""
    names = kernel_names(snapshot).meminfo
    if not global_zone_page_state(snapshot, "cma"):
        return names
    at = next(i for i, name in enumerate(names) if name in ("Unaccepted", "HugePages_Total"))
    return (*names[:at], "CmaTotal", "CmaFree", *names[at:])


def row(name: str, value: int, column: int = 16) -> str:
    """One line without newline: label padded to `column`, value right-aligned in eight, and unit."""
    label = f"{name}:".ljust(column)
    unit = "" if name in _HUGE_PAGE_COUNTS else " kB"
    return f"{label}{str(value).rjust(column + 8 - len(label))}{unit}"


def kb(pages: int) -> int:
    """A number of pages in kB."""
    return pages << (PAGE_SHIFT - 10)


def si_mem_available(snapshot: MachineSnapshot) -> int:
    """Pages that a new program could get without swapping (``si_mem_available``)."""
    wmark_low = sum(low_wmark_pages(zone) for zone in zones(snapshot))
    available = global_zone_page_state(snapshot, "nr_free_pages") - totalreserve_pages(snapshot)
    pagecache = sum(global_node_page_state(snapshot, name) for name in _PAGECACHE)
    available += pagecache - min(pagecache // 2, wmark_low)
    reclaimable = sum(global_node_page_state(snapshot, name) for name in _RECLAIMABLE)
    available += reclaimable - min(reclaimable // 2, wmark_low)
    return max(available, 0)


def nodes_kb(nodes: Sequence[NodeSnapshot]) -> dict[str, int]:
    """The values in kB of lines that /proc/meminfo and a node's meminfo share, summed over `nodes`."""

    def node(*names: str) -> int:
        return kb(sum(node_page_state(n, name) for n in nodes for name in names))

    def zone(name: str) -> int:
        return kb(sum(sum_zone_node_page_state(n, name) for n in nodes))

    return {
        "MemTotal": kb(sum(z.managed for n in nodes for z in n.zones)),
        "MemFree": zone("nr_free_pages"),
        "SwapCached": node("nr_swapcached"),
        "Active": node("nr_active_anon", "nr_active_file"),
        "Inactive": node("nr_inactive_anon", "nr_inactive_file"),
        "Active(anon)": node("nr_active_anon"),
        "Inactive(anon)": node("nr_inactive_anon"),
        "Active(file)": node("nr_active_file"),
        "Inactive(file)": node("nr_inactive_file"),
        "Unevictable": node("nr_unevictable"),
        "Mlocked": zone("nr_mlock"),
        "Dirty": node("nr_dirty"),
        "Writeback": node("nr_writeback"),
        "AnonPages": node("nr_anon_pages"),
        "Mapped": node("nr_mapped"),
        "Shmem": node("nr_shmem"),
        "KReclaimable": node("nr_slab_reclaimable", "nr_kernel_misc_reclaimable"),
        "Slab": node("nr_slab_reclaimable", "nr_slab_unreclaimable"),
        "SReclaimable": node("nr_slab_reclaimable"),
        "SUnreclaim": node("nr_slab_unreclaimable"),
        # this counter is in kB already
        "KernelStack": sum(node_page_state(n, "nr_kernel_stack") for n in nodes),
        "PageTables": node("nr_page_table_pages"),
        "SecPageTables": node("nr_sec_page_table_pages"),
        "Bounce": zone("nr_bounce"),
        "WritebackTmp": node("nr_writeback_temp"),
        # these counters are in huge pages
        "AnonHugePages": node("nr_anon_transparent_hugepages") * HPAGE_PMD_NR,
        "ShmemHugePages": node("nr_shmem_hugepages") * HPAGE_PMD_NR,
        "ShmemPmdMapped": node("nr_shmem_pmdmapped") * HPAGE_PMD_NR,
        "FileHugePages": node("nr_file_hugepages") * HPAGE_PMD_NR,
        "FilePmdMapped": node("nr_file_pmdmapped") * HPAGE_PMD_NR,
        "Unaccepted": zone("nr_unaccepted"),
    }


def _values_kb(snapshot: MachineSnapshot) -> dict[str, int]:
    values = nodes_kb(snapshot.nodes)
    high = [zone for zone in zones(snapshot) if is_highmem(snapshot, zone)]
    high_total = kb(sum(zone.managed for zone in high))
    high_free = kb(sum(zone.free for zone in high))
    swap_total = sum(node.swap_total for node in snapshot.nodes)
    swap_used = sum(node.swap_used for node in snapshot.nodes)
    direct_4k, direct_2m = _direct_map_kb(snapshot)
    return values | {
        "MemAvailable": kb(si_mem_available(snapshot)),
        "Cached": kb(global_node_page_state(snapshot, "nr_file_pages")) - values["SwapCached"],
        "HighTotal": high_total,
        "HighFree": high_free,
        "LowTotal": values["MemTotal"] - high_total,
        "LowFree": values["MemFree"] - high_free,
        "CmaTotal": kb(global_zone_page_state(snapshot, "cma")),
        "CmaFree": kb(global_zone_page_state(snapshot, "nr_free_cma")),
        "SwapTotal": kb(swap_total),
        "SwapFree": kb(swap_total - swap_used),
        "CommitLimit": kb(vm_commit_limit(snapshot)),
        "VmallocTotal": _vmalloc_total_kb(snapshot),
        "VmallocUsed": kb(sum(node.vmalloc.used_pages for node in snapshot.nodes if node.vmalloc)),
        "Hugepagesize": snapshot.default_hugepage_kb,
        **hugetlb_report(snapshot),
        "HardwareCorrupted": kb(sum(node.memory_failure.get("poisoned", 0) for node in snapshot.nodes)),
        "DirectMap4k": direct_4k,
        "DirectMap2M": direct_2m,
    }


def hugetlb_report(snapshot: MachineSnapshot) -> dict[str, int]:
    """The counts of huge pages of the default size, and the kB of all sizes (``hugetlb_report_meminfo``)."""
    kb_of = snapshot.default_hugepage_kb
    pools = [node.hugetlb[kb_of] for node in snapshot.nodes if kb_of in node.hugetlb]
    return {
        "HugePages_Total": sum(pool.nr for pool in pools),
        "HugePages_Free": sum(pool.free for pool in pools),
        "HugePages_Rsvd": sum(pool.resv for pool in pools),
        "HugePages_Surp": sum(pool.surplus for pool in pools),
        "Hugetlb": sum(kb * pool.nr for node in snapshot.nodes for kb, pool in node.hugetlb.items()),
    }


def vm_commit_limit(snapshot: MachineSnapshot) -> int:
    """Pages that may be committed under strict overcommit (``vm_commit_limit``)."""
    overcommit_kbytes = sysctl_int(snapshot, "vm.overcommit_kbytes", 0)
    if overcommit_kbytes:
        allowed = overcommit_kbytes >> (PAGE_SHIFT - 10)
    else:
        total = sum(zone.managed for zone in zones(snapshot)) - (
            hugetlb_report(snapshot)["Hugetlb"] >> (PAGE_SHIFT - 10)
        )
        allowed = total * sysctl_int(snapshot, "vm.overcommit_ratio", 50) // 100
    return allowed + sum(node.swap_total for node in snapshot.nodes)


def _lowmem_mapped_pages(snapshot: MachineSnapshot) -> int:
    """Pages that the direct map covers: low memory, and all of the first MiB with its hole."""
    pages = 0
    for zone in zones(snapshot):
        if zone.populated and not is_highmem(snapshot, zone):
            in_dma = zone.name == "DMA" and zone.start_pfn + zone.spanned <= 4096
            pages += zone.start_pfn + zone.spanned if in_dma else zone.present
    return pages


def _direct_map_kb(snapshot: MachineSnapshot) -> tuple[int, int]:
    pages = _lowmem_mapped_pages(snapshot)
    small = pages % HPAGE_PMD_NR
    return kb(small), kb(pages - small)


def _vmalloc_total_kb(snapshot: MachineSnapshot) -> int:
    if snapshot.arch != "i386":
        return _VMALLOC_TOTAL_X86_64
    lowmem = kb(_lowmem_mapped_pages(snapshot))
    return max(_I386_KERNEL_SPACE - lowmem - _I386_NOT_VMALLOC, 0)
