"""What a node looks like at one moment, as plain data: the only thing that procfs and metrics read."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    """One zone, populated or not. Pages unless said otherwise."""

    nid: int
    #: Kernel spelling: DMA, DMA32, Normal, HighMem, Movable, Device.
    name: str
    index: int
    start_pfn: int
    spanned: int
    present: int
    managed: int
    free: int
    #: Watermarks as the kernel stores them, boost not added.
    wmark_min: int
    wmark_low: int
    wmark_high: int
    wmark_promo: int
    watermark_boost: int
    #: lowmem_reserve against requests of each class zone, one entry a zone type.
    protection: tuple[int, ...]
    #: Free blocks by order.
    nr_free: tuple[int, ...]
    #: Free blocks: [migratetype][order].
    nr_free_by_type: tuple[tuple[int, ...], ...]
    #: Pageblocks by migratetype.
    pageblocks: tuple[int, ...]
    #: Per-zone counters by their /proc/zoneinfo name (nr_free_pages, nr_zone_inactive_anon, …).
    vm_stat: dict[str, int]
    #: numa_hit, numa_miss, numa_foreign, numa_interleave, numa_local, numa_other.
    numa_stat: dict[str, int]
    #: Every CPU of the machine, in CPU order; empty for a zone without managed pages.
    pagesets: tuple[PagesetSnapshot, ...] = ()

    @property
    def populated(self) -> bool:
        """present_pages != 0 (``populated_zone``)."""
        return self.present > 0


@dataclass(frozen=True, slots=True)
class MemoryBlockSnapshot:
    """One memory block (``struct memory_block``), as far as it is of one node."""

    #: N of memoryN.
    number: int
    online: bool
    #: On-line: the one zone it is of, none if there are several. Off-line: where it may go, default first.
    valid_zones: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AccessSnapshot:
    """What an HMAT says of a memory, seen from the nodes that are best at it; 0 where it says nothing."""

    initiators: tuple[int, ...]
    read_latency_ns: int
    write_latency_ns: int
    #: MiB/s.
    read_bandwidth: int
    write_bandwidth: int


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
    #: False: its memory went off-line, and it has no CPUs (``try_offline_node``).
    online: bool = True
    #: RAM as [start_pfn, end_pfn), ascending, on-line or not.
    ram: tuple[tuple[int, int], ...] = ()
    #: Ascending; empty where the kernel has no memory hot-plug.
    memory_blocks: tuple[MemoryBlockSnapshot, ...] = ()
    #: Virtual ns that CPUs were busy with requests from this node, and with its kswapd.
    cpu_ns: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Uptime:
    """The time of who looks, as the shell around the machine tells it: the model has no clock."""

    #: When the machine booted, in seconds since 1970; 0 is not known.
    btime: int = 0
    #: Since then, ns.
    ns: int = 0
    #: What of it each CPU had nothing to do, ns.
    idle_ns: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MachineSnapshot:
    """The whole machine: what `boot --show` and `/proc` are rendered from."""

    name: str
    arch: str
    profile: str
    nodes: tuple[NodeSnapshot, ...]
    #: distances[i][j]: from the i-th to the j-th node of `nodes`.
    distances: tuple[tuple[int, ...], ...]
    sysctls: dict[str, str]
    #: nid → nids in fallback order, the node itself included.
    fallback_order: dict[int, tuple[int, ...]]
    #: (list name, nid, zone name) → (nid, zone name)…: list name is "general" or "thisnode".
    zonelists: dict[tuple[str, int, str], tuple[tuple[int, str], ...]]
    #: Boot log: (virtual seconds, text).
    dmesg: tuple[tuple[float, str], ...] = field(default=())
    #: (memory's nid, access class) → how it is reached; empty on a machine without an HMAT.
    access: dict[tuple[int, int], AccessSnapshot] = field(default_factory=dict)
    #: Nodes with an initiator that is no CPU.
    generic_initiators: tuple[int, ...] = ()
    uptime: Uptime = field(default_factory=Uptime)
