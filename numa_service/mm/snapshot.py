"""A machine at one moment as plain data, from which ``/proc``, ``/sys`` and most metrics are rendered."""

from __future__ import annotations

from dataclasses import dataclass, field

from numa_service.mm.slab.cache import Cache
from numa_service.mm.slab.snapshot import SlabNodeSnapshot


@dataclass(frozen=True, slots=True)
class PagesetSnapshot:
    """One CPU's pageset of one zone (``struct per_cpu_pages``), in pages."""

    cpu: int
    count: int
    high: int
    batch: int
    stat_threshold: int


@dataclass(frozen=True, slots=True)
class ZoneSnapshot:
    """One zone, populated or not. Numbers are pages unless said otherwise."""

    nid: int
    #: Kernel spelling: DMA, DMA32, Normal, HighMem, Movable, Device.
    name: str
    index: int
    start_pfn: int
    spanned: int
    present: int
    managed: int
    free: int
    #: Watermarks without the boost (zone->_watermark[]).
    wmark_min: int
    wmark_low: int
    wmark_high: int
    wmark_promo: int
    watermark_boost: int
    #: lowmem_reserve: one entry for each zone type, against requests whose highest zone that is.
    protection: tuple[int, ...]
    #: Free blocks by order.
    nr_free: tuple[int, ...]
    #: Free blocks: [migratetype][order]; empty in a snapshot that was taken without them.
    nr_free_by_type: tuple[tuple[int, ...], ...]
    #: Pageblocks by migratetype; empty likewise.
    pageblocks: tuple[int, ...]
    #: Per-zone counters by their /proc/zoneinfo name (nr_free_pages, nr_zone_inactive_anon, …).
    vm_stat: dict[str, int]
    #: numa_hit, numa_miss, numa_foreign, numa_interleave, numa_local, numa_other.
    numa_stat: dict[str, int]
    #: Every CPU of the machine, in CPU order; empty for a zone without managed pages, and likewise.
    pagesets: tuple[PagesetSnapshot, ...] = ()

    @property
    def populated(self) -> bool:
        """present_pages != 0 (``populated_zone``)."""
        return self.present > 0


@dataclass(frozen=True, slots=True)
class MemoryBlockSnapshot:
    """One memory block (``struct memory_block``), or the part of it that one node has."""

    #: N of /sys/devices/system/memory/memoryN.
    number: int
    online: bool
    #: Of an on-line block its zone, or nothing if it has several. Of an off-line block the zones to which it
    #: may come, the default first.
    valid_zones: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccessSnapshot:
    """Performance of a node's memory for its best initiators (HMAT); 0 where the HMAT has no value."""

    initiators: tuple[int, ...]
    read_latency_ns: int
    write_latency_ns: int
    #: MiB/s.
    read_bandwidth: int
    write_bandwidth: int


@dataclass(frozen=True, slots=True)
class VmAreaSnapshot:
    """An area of kernel addresses in use (``struct vm_struct``)."""

    start: int
    #: First address behind it and its guard page.
    end: int
    #: Code that asked for it.
    caller: str
    nr_pages: int
    #: Physical address that is mapped; 0 but for ioremap.
    phys_addr: int
    #: VM_* of ``mm/vmalloc/vm_struct.py``.
    flags: int
    #: The pointers to its pages are in an area of their own.
    vpages: bool
    #: Its pages by nid.
    pages_per_node: dict[int, int]


@dataclass(frozen=True, slots=True)
class VmallocSnapshot:
    """The kernel's virtual memory of a machine."""

    #: In the order of /proc/vmallocinfo.
    areas: tuple[VmAreaSnapshot, ...]
    #: [start, end) of areas that wait for a purge, where the kernel shows them.
    unpurged: tuple[tuple[int, int], ...]
    #: VmallocUsed of /proc/meminfo, in pages.
    used_pages: int
    #: Bytes of a pointer, of which addresses have the width.
    pointer: int


