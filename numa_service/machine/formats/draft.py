"""Drafts: machines that are not checked yet, which every importer makes and every exporter starts from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, repeat

from numa_service.machine.cmdline import parse_cmdline
from numa_service.machine.hmat import hmat_pairs
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
from numa_service.machine.occupancy import ZoneOccupancy
from numa_service.machine.spec import MachineSpec, NodeSpec, SpecError
from numa_service.machine.sysctl import SYSCTLS
from numa_service.machine.zones import PfnRange, count_pages, intersect, q35_ram
from numa_service.mm.mmzone import PAGE_SHIFT, PAGE_SIZE
from numa_service.mm.profile import DEFAULT_PROFILE, profile_named, profile_of_version
from numa_service.mm.sparse import SECTION_SIZE_BITS

#: Memory of a node if the source does not say it: that of a node in hwloc's synthetic topologies.
DEFAULT_NODE_BYTES = 1 << 30
#: NODE_MIN_SIZE of x86: a kernel does not use the memory of a node that has less.
NODE_MIN_BYTES = 4 << 20
_SECTION_BYTES = 1 << SECTION_SIZE_BITS["x86_64"]
_STRUCT_PAGE_BYTES = profile_named(DEFAULT_PROFILE).struct_page_bytes["x86_64"]
_SECTION_MAP_BYTES = (_SECTION_BYTES >> PAGE_SHIFT) * _STRUCT_PAGE_BYTES
_DMA32_END = 4 << 30 >> PAGE_SHIFT
_Q35_ACPI_PAGES = 32
#: Most notes of a draft: a matrix may have a million elements that would each be noted.
MAX_NOTES = 256
#: What a kernel says of a SLIT that is not :func:`slit_valid`, and what is taken then.
SLIT_INVALID = "ACPI: SLIT table looks invalid. Not used. (20 between all nodes, as in a kernel)"
#: Said where the nodes of numa=fake become nodes of their own.
CPUS_OF_FAKES = "CPUs that several nodes list (numa=fake) are on the first of them"
_CMDLINE_WAS = "cmdline was "
_MOVES = ("kernelcore=", "movablecore=", "numa=")

#: (from nid, to nid)
Pair = tuple[int, int]


@dataclass(slots=True)
class DraftNode:
    """One node. Its RAM is a size in bytes (`memory`), or `ranges` of pages where its place is known.

    If the source only tells the managed memory of a node, `Draft.check` computes its RAM.
    """

    nid: int
    cpus: tuple[int, ...] = ()
    memory: int = 0
    ranges: tuple[PfnRange, ...] | None = None
    #: Pages of ZONE_MOVABLE.
    movable: int = 0
    #: Bytes that its kernel manages: MemTotal, hwloc's local_memory, numactl's size. None: the source does
    #: not say.
    managed: int | None = None
    generic_initiator: bool = False
    #: Whether its memory came after boot (see `NodeSpec.added`).
    added: bool = False

    def add_later(self, size: int, what: str, draft: Draft) -> None:
        """Add memory that a device has, which the kernel finds after it has booted."""
        if self.memory and not self.added:
            draft.note(f"node {self.nid}: memory of {what} comes after boot: taken to be there at boot")
        else:
            self.added = size > 0
        self.memory += size

    @property
    def bytes(self) -> int:
        """Bytes of the node's RAM."""
        return self.memory if self.ranges is None else count_pages(self.ranges) * PAGE_SIZE


