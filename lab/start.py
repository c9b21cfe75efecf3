"""The start of an exact replay: nodes are put into the state that a capture and the trace tell of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.evidence import Evidence, KswapdRuns, ZoneStart, gather
from lab.layout import ZoneLayout, ZonePlan
from lab.occupancy import ZoneState, write_occupancy
from lab.pagetypeinfo import ZoneOccupancy, read_occupancy
from numa_service.machine.captured_tree import Directory
from numa_service.machine.captured_zoneinfo import parse_zoneinfo
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.mm.internal import ALLOC_NO_WATERMARKS
from numa_service.mm.mmzone import MIGRATE_MOVABLE, WMARK_HIGH, WMARK_LOW, WMARK_MIN, zone_index
from numa_service.mm.page_alloc import NUMA_HOW_HIT, NUMA_HOW_LOCAL
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import PCP_HIGH_NOW, PG_HELD
from numa_service.mm.variants import PAGESET_AUTO_TUNED
from numa_service.node import ops
from numa_service.node.node import Node
from numa_service.node.owners import Owner
from numa_service.node.pfns import unpack_pfns
from numa_service.sim.traced import HeldInUse
from numa_service.trace.captured_files import read_captured
from numa_service.trace.events import KswapdChange, TraceError, TraceEvents
from numa_service.trace.reader import open_trace, read_kswapd

_ZONE = re.compile(r"Node (\d{1,4}), zone +(\w+)", re.ASCII)
_CPU = re.compile(r" +cpu: (\d{1,4})", re.ASCII)
_COUNT = re.compile(r" +count: +(\d{1,12})", re.ASCII)
_MARKS = ("min", "low", "high", "boost")
_PROTECTION = re.compile(r"^ +protection: \((\d{1,12}(?:, \d{1,12})*)\)", re.MULTILINE)
_PAGESET_HIGH = re.compile(r"^ +cpu: (\d{1,4})\n +count: +\d+\n +high: +(\d{1,12})$", re.MULTILINE)
_PAGESET_BATCH = re.compile(r"^ +batch: +(\d{1,12})$", re.MULTILINE)
_PROMO = re.compile(r"^ +promo +\d+$", re.MULTILINE)

#: Pages on a pageset, by (nid, zone name, CPU).
PagesetCounts = dict[tuple[int, str, int], int]


def read_pagesets(directory: Path) -> PagesetCounts:
    """Pages on every pageset, from zoneinfo.txt of a capture; TraceError if it cannot be read."""
    text = read_captured(directory, "zoneinfo.txt")
    counts: PagesetCounts = {}
    nid, name, cpu = -1, "", -1
    for line in text.splitlines():
        if found := _ZONE.match(line):
            nid, name, cpu = int(found[1]), found[2], -1
        elif found := _CPU.match(line):
            cpu = int(found[1])
        elif cpu >= 0 and (found := _COUNT.match(line)):
            counts[nid, name, cpu] = int(found[1])
    return counts


@dataclass(frozen=True, slots=True)
class ZoneMarks:
    """Captured watermarks, lowmem_reserve and pageset sizes of a zone, in pages."""

    nid: int
    zone: str
    #: MIN, LOW and HIGH, and the boost that is added to them.
    watermark: tuple[int, int, int]
    boost: int
    #: lowmem_reserve, by the highest zone index of a request.
    protection: tuple[int, ...]
    #: per_cpu_pages.high, by CPU.
    pageset_high: Mapping[int, int]
    #: per_cpu_pages.batch; 0 if refills differ in size (kernels that print a `promo` watermark tune them).
    pageset_batch: int

    def apply(self, pgdat: Pgdat, zone: int) -> None:
        """Write these values into a zone of a node."""
        pg = pgdat.pg
        pg.watermark[zone, [WMARK_MIN, WMARK_LOW, WMARK_HIGH]] = self.watermark
        pg.watermark_boost[zone] = self.boost
        if len(self.protection) == pg.lowmem_reserve.shape[1]:
            pg.lowmem_reserve[zone] = self.protection
        if pgdat.profile.pageset_rules == PAGESET_AUTO_TUNED:
            for position, cpu in enumerate(pgdat.all_cpus):
                pg.pcp_tuning[position, zone, PCP_HIGH_NOW] = self.pageset_high.get(cpu, 0)
        elif self.pageset_high:
            pg.pcp_high[zone] = next(iter(self.pageset_high.values()))


def read_marks(directory: Path) -> tuple[ZoneMarks, ...]:
    """Watermarks and pageset sizes of each zone for which zoneinfo.txt of a capture prints them."""
    text = read_captured(directory, "zoneinfo.txt")
    result = []
    parts = re.split(r"^(?=Node)", text, flags=re.MULTILINE)
    for part in parts:
        head = _ZONE.match(part)
        mark = {name: re.search(rf"^ +{name} +(\d{{1,12}})$", part, re.MULTILINE) for name in _MARKS}
        protection = _PROTECTION.search(part)
        batch = _PAGESET_BATCH.search(part)
        if not head or not protection or not all(mark.values()):
            continue
        low, middle, high, boost = (int(found[1]) for found in mark.values() if found)
        result.append(
            ZoneMarks(
                nid=int(head[1]),
                zone=head[2],
                watermark=(low, middle, high),
                boost=boost,
                protection=tuple(map(int, protection[1].split(","))),
                pageset_high={int(cpu): int(pages) for cpu, pages in _PAGESET_HIGH.findall(part)},
                pageset_batch=int(batch[1]) if batch and not _PROMO.search(part) else 0,
            )
        )
    return tuple(result)


@dataclass(frozen=True, slots=True)
class CapturedStart:
    """The state of the traced machine when tracing began: from the capture, and from the trace."""

    zones: tuple[ZoneOccupancy, ...]
    pagesets: PagesetCounts
    evidence: Evidence
    #: Watermarks and pageset sizes of that very boot, which differ a little from computed ones.
    marks: tuple[ZoneMarks, ...] = ()
    #: When the traced kswapds ran; pagesets keep less meanwhile.
    kswapd: tuple[KswapdChange, ...] = ()

    @classmethod
    def read(cls, directory: Path, trace: Path) -> CapturedStart:
        """Read a capture made right before tracing, and the trace. TraceError, of one line."""
        occupancy, pagesets = read_occupancy(directory), read_pagesets(directory)
        try:
            captured = [zone for zone in parse_zoneinfo(Directory(directory), "zoneinfo.txt") if zone.present]
        except SpecError as error:
            raise TraceError(str(error)) from None
        known = {(zone.nid, zone.zone): zone for zone in occupancy}
        marks = read_marks(directory)
        batches = {(zone.nid, zone.zone): zone.pageset_batch for zone in marks}
        zones = [
            ZoneStart(
                zone.start_pfn,
                zone.start_pfn + zone.spanned,
                known[zone.nid, zone.name].nr_free,
                {cpu: pagesets.get((zone.nid, zone.name, cpu), 0) for cpu in zone.cpus},
                batches.get((zone.nid, zone.name), 0),
            )
            for zone in captured
            if (zone.nid, zone.name) in known
        ]
        cpus = sorted({cpu for zone in captured for cpu in zone.cpus})
        with open_trace(trace) as reader:
            runs = KswapdRuns(read_kswapd(reader.path))
            evidence = gather(_watched(reader, runs), zones, cpus or [0])
        return cls(occupancy, pagesets, evidence, marks, runs.changes())

    def in_use_blocks(self) -> tuple[tuple[int, int], ...]:
        """(pfn, order) of the blocks that were in use before the trace and that it frees."""
        in_use = self.evidence.in_use
        return tuple(zip(in_use.pfn.tolist(), in_use.order.tolist(), strict=True))

    def occupy(
        self, spec: MachineSpec, nodes: Mapping[int, Node], keeper: Node
    ) -> tuple[Owner, tuple[HeldInUse, ...]]:
        """Put freshly booted nodes of the traced machine into the captured state.

        Blocks in use belong to a session that is opened on `keeper` for them. Returns that owner, and the
        pages held in each zone. TraceError if the RAM of a zone has no room for what the capture says.
        """
        owner = keeper.owner(keeper.apply(ops.OpenSession("in use before the trace", ops.FOREVER_NS, 0)))
        held = []
        for nid, node in nodes.items():
            zones = [zone for zone in self.zones if zone.nid == nid]
            if not zones:
                continue
            try:
                states = [self._layout(spec, node, zone) for zone in zones]
                write_occupancy(node.pgdat, states, _slot(node, owner))
            except ValueError as error:
                raise TraceError(f"node {nid}: {error}") from None
            for marks in self.marks:
                if marks.nid == nid:
                    marks.apply(node.pgdat, zone_index(spec.arch, marks.zone))
            for extent in node.pgdat.extents:
                for position, cpu in enumerate(node.pgdat.all_cpus):
                    factor = self.evidence.free_factors.get((cpu, extent.start_pfn), 0)
                    node.pgdat.pg.pcp_free_factor[position, extent.index] = factor
            held += [
                HeldInUse(nid, zone.zone, state.held.pages, state.held.pages)
                for zone, state in zip(zones, states, strict=True)
            ]
        return owner, tuple(held)

    def _layout(self, spec: MachineSpec, node: Node, zone: ZoneOccupancy) -> ZoneState:
        """Choose the place of every block of a zone."""
        pgdat = node.pgdat
        index = zone_index(spec.arch, zone.zone)
        extent = pgdat.extents[index]
        start, end = extent.start_pfn, extent.start_pfn + extent.spanned
        ram = np.zeros(extent.spanned, dtype=np.bool_)
        for low, high in spec.node(node.nid).ram:
            ram[max(low, start) - start : max(0, min(high, end) - start)] = True
        cpus = pgdat.all_cpus
        plan = ZonePlan(
            zone=index,
            start=start - pgdat.base_pfn,
            end=end - pgdat.base_pfn,
            managed=extent.managed,
            ram=ram,
            occupancy=zone,
            pageset_pages=tuple(self.pagesets.get((node.nid, zone.zone, cpu), 0) for cpu in cpus),
            cpus=tuple(cpus),
        )
        return ZoneLayout(plan, self.evidence, pgdat.base_pfn).build()


def _watched(chunks: Iterable[TraceEvents], runs: KswapdRuns) -> Iterator[TraceEvents]:
    """Pass chunks on, and show each to `runs`."""
    for chunk in chunks:
        runs.seen(chunk)
        yield chunk


def _slot(node: Node, owner: Owner) -> int:
    """Slot of an owner on a node; one page is allocated for it, as a slot comes with the first page."""
    zones = tuple(extent.index for extent in node.pgdat.extents if extent.managed)
    result = node.apply(
        ops.Alloc(
            owner=owner,
            zones=zones,
            cpu=node.pgdat.all_cpus[0],
            order=0,
            count=1,
            migratetype=MIGRATE_MOVABLE,
            highest_zoneidx=max(zones),
            alloc_flags=ALLOC_NO_WATERMARKS,
            numa_how=NUMA_HOW_HIT | NUMA_HOW_LOCAL,
        )
    )
    pg = node.pgdat.pg
    idx = int(unpack_pfns(result.pfns)[0]) - node.pgdat.base_pfn
    assert pg.flags[idx] & PG_HELD
    return int(pg.owner[idx])
