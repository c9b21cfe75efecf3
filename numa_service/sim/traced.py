"""The traced machine: where its real pfns lie, and what was in use in each zone when tracing began."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from numa_service.machine.spec import MachineSpec, NodeSpec, ZoneSpec
from numa_service.machine.tree import Directory
from numa_service.machine.zoneinfo import CapturedZone, parse_zoneinfo
from numa_service.mm.mmzone import MIGRATE_MOVABLE, NR_ORDERS, ZONE_NAMES
from numa_service.mm.page_alloc import ALLOC_NO_WATERMARKS, NUMA_HOW_HIT, NUMA_HOW_LOCAL
from numa_service.node import ops
from numa_service.node.node import Node
from numa_service.node.owners import Owner
from numa_service.trace.buddyinfo import parse_buddyinfo, read_captured
from numa_service.trace.events import TraceError

#: nid or zone index of a pfn that lies in no zone.
NOWHERE = -1


@dataclass(frozen=True, slots=True)
class TracedZone:
    """One zone of the traced machine. Pages; None = not known."""

    nid: int
    name: str
    start_pfn: int
    spanned: int
    managed: int | None
    free: int | None

    @property
    def in_use(self) -> int | None:
        """Managed pages on no free list: those of pagesets count as in use."""
        if self.managed is None or self.free is None:
            return None
        return max(0, self.managed - self.free)


@dataclass(frozen=True, slots=True)
class HeldInUse:
    """Pages of one zone that are held for whoever had them before the trace."""

    nid: int
    zone: str
    #: Pages in use in the traced zone, and how many of them the emulated one could give.
    wanted: int
    held: int


class TracedZones:
    """Zones of the machine that was traced."""

    def __init__(self, zones: Iterable[TracedZone], arch: str) -> None:
        """`arch` is the emulated machine's: it numbers the zones."""
        self.zones = tuple(sorted(zones, key=lambda zone: zone.start_pfn))
        self._names = ZONE_NAMES[arch]
        self._starts = np.array([z.start_pfn for z in self.zones], dtype=np.uint64)
        self._ends = np.array([z.start_pfn + z.spanned for z in self.zones], dtype=np.uint64)
        # A row behind the last zone, for pfns that are in none.
        self._nids = np.array([z.nid for z in self.zones] + [NOWHERE], dtype=np.int64)
        self._zones = np.array([self.zone_index(z.name) for z in self.zones] + [NOWHERE], dtype=np.int64)

    @classmethod
    def of(cls, spec: MachineSpec) -> TracedZones:
        """The emulated machine is the traced one; what was in use is not known."""
        return cls(
            (
                TracedZone(node.nid, zone.name, zone.start_pfn, zone.spanned, zone.managed, None)
                for node in spec.nodes
                for zone in node.zones
            ),
            spec.arch,
        )

    @classmethod
    def read(cls, directory: Path, arch: str) -> TracedZones:
        """From zoneinfo.txt and buddyinfo.txt of a capture made right before tracing.

        SpecError or TraceError, one line, if one of them cannot be read.
        """
        free = _free_pages(directory)
        zoneinfo = parse_zoneinfo(Directory(directory), "zoneinfo.txt")
        captured: list[CapturedZone] = [zone for zone in zoneinfo if zone.present]
        for zone in captured:
            if (zone.nid, zone.name) not in free:
                raise TraceError(f"{directory}: node {zone.nid} zone {zone.name} is not in buddyinfo.txt")
        return cls(
            (
                TracedZone(z.nid, z.name, z.start_pfn, z.spanned, z.managed, free[z.nid, z.name])
                for z in captured
            ),
            arch,
        )

    def zone_index(self, name: str) -> int:
        """Index of a zone by name; one above all others for a type that the architecture lacks."""
        # a zone type that the emulated architecture lacks agrees with none
        return self._names.index(name) if name in self._names else len(self._names)

    def locate(self, pfns: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Real nid and zone index of each pfn; NOWHERE outside every zone. Spans are taken not to overlap."""
        at = np.searchsorted(self._starts, pfns, side="right").astype(np.int64) - 1
        if len(self.zones):
            at[(at >= 0) & (pfns >= self._ends[at])] = -1
        return self._nids[at], self._zones[at]

    def fit(self, spec: MachineSpec) -> tuple[MachineSpec, bool]:
        """The machine with the managed pages of the traced boot, and whether they were taken over.

        Two boots of one machine differ in them (where the kernel image lies, for one). Only if it is the same
        machine: the same zones in the same places.
        """
        known = {(z.nid, z.name): z for z in self.zones if z.managed is not None}
        places = {(node.nid, zone.name): zone.start_pfn for node in spec.nodes for zone in node.zones}
        if places != {key: zone.start_pfn for key, zone in known.items()}:
            return spec, False

        def zone_of(node: NodeSpec, zone: ZoneSpec) -> ZoneSpec:
            managed = known[node.nid, zone.name].managed
            assert managed is not None
            # where that boot's image lay, and so what it freed late, is not known
            return replace(zone, managed=min(managed, zone.present), freed_late=0)

        nodes = tuple(
            replace(node, zones=tuple(zone_of(node, zone) for zone in node.zones)) for node in spec.nodes
        )
        return replace(spec, nodes=nodes), True

    def hold_in_use(self, nodes: Mapping[int, Node], keeper: Node) -> tuple[HeldInUse, ...]:
        """Take what was in use from the freshly booted zones of the same names, in the largest blocks.

        They belong to a session of their own on `keeper`. A zone that is smaller here gives what it has.
        """
        wanted = [(zone, zone.in_use) for zone in self.zones]
        if all(pages is None for _, pages in wanted):
            return ()
        owner = keeper.owner(keeper.apply(ops.OpenSession("in use before the trace", ops.FOREVER_NS, 0)))
        result = []
        for zone, pages in wanted:
            if pages is None:
                continue
            held = 0
            if zone.nid in nodes and zone.name in self._names:
                held = _hold(nodes[zone.nid], owner, self._names.index(zone.name), pages)
            result.append(HeldInUse(zone.nid, zone.name, pages, held))
        return tuple(sorted(result, key=lambda h: (h.nid, self.zone_index(h.zone))))


def _hold(node: Node, owner: Owner, zone: int, pages: int) -> int:
    held = 0
    for order in range(NR_ORDERS - 1, -1, -1):
        count = (pages - held) >> order
        if not count:
            continue
        result = node.apply(
            ops.Alloc(
                owner=owner,
                zones=(zone,),
                cpu=node.pgdat.all_cpus[0],
                order=order,
                count=count,
                migratetype=MIGRATE_MOVABLE,
                highest_zoneidx=zone,
                alloc_flags=ALLOC_NO_WATERMARKS,
                numa_how=NUMA_HOW_HIT | NUMA_HOW_LOCAL,
            )
        )
        held += (len(result.pfns) // 8) << order
    node.apply(ops.DrainPagesets())
    return held


def _free_pages(directory: Path) -> dict[tuple[int, str], int]:
    text = read_captured(directory, "buddyinfo.txt")
    try:
        counts = parse_buddyinfo(text)
    except TraceError as error:
        raise TraceError(f"{directory}: {error}") from None
    return {key: sum(n << order for order, n in enumerate(row)) for key, row in counts.items()}
