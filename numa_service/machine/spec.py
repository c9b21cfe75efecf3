"""A machine, described: what every source (machine file, preset, capture) is turned into before boot."""

from __future__ import annotations

from collections.abc import KeysView
from dataclasses import dataclass, field, replace

from numa_service.machine.latency import LatencyModel
from numa_service.mm.sparse import SPARSEMEM


class SpecError(ValueError):
    """A machine description is wrong. One line: which key, where, and why."""


@dataclass(frozen=True, slots=True)
class ZoneSpec:
    """One zone of one node. Pages."""

    #: Kernel spelling: DMA, DMA32, Normal, HighMem, Movable.
    name: str
    start_pfn: int
    spanned: int
    present: int
    #: Pages that the buddy system gets; None = what the boot allocator leaves over.
    managed: int | None
    #: Those of them that a captured kernel freed after it had computed its watermarks (``late_free.py``).
    freed_late: int = 0


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One NUMA node."""

    nid: int
    #: Ascending. Captures of numa=fake have every CPU on every node; a CPU's own node is then the first.
    cpus: tuple[int, ...]
    #: Zones with pages, in zone index order.
    zones: tuple[ZoneSpec, ...]
    #: RAM of the node as [start_pfn, end_pfn) ranges, ascending, disjoint: the present pages of its zones.
    ram: tuple[tuple[int, int], ...]
    #: Pages that the buddy system gets of the whole node, where only that is known; None as in a zone.
    managed: int | None = None
    #: Whether something else than a CPU reads and writes from here (a GPU, a network card).
    generic_initiator: bool = False

    @property
    def is_told(self) -> bool:
        """Whether it was said what the node or its zones manage: then boot takes what those lack, no more."""
        return self.managed is not None or any(zone.managed is not None for zone in self.zones)


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """A whole machine, validated."""

    name: str
    #: Where it came from: a path or a preset's name.
    source: str
    arch: str
    profile: str
    #: In nid order.
    nodes: tuple[NodeSpec, ...]
    #: distances[i][j] from the i-th to the j-th node of `nodes`; ≥ 10, may be asymmetric.
    distances: tuple[tuple[int, ...], ...]
    #: Swap of the whole machine in pages; each node gets an equal share.
    swap_pages: int
    #: Sysctls set before boot, by dotted name (vm.min_free_kbytes …); what is absent is computed.
    sysctls: dict[str, str] = field(default_factory=dict)
    latency: LatencyModel = field(default_factory=LatencyModel)
    #: Kernel command line. What it does to nodes and zones is in `nodes` already.
    cmdline: str = ""
    #: "sparsemem" or "flatmem" (one node only).
    memory_model: str = SPARSEMEM
    #: CPUs keep part of NR_FREE_PAGES to themselves until their vmstat tick, as in a kernel (decision 0004).
    counter_drift: bool = False
    #: What the source says of the machine and this cannot, and what was assumed (``formats/``).
    notes: tuple[str, ...] = field(default=(), compare=False)

    #: Row of a node in `distances`, by nid.
    _rows: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rows", {node.nid: row for row, node in enumerate(self.nodes)})

    @property
    def nids(self) -> KeysView[int]:
        """Numbers of the nodes, ascending."""
        return self._rows.keys()

    def with_profile(self, profile: str) -> MachineSpec:
        """The same machine under another kernel; sysctls that one lacks make the boot fail with SpecError."""
        return replace(self, profile=profile)

    @property
    def cpus(self) -> tuple[int, ...]:
        """Every CPU of the machine, ascending."""
        return tuple(sorted({cpu for node in self.nodes for cpu in node.cpus}))

    @property
    def own_cpus(self) -> dict[int, tuple[int, ...]]:
        """CPUs by the one node each is on: with numa=fake, the first that lists it (``cpu_to_node``)."""
        seen: set[int] = set()
        own: dict[int, tuple[int, ...]] = {}
        for node in self.nodes:
            own[node.nid] = tuple(cpu for cpu in node.cpus if cpu not in seen)
            seen.update(node.cpus)
        return own

    def node(self, nid: int) -> NodeSpec:
        """The node with that nid; KeyError if there is none."""
        return self.nodes[self._rows[nid]]

    def distance(self, from_nid: int, to_nid: int) -> int:
        """SLIT distance; 10 is local."""
        return self.distances[self._rows[from_nid]][self._rows[to_nid]]
