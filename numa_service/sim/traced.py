"""The traced machine: where its zones are, and how many pages of each were in use when tracing began."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from numa_service.machine.captured_buddyinfo import parse_buddyinfo
from numa_service.machine.captured_tree import Directory
from numa_service.machine.captured_zoneinfo import CapturedZone, parse_zoneinfo
from numa_service.machine.spec import MachineSpec, NodeSpec, SpecError, ZoneSpec
from numa_service.mm.internal import ALLOC_NO_WATERMARKS
from numa_service.mm.mmzone import MIGRATE_MOVABLE, NR_ORDERS, ZONE_NAMES
from numa_service.mm.page_alloc import NUMA_HOW_HIT, NUMA_HOW_LOCAL
from numa_service.node import ops
from numa_service.node.node import Node
from numa_service.node.owners import Owner
from numa_service.trace.captured_files import read_captured
from numa_service.trace.events import TraceError

#: The nid and zone index of a pfn that is in no zone.
NOWHERE = -1


@dataclass(frozen=True, slots=True)
class TracedZone:
    """One zone of the traced machine, with sizes in pages; None = not known."""

    nid: int
    name: str
    start_pfn: int
    spanned: int
    managed: int | None
    free: int | None

    @property
    def in_use(self) -> int | None:
        """Managed pages that are on no free list. Pages in pagesets count as in use."""
        if self.managed is None or self.free is None:
            return None
        return max(0, self.managed - self.free)


@dataclass(frozen=True, slots=True)
class HeldInUse:
    """The pages of one zone that are held in place of those that were in use before the trace."""

    nid: int
    zone: str
    #: Pages in use in the traced zone, and how many of them the emulated zone could give.
    wanted: int
    held: int


class TracedZones:
    """The zones of the traced machine."""

    def __init__(self, zones: Iterable[TracedZone], arch: str) -> None:
        """Make it of zones in any order. `arch`, by which zones are numbered, is the emulated machine's."""
        self.zones = tuple(sorted(zones, key=lambda zone: zone.start_pfn))
        self._names = ZONE_NAMES[arch]
        self._starts = np.array([z.start_pfn for z in self.zones], dtype=np.uint64)
        self._ends = np.array([z.start_pfn + z.spanned for z in self.zones], dtype=np.uint64)
        # the last entry, at index -1, is for pfns that are in no zone
        self._nids = np.array([z.nid for z in self.zones] + [NOWHERE], dtype=np.int64)
        self._zones = np.array([self.zone_index(z.name) for z in self.zones] + [NOWHERE], dtype=np.int64)

    @classmethod
    def of(cls, spec: MachineSpec) -> TracedZones:
        """Take the zones of the emulated machine as the traced ones; what was in use is not known then."""
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
        """Read zoneinfo.txt and buddyinfo.txt of a capture that was made right before tracing.

        SpecError or TraceError, each of one line, if one of the files cannot be read.
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
        """Return the index of a zone by its name.

        A zone type that the emulated architecture lacks has an index above all others, so it agrees with
        none.
        """
        return self._names.index(name) if name in self._names else len(self._names)

    def locate(self, pfns: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return nid and zone index of each pfn of the traced machine, NOWHERE for a pfn outside every zone.

        The zones' spans are assumed not to overlap.
        """
        at = np.searchsorted(self._starts, pfns, side="right").astype(np.int64) - 1
        if len(self.zones):
            at[(at >= 0) & (pfns >= self._ends[at])] = -1
        return self._nids[at], self._zones[at]

    def fit(self, spec: MachineSpec) -> tuple[MachineSpec, bool]:
        """Return the machine with the managed pages of the traced boot, and whether they were taken over.

        Managed pages differ between two boots of one machine, for instance because the kernel image is loaded
        elsewhere. They are taken over only if the zones are the same and in the same places.
        """
        known = {(z.nid, z.name): z for z in self.zones if z.managed is not None}
        places = {(node.nid, zone.name): zone.start_pfn for node in spec.nodes for zone in node.zones}
        if places != {key: zone.start_pfn for key, zone in known.items()}:
            return spec, False

        def zone_of(node: NodeSpec, zone: ZoneSpec) -> ZoneSpec:
            managed = known[node.nid, zone.name].managed
            assert managed is not None
            # it is not known where the kernel image was in that boot, and so which init memory it freed
            return replace(zone, managed=min(managed, zone.present), freed_late=0)

        nodes = tuple(
            replace(node, zones=tuple(zone_of(node, zone) for zone in node.zones)) for node in spec.nodes
        )
        return replace(spec, nodes=nodes), True

    def hold_in_use(self, nodes: Mapping[int, Node], keeper: Node) -> tuple[HeldInUse, ...]:
        """Allocate as many pages as were in use, from the zones of freshly booted nodes, in large blocks.

        They belong to a session of their own on `keeper`. A zone that has fewer pages here gives what it has.
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
    """Allocate up to `pages` pages of a zone in the largest blocks; return how many were got."""
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
    """Return the free pages of each (nid, zone name) from a capture's buddyinfo.txt; TraceError."""
    text = read_captured(directory, "buddyinfo.txt")
    try:
        counts = parse_buddyinfo(text)
    except SpecError as error:
        raise TraceError(f"{directory}: {error}") from None
    return {key: sum(n << order for order, n in enumerate(row)) for key, row in counts.items()}