@dataclass(frozen=True, slots=True)
class HugetlbSnapshot:
    """Huge pages of one size that a node has in its pool."""

    nr: int
    free: int
    surplus: int
    #: Free pages of all nodes that are promised; only the node that keeps the pools knows of any.
    resv: int = 0


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """One NUMA node."""

    nid: int
    cpus: tuple[int, ...]
    #: Every zone type of the architecture in index order, empty ones included.
    zones: tuple[ZoneSnapshot, ...]
    #: Per-node counters by their /proc/zoneinfo name (nr_inactive_anon, …), in the kernel's order.
    node_stat: dict[str, int]
    #: vm events by their /proc/vmstat name (pgalloc_normal, pgfree, pgscan_kswapd, …), in the kernel's order.
    vm_event: dict[str, int]
    #: numa_hit, numa_miss, numa_foreign, interleave_hit, local_node, other_node (sums over the zones).
    numastat: dict[str, int]
    swap_total: int = 0
    swap_used: int = 0
    #: kswapd gave up: kswapd_failures >= MAX_RECLAIM_RETRIES (node_unreclaimable of /proc/zoneinfo).
    unreclaimable: bool = False
    #: False after ``try_offline_node``: all memory is off-line, and the node has no CPUs.
    online: bool = True
    #: RAM as [start_pfn, end_pfn), ascending, on-line or not.
    ram: tuple[tuple[int, int], ...] = ()
    #: Memory blocks, ascending; empty where the kernel has no memory hotplug.
    memory_blocks: tuple[MemoryBlockSnapshot, ...] = ()
    #: Virtual ns that each CPU spent on requests of this node and on its kswapd.
    cpu_ns: dict[int, int] = field(default_factory=dict)
    #: The machine's kernel addresses; None for all nodes but the one that keeps them.
    vmalloc: VmallocSnapshot | None = None
    #: By name of a slab cache: what the node has of it; caches of which it has nothing are left out.
    slab: dict[str, SlabNodeSnapshot] = field(default_factory=dict)
    #: Pools of huge pages, by kB of such a page.
    hugetlb: dict[int, HugetlbSnapshot] = field(default_factory=dict)
    #: Bad pages ("poisoned"), and memory errors by how they were handled, with their total.
    memory_failure: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Uptime:
    """Time at which the snapshot was taken; it comes from outside, as the model has no clock."""

    #: Time of boot in seconds since 1970 (btime of /proc/stat); 0: not known.
    btime: int = 0
    #: Time since boot, ns.
    ns: int = 0
    #: Time since boot that each CPU was idle, ns.
    idle_ns: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MachineSnapshot:
    """The whole machine, from which `boot --show`, `/proc` and `/sys` are rendered."""

    name: str
    arch: str
    profile: str
    nodes: tuple[NodeSnapshot, ...]
    #: distances[i][j]: SLIT distance from the i-th to the j-th node of `nodes`.
    distances: tuple[tuple[int, ...], ...]
    sysctls: dict[str, str]
    #: nid → nids in fallback order, the node itself included.
    fallback_order: dict[int, tuple[int, ...]]
    #: (list, nid, zone name) → (nid, zone name)…: the zones that a request of that node and zone walks. The
    #: list is "general" (ZONELIST_FALLBACK) or "thisnode" (ZONELIST_NOFALLBACK).
    zonelists: dict[tuple[str, int, str], tuple[tuple[int, str], ...]]
    #: CPUs of each package and of each core; empty: those of `MachineSpec`'s defaults.
    packages: tuple[tuple[int, ...], ...] = ()
    cores: tuple[tuple[int, ...], ...] = ()
    #: Numbers that nodes may have beside those of `nodes`.
    possible_nodes: tuple[int, ...] = ()
    #: kB of a huge page of the default size (default_hstate).
    default_hugepage_kb: int = 2048
    #: Boot log: (virtual seconds, text).
    dmesg: tuple[tuple[float, str], ...] = field(default=())
    #: (nid of the memory, access class 0 or 1) → its performance; empty on a machine without an HMAT.
    access: dict[tuple[int, int], AccessSnapshot] = field(default_factory=dict)
    #: Nodes with an initiator that is not a CPU (Generic Initiator Affinity Structure).
    generic_initiators: tuple[int, ...] = ()
    uptime: Uptime = field(default_factory=Uptime)
    #: The slab allocator: "slub", "slab" or "slob".
    slab: str = "slub"
    #: Its caches in the order of creation; empty where they are not known.
    slab_caches: tuple[Cache, ...] = ()
    #: What kernels print later than at boot: seconds since boot, level (KERN_*) and text of each line.
    kmsg: tuple[tuple[float, int, str], ...] = ()
    #: pid → name → text of the files of /proc/PID; empty where nobody asked for them.
    tasks: dict[int, dict[str, str]] = field(default_factory=dict)
    #: khugepaged's counts, of all nodes together, by the name of their file.
    khugepaged: dict[str, int] = field(default_factory=dict)