@dataclass(slots=True)
class Draft:
    """A machine, as far as its source describes it."""

    name: str
    nodes: list[DraftNode]
    #: SLIT distances by (from nid, to nid); missing ones are 10 from a node to itself and 20 to others.
    distances: dict[Pair, int] = field(default_factory=dict)
    latency: LatencyModel = field(default_factory=LatencyModel)
    arch: str = "x86_64"
    profile: str = DEFAULT_PROFILE
    swap_pages: int = 0
    cmdline: str = ""
    #: The parameter by which the kernel cut the nodes ("numa=fake=8"); those of one real node are at 10.
    fake: str = ""
    memory_model: str | None = None
    counter_drift: bool = False
    #: The slab allocator; None: the kernel's default.
    slab: str | None = None
    #: CPUs of each package, and of each core; empty if the source does not say (see `MachineSpec`).
    packages: list[tuple[int, ...]] = field(default_factory=list)
    cores: list[tuple[int, ...]] = field(default_factory=list)
    #: Numbers that nodes may have beside those of `nodes`.
    possible: tuple[int, ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)
    #: Pages that were free by nid, and what held others; empty if the source does not say.
    free: dict[int, int] = field(default_factory=dict)
    held: dict[int, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    #: The same by zone, of a source that tells it so.
    occupancy: tuple[ZoneOccupancy, ...] = ()
    #: Whether the draft was made from a MachineSpec: then nothing is corrected or assumed.
    exact: bool = False
    #: One line for each thing that the source says and a machine here cannot, and for each assumption.
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a note unless it is there already; after MAX_NOTES a last one says that there are more."""
        if len(self.notes) > MAX_NOTES:
            return
        line = printable(text) if len(self.notes) < MAX_NOTES else "there is more, which is not listed"
        if line not in self.notes:
            self.notes.append(line)

    def distance(self, from_nid: int, to_nid: int) -> int:
        """SLIT distance from one node to another."""
        return self.distances.get((from_nid, to_nid), _default_distance(from_nid, to_nid))

    @property
    def has_distances(self) -> bool:
        """Whether any distance differs from its default."""
        return any(distance != _default_distance(*pair) for pair, distance in self.distances.items())

    def set_distances(self, nids: Sequence[int], rows: Sequence[Sequence[float]]) -> None:
        """Set the distances between `nids` from a matrix, whose rows are the from-nodes.

        They become legal for a SLIT: 10 for a node itself, 10 to 255 for others. If the diagonal has another
        value, all are scaled by it; a note names the first value that is changed otherwise.
        """
        own = {rows[i][i] for i in range(len(nids))}
        scale = 1.0
        if len(own) == 1 and (local := own.pop()) > 0 and local != LOCAL_DISTANCE:
            scale = LOCAL_DISTANCE / local
            self.note(
                f"distances: a node's own was {local:g}: all were scaled so that it is {LOCAL_DISTANCE}"
            )
        changed: list[str] = []
        for i, from_nid in enumerate(nids):
            if scale == 1.0 and (row := _legal_row(rows[i], i)):
                # a whole row at once: the matrix of a large machine has a million elements
                self.distances.update(zip(zip(repeat(from_nid), nids, strict=False), row, strict=True))
                continue
            for j, to_nid in enumerate(nids):
                value = round(min(rows[i][j] * scale, 1e6))
                legal = LOCAL_DISTANCE if i == j else min(max(value, LOCAL_DISTANCE), MAX_DISTANCE)
                if legal != value:
                    changed.append(f"{value} from node {from_nid} to node {to_nid} was made {legal}")
                self.distances[from_nid, to_nid] = legal
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            self.note(
                f"distances: {changed[0]}{more}: "
                f"a node's own is {LOCAL_DISTANCE}, others are {LOCAL_DISTANCE} to {MAX_DISTANCE}"
            )

    def set_slit(self, nids: Sequence[int], given: Mapping[Pair, int]) -> None:
        """Set the distances between `nids` as firmware does: one that is given one way only is both ways.

        A SLIT that a kernel does not use is not used.
        """
        if not given:
            return
        rows = [
            [float(given.get((a, b), given.get((b, a), _default_distance(a, b)))) for b in nids] for a in nids
        ]
        if slit_valid(rows):
            self.set_distances(nids, rows)
        else:
            self.note(SLIT_INVALID)

    def set_cpu_levels(self, cores: int, threads: int) -> None:
        """Set packages and cores of CPUs that are numbered in a row: threads, then cores, then packages."""
        cpus = sorted(cpu for node in self.nodes for cpu in node.cpus)
        self.packages = [tuple(group) for _, group in groupby(cpus, lambda cpu: cpu // (cores * threads))]
        self.cores = [tuple(group) for _, group in groupby(cpus, lambda cpu: cpu // threads)]

    def check_nodes(self) -> None:
        """SpecError for nodes, CPUs or memory that no machine can have.

        It is cheap, so that importers call it before they read matrices.
        """
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
        """Correct the draft so that it can be a machine, and note what that loses.

        Nodes and CPUs may get new numbers, sizes are rounded, missing memory is assumed. SpecError if the
        draft cannot be corrected.
        """
        self.check_nodes()
        self.nodes.sort(key=lambda node: node.nid)
        if self.nodes[-1].nid >= MAX_NUMNODES:
            self._renumber_nodes()
        self._renumber_cpus()
        if not self.exact:
            self._check_packages()
        self._ram_behind_managed()
        for node in self.nodes:
            if node.memory % PAGE_SIZE:
                self.note(
                    f"node {node.nid}: memory of {node.memory} bytes was rounded down to pages of 4 KiB"
                )
                node.memory -= node.memory % PAGE_SIZE
        if not self.exact:
            self._ignore_small_nodes()
            if hmat_pairs(self.latency) and not profile_named(self.profile).reads_hmat:
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
        """Compute the RAM of nodes whose managed memory only is known.

        Boot allocates what is more than that, so that the managed memory comes out exactly.
        """
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
        """Take the memory from nodes with less than NODE_MIN_SIZE, as numa_register_memblks does.

        The nodes stay. The only node of a machine keeps its memory.
        """
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
        """Give the nodes other numbers; `new` has the new nid by the old one."""

        def pairs(values: Mapping[Pair, int]) -> dict[Pair, int]:
            return {(new[a], new[b]): value for (a, b), value in values.items()}

        for node in self.nodes:
            node.nid = new[node.nid]
        self.possible, self.occupancy, self.free, self.held = (), (), {}, {}
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
            self.packages, self.cores = (
                [tuple(new[cpu] for cpu in group if cpu in new) for group in groups]
                for groups in (self.packages, self.cores)
            )

    def _check_packages(self) -> None:
        """Leave out CPUs that are not there; a topology that lacks CPUs, or is the default, is dropped."""
        cpus = sorted(cpu for node in self.nodes for cpu in node.cpus)
        known = set(cpus)
        self.packages, self.cores = (
            [group for group in (tuple(sorted(known.intersection(group))) for group in groups) if group]
            for groups in (self.packages, self.cores)
        )
        home = {cpu: at for at, group in enumerate(self.packages) for cpu in group}
        if sorted(cpu for group in self.packages for cpu in group) != cpus:
            self.packages, self.cores = [], []
        elif (
            sorted(cpu for group in self.cores for cpu in group) != cpus
            or any(len({home[cpu] for cpu in group}) > 1 for group in self.cores)
            or len(self.cores) == len(cpus)
        ):
            self.cores = []
        if not self.cores and self.packages == [node.cpus for node in self.nodes if node.cpus]:
            self.packages = []

    def _sizes_behind_ranges(self) -> None:
        """Replace ranges by sizes, which are easier to read and change, if they place the memory the same."""
        if any(node.memory and not node.ranges for node in self.nodes):
            return
        sizes = q35_sizes([node.ranges or () for node in self.nodes])
        if sizes is None:
            return
        for node, pages in zip(self.nodes, sizes, strict=True):
            node.memory, node.ranges = pages * PAGE_SIZE, None


def ram_of(managed: int) -> int:
    """Bytes of RAM that a node which manages `managed` bytes is taken to have.

    They include the memory map and at least 1 MiB of other memory, and are rounded up to memory blocks of
    128 MiB, or to 4 MiB if they are less than a block.
    """
    least = max(-(-managed * _SECTION_BYTES // (_SECTION_BYTES - _SECTION_MAP_BYTES)), managed + (1 << 20))
    unit = _SECTION_BYTES if least > _SECTION_BYTES else NODE_MIN_BYTES
    return -(-least // unit) * unit


def slit_valid(rows: Sequence[Sequence[float]]) -> bool:
    """Whether a kernel uses a SLIT: 10 for a node itself, more for others (slit_valid)."""
    return all(
        row[i] == LOCAL_DISTANCE and min(row[:i], default=11) > LOCAL_DISTANCE < min(row[i + 1 :], default=11)
        for i, row in enumerate(rows)
    )


def linux_numbers(nodes: Sequence[DraftNode]) -> dict[int, int]:
    """The nid that Linux gives to each node of these firmware tables: nodes with CPUs come first.

    See acpi_map_pxm_to_node.
    """
    order = [node.nid for node in nodes if node.cpus] + [node.nid for node in nodes if not node.cpus]
    return {nid: i for i, nid in enumerate(order)}


def q35_sizes(ram: Sequence[Sequence[PfnRange]]) -> list[int] | None:
    """Pages of each node if qemu's q35 would place these RAM ranges so, else None: the inverse of q35_ram."""
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
    """The draft of a machine: what a machine file can express of it, and notes on what it cannot."""
    own = spec.own_cpus
    words = spec.cmdline.split()
    cmdline = " ".join(word for word in words if not word.startswith(_MOVES))
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
                added=node.added,
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
        fake=next((word for word in words if word.startswith("numa=fake=")), ""),
        memory_model=spec.memory_model,
        counter_drift=spec.counter_drift,
        slab=spec.slab,
        packages=list(spec.packages),
        possible=spec.possible_nodes,
        occupancy=spec.occupancy,
        cores=list(spec.cores),
        sysctls=known,
        exact=True,
        notes=list(spec.notes),
    )
    if cmdline != " ".join(spec.cmdline.split()):
        draft.note(f"{_CMDLINE_WAS}{spec.cmdline!r}: what it did to nodes and zones is in the nodes already")
    if own != {node.nid: node.cpus for node in spec.nodes}:
        draft.note(CPUS_OF_FAKES)
    if len(known) < len(spec.sysctls):
        names = ", ".join(sorted(spec.sysctls.keys() - known.keys()))
        draft.note(f"sysctls not modelled: {names}")
    if any(zone.managed is not None for node in spec.nodes for zone in node.zones):
        draft.note("managed pages of captured zones are kept by node; of its zones they are computed at boot")
    draft.check()
    return draft


