"""The description of a machine: a MachineSpec, which every source (machine file, preset, capture) becomes.

Boot starts from it; nothing in it depends on the source.
"""

from __future__ import annotations

from collections.abc import KeysView
from dataclasses import dataclass, field, replace

from numa_service.machine.latency import LatencyModel
from numa_service.machine.occupancy import ZoneOccupancy
from numa_service.mm.sparse import SPARSEMEM


class SpecError(ValueError):
    """A machine description is wrong. One line: which key, where, and why."""


@dataclass(frozen=True, slots=True)
class ZoneSpec:
    """One zone of one node; all sizes are in pages."""

    #: Kernel spelling: DMA, DMA32, Normal, HighMem, Movable.
    name: str
    start_pfn: int
    spanned: int
    present: int
    #: Pages that the buddy system gets; None: boot computes them, as what the boot allocator leaves free.
    managed: int | None
    #: How many of the managed pages a captured kernel freed only after it had computed its watermarks
    #: (``machine/late_free.py``).
    freed_late: int = 0


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One NUMA node."""

    nid: int
    #: CPU numbers, ascending. In a capture of a kernel with numa=fake several nodes list the same CPU; the
    #: node of the CPU is then the first that lists it.
    cpus: tuple[int, ...]
    #: Zones with pages, in zone index order.
    zones: tuple[ZoneSpec, ...]
    #: RAM of the node as [start_pfn, end_pfn) ranges, ascending, disjoint: the present pages of its zones.
    ram: tuple[tuple[int, int], ...]
    #: Pages that the buddy system gets of the whole node, where the sum is known and its zones' shares are
    #: not; None: boot computes them.
    managed: int | None = None
    #: Whether the node has an initiator that is no CPU (a GPU, a network card): ACPI's Generic Initiator.
    generic_initiator: bool = False
    #: Whether all its memory came after boot (a CXL region, dax/kmem, virtio-mem, DIMMs): zonelists are then
    #: built a second time, with all CPUs on-line.
    added: bool = False

    @property
    def has_known_managed(self) -> bool:
        """Whether the managed pages of the node or of one of its zones are known beforehand.

        Boot then takes exactly the pages that are present and not managed.
        """
        return self.managed is not None or any(zone.managed is not None for zone in self.zones)


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """The description of a whole machine, validated."""

    name: str
    #: Where the description comes from: a path or the name of a preset.
    source: str
    arch: str
    profile: str
    #: In nid order.
    nodes: tuple[NodeSpec, ...]
    #: distances[i][j] is the SLIT distance from the i-th to the j-th node of `nodes`: 10 or more, and not
    #: necessarily the same both ways.
    distances: tuple[tuple[int, ...], ...]
    #: Swap of the whole machine in pages; each node gets an equal share.
    swap_pages: int
    #: Sysctls set before boot, by dotted name (vm.min_free_kbytes …); the others are computed at boot.
    sysctls: dict[str, str] = field(default_factory=dict)
    latency: LatencyModel = field(default_factory=LatencyModel)
    #: Kernel command line. Its effects on nodes and zones (numa=fake=, kernelcore=) are in `nodes` already.
    cmdline: str = ""
    #: "sparsemem" or "flatmem" (one node only).
    memory_model: str = SPARSEMEM
    #: CPUs keep part of NR_FREE_PAGES to themselves until their vmstat tick, as in a kernel (decision 0004).
    counter_drift: bool = False
    #: The slab allocator that the kernel was built with: "slub", "slab" or "slob" (Profile.slab_allocators).
    slab: str = "slub"
    #: CPUs of each package (socket), every CPU in one; empty: the CPUs of a node are a package.
    packages: tuple[tuple[int, ...], ...] = ()
    #: CPUs of each core, which are its threads, in one package each; empty: a CPU is a core.
    cores: tuple[tuple[int, ...], ...] = ()
    #: Numbers of nodes that may come later (node_possible_map), beside those of `nodes`.
    possible_nodes: tuple[int, ...] = ()
    #: One line for each thing that the source says and a MachineSpec cannot, and for each assumption that an
    #: importer (``machine/formats/``) has made.
    notes: tuple[str, ...] = field(default=(), compare=False)
    #: What was free and held when the source was made, where it says so: ``node/occupy.py`` makes it so.
    occupancy: tuple[ZoneOccupancy, ...] = field(default=(), compare=False)

    #: Row of a node in `distances`, by nid.
    _rows: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rows", {node.nid: row for row, node in enumerate(self.nodes)})

    @property
    def nids(self) -> KeysView[int]:
        """Numbers of the nodes, ascending."""
        return self._rows.keys()

    def with_profile(self, profile: str) -> MachineSpec:
        """The same machine under another kernel.

        Its boot raises SpecError for sysctls that kernel lacks, and for a slab allocator.
        """
        return replace(self, profile=profile)

    @property
    def cpus(self) -> tuple[int, ...]:
        """Every CPU of the machine, ascending."""
        return tuple(sorted({cpu for node in self.nodes for cpu in node.cpus}))

    @property
    def node_ids(self) -> int:
        """One more than the largest number that a node may have (nr_node_ids)."""
        return max((*self.nids, *self.possible_nodes)) + 1

    @property
    def own_cpus(self) -> dict[int, tuple[int, ...]]:
        """CPUs by nid, each on one node only: with numa=fake, the first that lists it (``cpu_to_node``)."""
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
