"""A machine before it is checked: what every importer makes, and every exporter starts from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat

from numa_service.machine.cmdline import parse_cmdline
from numa_service.machine.hmat import told_pairs
from numa_service.machine.latency import LatencyModel
from numa_service.machine.machinefile import LOCAL_DISTANCE, MAX_DISTANCE, REMOTE_DISTANCE
from numa_service.machine.notation import (
    MAX_NUMNODES,
    MAX_PHYSMEM_BYTES,
    NR_CPUS,
    format_cpulist,
    format_size,
    one_line,
)
from numa_service.machine.spec import MachineSpec, NodeSpec, SpecError
from numa_service.machine.sysctl import SYSCTLS
from numa_service.machine.zones import PfnRange, count_pages, intersect, q35_ram
from numa_service.mm.mmzone import PAGE_SHIFT, PAGE_SIZE
from numa_service.mm.profile import DEFAULT_PROFILE, PROFILES, profile_of_version
from numa_service.mm.sparse import SECTION_SIZE_BITS

#: Of a node whose memory nothing tells: as hwloc's synthetic topologies have it.
DEFAULT_NODE_BYTES = 1 << 30
#: NODE_MIN_SIZE of x86: memory of a node with less is not used.
NODE_MIN_BYTES = 4 << 20
_SECTION_BYTES = 1 << SECTION_SIZE_BITS["x86_64"]
_SECTION_MAP_BYTES = (_SECTION_BYTES >> PAGE_SHIFT) * PROFILES[DEFAULT_PROFILE].struct_page_bytes["x86_64"]
_VERSION = re.compile(r"(\d+)\.(\d+)", re.ASCII)
_DMA32_END = 4 << 30 >> PAGE_SHIFT
_Q35_ACPI_PAGES = 32
#: A matrix alone may have a million numbers that are noted.
MAX_NOTES = 256
_MOVES = ("kernelcore=", "movablecore=", "numa=")

Pair = tuple[int, int]


@dataclass(slots=True)
class DraftNode:
    """One node. RAM is a size in bytes, or ranges of pages where its place is known.

    Of a node that only shows what its kernel manages the RAM is found by `Draft.check`.
    """

    nid: int
    cpus: tuple[int, ...] = ()
    memory: int = 0
    ranges: tuple[PfnRange, ...] | None = None
    #: Pages of ZONE_MOVABLE.
    movable: int = 0
    #: Bytes that its kernel manages: MemTotal, hwloc's local_memory, numactl's size. None: not told.
    managed: int | None = None
    generic_initiator: bool = False

    @property
    def bytes(self) -> int:
        """Of its RAM."""
        return self.memory if self.ranges is None else count_pages(self.ranges) * PAGE_SIZE


@dataclass(slots=True)
class Draft:
    """A machine, as far as its source tells."""

    name: str
    nodes: list[DraftNode]
    #: By (from nid, to nid); what is missing is 10 on the diagonal and 20 elsewhere.
    distances: dict[Pair, int] = field(default_factory=dict)
    latency: LatencyModel = field(default_factory=LatencyModel)
    arch: str = "x86_64"
    profile: str = DEFAULT_PROFILE
    swap_pages: int = 0
    cmdline: str = ""
    memory_model: str | None = None
    counter_drift: bool = False
    sysctls: dict[str, str] = field(default_factory=dict)
    #: Made from a machine: nothing of it is to be doubted.
    exact: bool = False
    #: What the source says and a machine here cannot, and what was assumed. One line each.
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Says it once; after MAX_NOTES only that there is more."""
        if len(self.notes) > MAX_NOTES:
            return
        line = printable(text) if len(self.notes) < MAX_NOTES else "there is more, which is not listed"
        if line not in self.notes:
            self.notes.append(line)

    def distance(self, from_nid: int, to_nid: int) -> int:
        """SLIT distance."""
        return self.distances.get((from_nid, to_nid), _default_distance(from_nid, to_nid))

    @property
    def has_distances(self) -> bool:
        """Whether any differs from what is taken without a matrix."""
        return any(distance != _default_distance(*pair) for pair, distance in self.distances.items())

    def set_distances(self, nids: Sequence[int], rows: Sequence[Sequence[float]]) -> None:
        """Takes a matrix over, as a SLIT: 10 is local, 254 the most; says what had to change for it."""
        own = {rows[i][i] for i in range(len(nids))}
        scale = 1.0
        if len(own) == 1 and (local := own.pop()) > 0 and local != LOCAL_DISTANCE:
            scale = LOCAL_DISTANCE / local
            self.note(
                f"distances: a node's own was {local:g}: all were scaled so that it is {LOCAL_DISTANCE}"
            )
        for i, from_nid in enumerate(nids):
            if scale == 1.0 and (row := _legal_row(rows[i], i)):
                # a large machine has a million of them
                self.distances.update(zip(zip(repeat(from_nid), nids, strict=False), row, strict=True))
                continue
            for j, to_nid in enumerate(nids):
                value = round(min(rows[i][j] * scale, 1e6))
                legal = LOCAL_DISTANCE if i == j else min(max(value, LOCAL_DISTANCE), MAX_DISTANCE)
                if legal != value:
                    self.note(
                        f"distances: {value} from node {from_nid} to node {to_nid} was made {legal}: "
                        f"a node's own is {LOCAL_DISTANCE}, others are {LOCAL_DISTANCE} to {MAX_DISTANCE}"
                    )
                self.distances[from_nid, to_nid] = legal

    def check_nodes(self) -> None:
        """SpecError for what no machine has. It is quick: to be asked before matrices are taken over."""
        if not self.nodes:
            raise SpecError("no node")
        if len(self.nodes) > MAX_NUMNODES:
            raise SpecError(f"{len(self.nodes)} nodes, at most {MAX_NUMNODES}")
        cpus = sum(len(node.cpus) for node in self.nodes)
        if cpus > NR_CPUS:
            raise SpecError(f"{cpus} CPUs, at most {NR_CPUS}")
        if not cpus:
            raise SpecError("no node has a CPU")
        if any(node.ranges for node in self.nodes):
            return  # placed already
        sizes = [node.memory or ram_of(node.managed) if node.managed else node.memory for node in self.nodes]
        placed = q35_ram([size >> PAGE_SHIFT for size in sizes])
        if any(ram and ram[-1][1] > MAX_PHYSMEM_BYTES >> PAGE_SHIFT for ram in placed):
            raise SpecError(f"memory beyond {MAX_PHYSMEM_BYTES >> 40}TiB, the most that can be addressed")

    def check(self) -> None:
        """Makes it legal where that loses nothing, or little and says so; SpecError where it cannot be."""
        self.check_nodes()
        self.nodes.sort(key=lambda node: node.nid)
        if self.nodes[-1].nid >= MAX_NUMNODES:
            self._renumber_nodes()
        self._renumber_cpus()
        self._ram_behind_managed()
        for node in self.nodes:
            if node.memory % PAGE_SIZE:
                self.note(
                    f"node {node.nid}: memory of {node.memory} bytes was rounded down to pages of 4 KiB"
                )
                node.memory -= node.memory % PAGE_SIZE
        if not self.exact:
            self._ignore_small_nodes()
            if told_pairs(self.latency) and not PROFILES[self.profile].reads_hmat:
                self.note(
                    f"{self.profile} reads no HMAT: latencies and bandwidths count, and no access0 shows them"
                )
        if not any(node.bytes for node in self.nodes):
            self.note(f"no node's memory is told: {format_size(DEFAULT_NODE_BYTES)} each was taken")
            for node in self.nodes:
                node.memory, node.ranges = DEFAULT_NODE_BYTES, None
        self._check_cmdline()
        if any(node.ranges for node in self.nodes):
            self._sizes_behind_ranges()

    def _ram_behind_managed(self) -> None:
        """RAM of nodes of which only the managed part is told. Boot takes what is over, so that is exact."""
        for node in self.nodes:
            if node.managed is None or self.exact:
                continue
            if node.managed % PAGE_SIZE:
                self.note(
                    f"node {node.nid}: {node.managed} managed bytes were rounded down to pages of 4 KiB"
                )
                node.managed -= node.managed % PAGE_SIZE
            if node.managed == 0:
                node.memory, node.ranges, node.managed = 0, None, None
            elif not node.ranges and not node.memory:
                node.memory = ram_of(node.managed)
                self.note(
                    "memory is what the kernel manages (MemTotal), and is kept exactly; the RAM behind it is "
                    "taken to be that, its memory map, and what is missing to blocks of 128 MiB"
                )

    def _ignore_small_nodes(self) -> None:
        """As numa_register_memblks does: the node stays, without memory. A node alone is kept as it is."""
        for node in self.nodes:
            if 0 < node.bytes < NODE_MIN_BYTES and len(self.nodes) > 1:
                self.note(f"node {node.nid}: {node.bytes} bytes are left out: a kernel takes 4 MiB or more")
                node.memory, node.ranges, node.managed = 0, None, None

    def _check_cmdline(self) -> None:
        kept = []
        for word in self.cmdline.split():
            try:
                parse_cmdline(word)
                kept.append(word)
            except SpecError as error:
                self.note(f"cmdline: {word} is left out: {error}")
        self.cmdline = " ".join(kept)

    def _renumber_nodes(self) -> None:
        new = {node.nid: i for i, node in enumerate(self.nodes)}
        self.note(
            f"nodes {format_cpulist(new)} are now 0-{len(new) - 1}: "
            f"there are none above {MAX_NUMNODES - 1} here"
        )
        self.renumber(new)

    def renumber(self, new: Mapping[int, int]) -> None:
        """Nodes get other numbers."""

        def pairs(values: Mapping[Pair, int]) -> dict[Pair, int]:
            return {(new[a], new[b]): value for (a, b), value in values.items()}

        for node in self.nodes:
            node.nid = new[node.nid]
        self.distances = pairs(self.distances)
        self.latency = replace(
            self.latency,
            read_ns=pairs(self.latency.read_ns),
            write_ns=pairs(self.latency.write_ns),
            link_mb_per_s=pairs(self.latency.link_mb_per_s),
            read_mb_per_s=pairs(self.latency.read_mb_per_s),
            write_mb_per_s=pairs(self.latency.write_mb_per_s),
            memory_mb_per_s={new[nid]: mb for nid, mb in self.latency.memory_mb_per_s.items()},
        )

    def _renumber_cpus(self) -> None:
        cpus = sorted(cpu for node in self.nodes for cpu in node.cpus)
        if cpus and cpus[-1] >= NR_CPUS:
            new = {cpu: i for i, cpu in enumerate(cpus)}
            self.note(f"CPUs are now 0-{len(cpus) - 1}: there are none above {NR_CPUS - 1} here")
            for node in self.nodes:
                node.cpus = tuple(sorted(new[cpu] for cpu in node.cpus))

    def _sizes_behind_ranges(self) -> None:
        """If sizes would place the memory just so, sizes it is: they are easier to read and change."""
        if any(node.memory and not node.ranges for node in self.nodes):
            return
        sizes = q35_sizes([node.ranges or () for node in self.nodes])
        if sizes is None:
            return
        for node, pages in zip(self.nodes, sizes, strict=True):
            node.memory, node.ranges = pages * PAGE_SIZE, None


