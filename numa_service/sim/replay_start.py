"""Where a replay on the traced machine itself starts: block for block from the captured occupancy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from numa_service.machine.spec import MachineSpec
from numa_service.mm.mmzone import MIGRATE_MOVABLE, zone_index
from numa_service.mm.occupancy import ZoneState, write_occupancy
from numa_service.mm.page_alloc import ALLOC_NO_WATERMARKS, NUMA_HOW_HIT, NUMA_HOW_LOCAL
from numa_service.mm.pgdata import PG_HELD
from numa_service.node import ops
from numa_service.node.books import unpack_pfns
from numa_service.node.node import Node
from numa_service.sim.replay_layout import ZoneLayout, ZonePlan
from numa_service.sim.traced import HeldInUse
from numa_service.trace.events import EventKind, TraceError
from numa_service.trace.evidence import FirstEvents, KswapdChange, first_events, read_kswapd
from numa_service.trace.occupancy import ZoneOccupancy, read_occupancy
from numa_service.trace.source import open_trace

_ZONE = re.compile(r"Node (\d+), zone +(\w+)")
_CPU = re.compile(r" +cpu: (\d+)")
_COUNT = re.compile(r" +count: +(\d+)")

#: (nid, zone name, CPU): pages.
PagesetCounts = dict[tuple[int, str, int], int]


def read_pagesets(directory: Path) -> PagesetCounts:
    """Pages on every pageset, from a capture's zoneinfo.txt. TraceError if it cannot be read."""
    try:
        text = (directory / "zoneinfo.txt").read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{directory / 'zoneinfo.txt'}: {error}") from None
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
class CapturedStart:
    """Free blocks, pageblocks and pagesets when tracing began, and what the trace knows of that moment."""

    zones: tuple[ZoneOccupancy, ...]
    pagesets: PagesetCounts
    first: FirstEvents
    #: When the traced kswapds ran: pagesets keep less while they do.
    kswapd: tuple[KswapdChange, ...] = ()

    @classmethod
    def read(cls, directory: Path, trace: Path) -> CapturedStart:
        """From a capture made right before tracing, and from the trace. TraceError, one line."""
        occupancy, pagesets = read_occupancy(directory), read_pagesets(directory)
        with open_trace(trace) as reader:
            return cls(occupancy, pagesets, first_events(reader), read_kswapd(reader.path))

    def in_use_blocks(self) -> tuple[tuple[int, int], ...]:
        """(pfn, order) of blocks that the trace frees and that were there before it."""
        first = self.first
        rows = np.flatnonzero((first.kind == EventKind.MM_PAGE_FREE) & first.blocks)
        return tuple(zip(first.pfn[rows].tolist(), first.order[rows].tolist(), strict=True))

    def occupy(
        self, spec: MachineSpec, nodes: Mapping[int, Node], keeper: Node
    ) -> tuple[ops.Owner, tuple[HeldInUse, ...]]:
        """Put freshly booted nodes of the traced machine into the captured state.

        What was in use belongs to a session of its own on `keeper`. TraceError if a zone has not the RAM for
        what the capture says of it.
        """
        owner = keeper.owner(keeper.apply(ops.OpenSession("in use before the trace", 0, 0)))
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
            held += [
                HeldInUse(nid, zone.zone, state.held.pages, state.held.pages)
                for zone, state in zip(zones, states, strict=True)
            ]
        return owner, tuple(held)

    def _layout(self, spec: MachineSpec, node: Node, zone: ZoneOccupancy) -> ZoneState:
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
        )
        first = self.first.between(start, end)
        positions = np.full(1 << 16, len(cpus), dtype=np.int64)
        positions[list(cpus)] = np.arange(len(cpus))
        first = replace(first, cpu=positions[first.cpu])
        return ZoneLayout(plan, first, pgdat.base_pfn).build()


def _slot(node: Node, owner: ops.Owner) -> int:
    """The owner's number on a node, which it gets with its first page there."""
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
