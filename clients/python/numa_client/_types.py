"""The answers of the service as dataclasses. Numbers are pages unless the name says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

#: PFN of the first page of each block; the arrays are read-only views of the reply.
Pfns = NDArray[np.uint64]

#: Addresses of objects of slab caches.
Objects = NDArray[np.uint64]

#: What a region is backed by: swap, or a file.
RegionKind = Literal["anon", "file"]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One NUMA node of a machine."""

    node: int
    #: Empty for a node without CPUs (CXL), which takes no sessions.
    cpus: tuple[int, ...]
    managed_pages: int
    #: host:port of the node's own server; empty while it restarts.
    address: str
    #: URL of the node's Prometheus metrics.
    metrics_url: str
    #: Grows by one with every restart of the node's process.
    lineage: int
    #: Nodes in the order of this node's zonelist, itself included.
    fallback_order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """Topology of a machine."""

    name: str
    #: linux-6.1, linux-6.12 or linux-3.0.
    profile: str
    nodes: tuple[NodeInfo, ...]
    #: distances[i][j] from the i-th to the j-th of `nodes`; 10 is local.
    distances: tuple[tuple[int, ...], ...]

    @property
    def cpus(self) -> tuple[int, ...]:
        """Every CPU of the machine, ascending."""
        return tuple(sorted(cpu for node in self.nodes for cpu in node.cpus))

    def node(self, nid: int) -> NodeInfo:
        """The node with that nid; KeyError if there is none."""
        for node in self.nodes:
            if node.node == nid:
                return node
        raise KeyError(nid)

    def node_of_cpu(self, cpu: int) -> NodeInfo:
        """The node that has that CPU; KeyError if none has."""
        for node in self.nodes:
            if cpu in node.cpus:
                return node
        raise KeyError(cpu)

    def distance(self, from_nid: int, to_nid: int) -> int:
        """SLIT distance between two nodes; KeyError if there is no such node."""
        index = {node.node: i for i, node in enumerate(self.nodes)}
        return self.distances[index[from_nid]][index[to_nid]]


@dataclass(slots=True)  # a node makes it with each explanation: not frozen, as these are not
class Cost:
    """Modelled time of one request in virtual ns, by what it was spent on."""

    #: Sum of the parts below.
    latency_ns: int
    #: First access to each page, from the requesting CPU's node to the page's node.
    access_ns: int
    #: Pageset hits and refills.
    pageset_ns: int
    #: Buddy list work: splits, merges, steals.
    buddy_ns: int
    #: Zones that were tried in vain, and round trips to other nodes.
    fallback_ns: int
    #: Direct reclaim and swap.
    reclaim_ns: int
    #: Clearing pages (__GFP_ZERO).
    zeroing_ns: int
    #: Time that accesses and clearing wait behind other traffic to the same memory or over the same link.
    queueing_ns: int = 0