def ram_of(managed: int) -> int:
    """Bytes of RAM for a node that manages so many: with the memory map and a MiB or more, in whole blocks.

    A memory block is 128 MiB; less than one is rounded to 4 MiB.
    """
    least = max(-(-managed * _SECTION_BYTES // (_SECTION_BYTES - _SECTION_MAP_BYTES)), managed + (1 << 20))
    unit = _SECTION_BYTES if least > _SECTION_BYTES else NODE_MIN_BYTES
    return -(-least // unit) * unit


def linux_numbers(nodes: Sequence[DraftNode]) -> dict[int, int]:
    """nid → the one that Linux gives it behind firmware: nodes with CPUs first (acpi_map_pxm_to_node)."""
    order = [node.nid for node in nodes if node.cpus] + [node.nid for node in nodes if not node.cpus]
    return {nid: i for i, nid in enumerate(order)}


def q35_sizes(ram: Sequence[Sequence[PfnRange]]) -> list[int] | None:
    """Pages of nodes that qemu's q35 would place so (the inverse of q35_ram); None if it would not."""
    placed = [i for i, ranges in enumerate(ram) if ranges]
    if not placed:
        return None
    last = max(ranges[-1][1] for ranges in ram if ranges)
    low = 0x8000_0000 >> PAGE_SHIFT if last > _DMA32_END else last + _Q35_ACPI_PAGES

    def offset(pfn: int) -> int:
        return pfn if pfn < _DMA32_END else pfn - _DMA32_END + low

    starts = [0, *(offset(ram[i][0][0]) for i in placed[1:])]
    ends = [*starts[1:], max(offset(last), low)]
    sizes = [0] * len(ram)
    for i, start, end in zip(placed, starts, ends, strict=True):
        if end <= start:
            return None
        sizes[i] = end - start
    return sizes if q35_ram(sizes) == [tuple(ranges) for ranges in ram] else None


def draft_of(spec: MachineSpec) -> Draft:
    """The draft of a machine: what a machine file can say of it, and notes on what it cannot."""
    own = spec.own_cpus
    cmdline = " ".join(word for word in spec.cmdline.split() if not word.startswith(_MOVES))
    known = {
        name: value
        for name, value in spec.sysctls.items()
        if name in SYSCTLS and SYSCTLS[name].is_in(spec.profile)
    }
    draft = Draft(
        name=machine_name(spec.name),
        nodes=[
            DraftNode(
                node.nid,
                own[node.nid],
                ranges=node.ram or None,
                movable=_movable(node),
                managed=_managed(node),
                generic_initiator=node.generic_initiator,
            )
            for node in spec.nodes
        ],
        distances={
            (a.nid, b.nid): distance
            for a, row in zip(spec.nodes, spec.distances, strict=True)
            for b, distance in zip(spec.nodes, row, strict=True)
            if distance != _default_distance(a.nid, b.nid)
        },
        latency=spec.latency,
        arch=spec.arch,
        profile=spec.profile,
        swap_pages=spec.swap_pages,
        cmdline=cmdline,
        memory_model=spec.memory_model,
        counter_drift=spec.counter_drift,
        sysctls=known,
        exact=True,
        notes=list(spec.notes),
    )
    if cmdline != " ".join(spec.cmdline.split()):
        draft.note(f"cmdline was {spec.cmdline!r}: what it did to nodes and zones is in the nodes already")
    if own != {node.nid: node.cpus for node in spec.nodes}:
        draft.note("CPUs that several nodes list (numa=fake) are on the first of them")
    if len(known) < len(spec.sysctls):
        names = ", ".join(sorted(spec.sysctls.keys() - known.keys()))
        draft.note(f"sysctls not modelled: {names}")
    if any(zone.managed is not None for node in spec.nodes for zone in node.zones):
        draft.note("managed pages of captured zones are kept by node; of its zones they are computed at boot")
    draft.check()
    return draft


def _managed(node: NodeSpec) -> int | None:
    """Bytes; of a captured node those of its zones."""
    zones = [zone.managed for zone in node.zones if zone.managed is not None]
    pages = sum(zones) if zones else node.managed
    return None if pages is None else pages * PAGE_SIZE


def _movable(node: NodeSpec) -> int:
    start = next((zone.start_pfn for zone in node.zones if zone.name == "Movable"), None)
    return 0 if start is None else count_pages(intersect(node.ram, (start, node.ram[-1][1])))


def profile_of(version: str) -> str | None:
    """Profile that behaves most like a kernel of that version (``5.10.0-8-amd64``); None without a number."""
    match = _VERSION.match(version)
    return None if match is None else profile_of_version((int(match[1]), int(match[2]))).name


def _legal_row(row: Sequence[float], own: int) -> list[int] | None:
    """A row of a matrix if it needs no change."""
    legal = row[own] == LOCAL_DISTANCE and min(row) >= LOCAL_DISTANCE and max(row) <= MAX_DISTANCE
    return list(map(round, row)) if legal else None


def _default_distance(from_nid: int, to_nid: int) -> int:
    return LOCAL_DISTANCE if from_nid == to_nid else REMOTE_DISTANCE


def machine_name(text: str) -> str:
    """A legal name as near to this as can be."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
    return name[:63].rstrip("-._") or "machine"


def printable(text: str) -> str:
    """One line of it without control characters, for notes and comments."""
    return one_line(text, 300)
