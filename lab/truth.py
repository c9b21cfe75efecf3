"""Free pages of the traced kernel's zones at every event, and the nodes that its allocations preferred.

Free pages show, at any event, how far the emulated machine differs from the traced one. They also show which
allocations had a memory policy, of which a trace says nothing: an allocation that was served elsewhere
although a zone of its own node was above LOW must have preferred another node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.evidence import buddy_delta
from numa_service.mm.gfp import Gfp, gfp_zone
from numa_service.mm.mmzone import WMARK_LOW
from numa_service.mm.pgdata import I64
from numa_service.node.node import Node
from numa_service.sim.traced import NOWHERE, TracedZones
from numa_service.trace.events import TraceEvents


@dataclass(frozen=True, slots=True)
class _Marks:
    """LOW + lowmem_reserve by traced zone and highest zone index of the request: [traced zone, index]."""

    nids: I64
    zones: I64
    low: I64


class TraceTruth:
    """Follows the free pages of the traced zones from event to event."""

    def __init__(self, traced: TracedZones, nodes: Mapping[int, Node], arch: str) -> None:
        """`nodes` have the zones, free pages and watermarks of the traced machine at the start."""
        self.traced = traced
        self._arch = arch
        known = [zone for zone in traced.zones if zone.free is not None]
        self.keys = [(zone.nid, traced.zone_index(zone.name)) for zone in known]
        #: NR_FREE_PAGES after the events so far, by position in `keys`.
        self.free: I64 = np.array(
            [nodes[nid].pgdat.free_pages(zone) for nid, zone in self.keys], dtype=np.int64
        )
        rows = []
        for nid, zone in self.keys:
            pg = nodes[nid].pgdat.pg
            rows.append(pg.watermark[zone, WMARK_LOW] + pg.lowmem_reserve[zone])
        self._marks = _Marks(
            np.array([nid for nid, _ in self.keys], dtype=np.int64),
            np.array([zone for _, zone in self.keys], dtype=np.int64),
            np.array(rows, dtype=np.int64),
        )
        self._highest: dict[int, int] = {}

    def advance(self, chunk: TraceEvents) -> I64:
        """Free pages of every zone before each event of the next chunk: [event, zone]."""
        delta = buddy_delta(chunk)
        nids, zones = self.traced.locate(chunk.pfn)
        before = np.empty((len(chunk), len(self.keys)), dtype=np.int64)
        for column, (nid, zone) in enumerate(self.keys):
            mine = np.where((nids == nid) & (zones == zone), delta, 0)
            after = self.free[column] + np.cumsum(mine)
            before[:, column] = after - mine
            if len(chunk):
                self.free[column] = after[-1]
        return before

    def preferred(
        self, free: I64, homes: I64, pfns: npt.NDArray[np.uint64], gfps: npt.NDArray[np.uint32]
    ) -> I64:
        """nid that each allocation preferred: its CPU's node, or one that a policy or the caller named.

        `free` are the rows of :meth:`advance` for these allocations.
        """
        real, _ = self.traced.locate(pfns)
        masks, inverse = np.unique(gfps, return_inverse=True)
        highest = np.array([self._zone_of(mask) for mask in masks.tolist()], dtype=np.int64)[inverse]
        open_here = np.zeros(len(pfns), dtype=np.bool_)
        for column in range(len(self.keys)):
            allowed = (self._marks.nids[column] == homes) & (self._marks.zones[column] <= highest)
            open_here |= allowed & (free[:, column] > self._marks.low[column, np.maximum(highest, 0)])
        named = (gfps & np.uint32(Gfp.THISNODE)) != 0
        elsewhere = (real != NOWHERE) & (real != homes) & (highest >= 0)
        return np.where(elsewhere & (open_here | named), real, homes)

    def _zone_of(self, gfp: int) -> int:
        """gfp_zone(), or -1 for contradictory flags, which are refused later."""
        if gfp not in self._highest:
            try:
                self._highest[gfp] = gfp_zone(gfp, self._arch)
            except ValueError:
                self._highest[gfp] = -1
        return self._highest[gfp]
