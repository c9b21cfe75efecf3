"""What the service answers, as dataclasses. Numbers of pages unless the name says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

#: First page frame numbers of blocks: read-only views of the reply, nothing copied.
Pfns = NDArray[np.uint64]

#: What a region is backed by: swap, or a file.
RegionKind = Literal["anon", "file"]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One NUMA node of a machine."""

    node: int
    #: Empty for a memory-only node (CXL): it takes no sessions.
    cpus: tuple[int, ...]
    managed_pages: int
    #: host:port of the node's own server; empty while it restarts.
    address: str
    #: Prometheus metrics of the node.
    metrics_url: str
    #: Grows by one with every restart of the node's process.
    incarnation: int
    #: Nodes in the order in which this one falls back, itself included.
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
    """Modelled time of one request in virtual ns, by what it was spent on. Nobody slept."""

    #: Sum of the parts below.
    latency_ns: int
    #: First access to each page, from the requesting CPU's node to the page's node.
    access_ns: int
    #: Pageset hits and refills.
    pageset_ns: int
    #: Buddy list work: splits, merges, steals.
    buddy_ns: int
    #: Zones looked at and left, and round trips to other nodes.
    fallback_ns: int
    #: Direct reclaim and swap.
    reclaim_ns: int
    #: Clearing pages (__GFP_ZERO).
    zeroing_ns: int
    #: Accesses and clearing, waiting behind other traffic to the same memory, or over the same link.
    queueing_ns: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Blocks of 2^order pages that a session holds."""

    order: int
    #: PFN of the first page of each block, by node, in the order in which nodes were visited.
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
        """Pages (not blocks) on each node."""
        return {nid: len(pfns) << self.order for nid, pfns in self.pages.items()}

    def on(self, *nids: int) -> Blocks:
        """The blocks that lie on these nodes."""
        return Blocks(self.order, {nid: pfns for nid, pfns in self.pages.items() if nid in nids})

    def split(self, count: int) -> tuple[Blocks, Blocks]:
        """The first `count` blocks, and the rest: so that a part of an allocation can be freed."""
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
    """Blocks just given out, and what that cost."""

    cost: Cost
    #: Zonelist lookups sent to other nodes.
    remote_lookups: int
    #: Pages that the requester itself had to reclaim.
    direct_reclaimed_pages: int

    @property
    def latency_ns(self) -> int:
        """Virtual ns of the whole request."""
        return self.cost.latency_ns


@dataclass(frozen=True, slots=True)
class Freed:
    """Answer to a free."""

    freed_pages: int
    cost: Cost


@dataclass(frozen=True, slots=True)
class Touch:
    """Answer to an access to pages of a region."""

    #: Pages that were resident.
    hit_pages: int
    #: Pages faulted in: for the first time, or because reclaim had taken them.
    fault_pages: int
    #: Of these, pages read from swap or from the file.
    major_fault_pages: int
    #: Where the touched pages are now: pages by node.
    placement: Mapping[int, int]
    cost: Cost
    remote_lookups: int
    direct_reclaimed_pages: int

    @property
    def latency_ns(self) -> int:
        """Virtual ns of the whole request."""
        return self.cost.latency_ns


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What the service granted when a session was opened."""

    session: int
    #: Seconds without a heartbeat after which everything the session holds is freed.
    lease_seconds: float
    node: int
    #: Incarnation of the node: the session dies with it.
    incarnation: int
    #: Whoever has it may do everything with the session, as every request of it does: keep it to yourself.
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
    #: lowmem_reserve against requests of each class zone.
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
    """What kswapd of a node did, and whether it is at work."""

    running: bool
    wakeups: int
    reclaimed_pages: int
    order: int
    failures: int


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node now."""

    node: int
    incarnation: int
    zones: tuple[ZoneState, ...]
    numa_stat: NumaStat
    #: By /proc/vmstat name.
    vm_events: Mapping[str, int]
    kswapd: KswapdState
    #: Open sessions (a number, not pages).
    sessions: int
    #: Pages held by sessions and regions on this node.
    held_pages: int
    swap_total_pages: int
    swap_used_pages: int
    #: blake2b of the state: equal digests, equal states; empty unless asked for.
    digest: str
    #: Ops in the node's log.
    log_length: int

    @property
    def free_pages(self) -> int:
        """Free pages of all its zones."""
        return sum(zone.free_pages for zone in self.zones)