def is_of_cmdline(note: str) -> bool:
    """Whether a note of :func:`draft_of` says that the command line has been obeyed already."""
    return note.startswith(_CMDLINE_WAS)


def _managed(node: NodeSpec) -> int | None:
    """Managed bytes of a node, the sum over its zones if the machine was captured; None: unknown."""
    zones = [zone.managed for zone in node.zones if zone.managed is not None]
    pages = sum(zones) if zones else node.managed
    return None if pages is None else pages * PAGE_SIZE


def _movable(node: NodeSpec) -> int:
    start = next((zone.start_pfn for zone in node.zones if zone.name == "Movable"), None)
    return 0 if start is None else count_pages(intersect(node.ram, (start, node.ram[-1][1])))


def profile_of(version: str) -> str | None:
    """Name of the profile of a kernel version as ``5.10.0-8-amd64``; None if it has no number."""
    try:
        return profile_of_version(version).name
    except ValueError:
        return None


def _legal_row(row: Sequence[float], own: int) -> list[int] | None:
    """A row of a distance matrix as integers, if all its values are legal; else None."""
    legal = row[own] == LOCAL_DISTANCE and min(row) >= LOCAL_DISTANCE and max(row) <= MAX_DISTANCE
    return list(map(round, row)) if legal else None


def _default_distance(from_nid: int, to_nid: int) -> int:
    return LOCAL_DISTANCE if from_nid == to_nid else REMOTE_DISTANCE


def machine_name(text: str) -> str:
    """A legal machine name made from a text: illegal characters become dashes."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
    return name[:63].rstrip("-._") or "machine"


def printable(text: str) -> str:
    """A text on one line and without control characters, for notes and comments."""
    return one_line(text, 300)