class AllocatedObjects(np.ndarray[tuple[int], np.dtype[np.uint64]]):
    """Addresses of new objects of slab caches, a read-only view of the reply. Parts of it have no cost."""

    #: What pages and questions to other nodes took; objects that the CPU had at hand cost nothing.
    cost: Cost | None = None
    #: What the kernel printed of free objects that were written to.
    report: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Blocks of 2^order pages that a session holds."""

    order: int
    #: nid → PFN of the first page of each block, in the order in which nodes were visited.
    pages: Mapping[int, Pfns]

    @property
    def count(self) -> int:
        """Number of blocks."""
        return sum(len(pfns) for pfns in self.pages.values())

    @property
    def nr_pages(self) -> int:
        """Number of pages: blocks × 2^order."""
        return self.count << self.order

    @property
    def pages_by_node(self) -> dict[int, int]:
        """nid → pages (not blocks) on this node."""
        return {nid: len(pfns) << self.order for nid, pfns in self.pages.items()}

    def on(self, *nids: int) -> Blocks:
        """The blocks that lie on these nodes."""
        return Blocks(self.order, {nid: pfns for nid, pfns in self.pages.items() if nid in nids})

    def split(self, count: int) -> tuple[Blocks, Blocks]:
        """The first `count` blocks and the rest, for example to free a part of an allocation."""
        head: dict[int, Pfns] = {}
        tail: dict[int, Pfns] = {}
        for nid, pfns in self.pages.items():
            if len(pfns[:count]):
                head[nid] = pfns[:count]
            if len(pfns[count:]):
                tail[nid] = pfns[count:]
            count = max(0, count - len(pfns))
        return Blocks(self.order, head), Blocks(self.order, tail)


@dataclass(frozen=True, slots=True, eq=False)
class Allocation(Blocks):
    """The blocks that an allocation got, and its cost."""

    cost: Cost
    #: Zonelist lookups sent to other nodes.
    remote_lookups: int
    #: Pages reclaimed by direct reclaim of this request.
    direct_reclaimed_pages: int

    @property
    def latency_ns(self) -> int:
        """Virtual ns of the whole request."""
        return self.cost.latency_ns


@dataclass(frozen=True, slots=True)
class Freed:
    """The result of freeing blocks."""

    freed_pages: int
    cost: Cost


@dataclass(frozen=True, slots=True)
class Touch:
    """The result of an access to pages of a region."""

    #: Pages that were resident.
    hit_pages: int
    #: Pages faulted in, for the first time or because they had been reclaimed.
    fault_pages: int
    #: Those of the faulted pages that were read from swap or from the file.
    major_fault_pages: int
    #: nid → touched pages that are there now.
    placement: Mapping[int, int]
    cost: Cost
    remote_lookups: int
    direct_reclaimed_pages: int

    @property
    def latency_ns(self) -> int:
        """Virtual ns of the whole request."""
        return self.cost.latency_ns


@dataclass(frozen=True, slots=True)
class MovedPages:
    """What a call has moved, in pages."""

    moved_pages: int
    #: Pages that had to move and could not.
    failed_pages: int


@dataclass(frozen=True, slots=True)
class PageStatus:
    """What move_pages() said of pages."""

    #: Of each page its node, or a negative errno; shorter than what was asked if the call ended early.
    status: tuple[int, ...]
    #: The errno with which the call ended, 0 for success.
    errno: int


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session that the service opened."""

    session: int
    #: Seconds without a heartbeat after which the session is closed and everything it holds is freed.
    lease_seconds: float
    node: int
    #: Lineage of the node, with which the session ends.
    lineage: int
    #: A secret that every request of the session carries: whoever has it can act for the session.
    token: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ZoneState:
    """State of one zone."""

    #: Kernel spelling: DMA, DMA32, Normal, HighMem, Movable, Device.
    zone: str
    free_pages: int
    managed_pages: int
    present_pages: int
    spanned_pages: int
    start_pfn: int
    min_pages: int
    low_pages: int
    high_pages: int
    #: lowmem_reserve, for requests of each highest zone.
    protection_pages: tuple[int, ...]
    #: Free blocks (not pages) of each order, 0 to 10.
    free_blocks: tuple[int, ...]
    #: Pages in the per-CPU lists.
    pageset_pages: int
    inactive_anon_pages: int
    active_anon_pages: int
    inactive_file_pages: int
    active_file_pages: int


@dataclass(frozen=True, slots=True)
class SlabInfo:
    """A slab cache, as /proc/slabinfo counts it."""

    name: str
    #: Names of the caches that share it.
    aliases: tuple[str, ...]
    #: Bytes from one object to the next.
    object_bytes: int
    objects_per_slab: int
    #: Pages of a slab are 2 to this power.
    order: int
    #: Objects that are in use, or in a slab that a CPU has at hand.
    active_objects: int
    #: All objects of the slabs.
    objects: int
    slabs: int


@dataclass(frozen=True, slots=True)
class VmArea:
    """Kernel addresses that vmalloc has made."""

    address: int
    #: Node → pages that are mapped there, and that hold the pointers to them.
    pages: dict[int, int]


@dataclass(frozen=True, slots=True)
class KmapSlot:
    """Where kmap_atomic has mapped a page."""

    #: Number behind FIX_KMAP_BEGIN; None for a page of low memory, which needs no slot.
    slot: int | None
    #: The address of a page of low memory; 0 for one in a slot.
    address: int


@dataclass(frozen=True, slots=True)
class NumaStat:
    """The counters of numastat, in allocations."""

    numa_hit: int
    numa_miss: int
    numa_foreign: int
    interleave_hit: int
    local_node: int
    other_node: int


@dataclass(frozen=True, slots=True)
class KswapdState:
    """What a node's kswapd has done, and whether it is running."""

    running: bool
    wakeups: int
    reclaimed_pages: int
    order: int
    failures: int


@dataclass(frozen=True, slots=True)
class NodeState:
    """The state of one node."""

    node: int
    lineage: int
    zones: tuple[ZoneState, ...]
    numa_stat: NumaStat
    #: Name in /proc/vmstat → count.
    vm_events: Mapping[str, int]
    kswapd: KswapdState
    #: Number of open sessions.
    sessions: int
    #: Pages held by sessions and regions on this node.
    held_pages: int
    swap_total_pages: int
    swap_used_pages: int
    #: blake2b of the state, by which states can be compared; empty unless asked for.
    digest: str
    #: Ops in the node's log.
    log_length: int

    @property
    def free_pages(self) -> int:
        """Free pages of all zones of the node."""
        return sum(zone.free_pages for zone in self.zones)
