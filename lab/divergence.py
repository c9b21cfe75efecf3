"""Difference between a replayed machine and the capture made after tracing, by zone and order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.start import read_pagesets
from numa_service.machine.captured_buddyinfo import parse_buddyinfo
from numa_service.mm.jit import i64
from numa_service.mm.mmzone import NR_ORDERS
from numa_service.mm.pcp import free_pcppages_bulk
from numa_service.sim.replay_samples import zone_samples
from numa_service.sim.simulation import Simulation
from numa_service.trace.captured_files import read_captured


@dataclass(frozen=True, slots=True)
class ZoneDivergence:
    """One zone at the end of the trace, and in the capture made after it. Numbers are pages."""

    nid: int
    zone: str
    managed: int
    free: int
    #: Free pages in the traced kernel at the last event, as its events tell; None if the start is not known.
    traced_free_then: int | None
    #: |free - traced_free_then| in percent of managed, before pagesets are settled.
    then_percent: float | None
    pageset: int
    #: Free pages after :func:`settle`.
    settled_free: int
    traced_free: int
    traced_pageset: int
    #: |settled_free - traced_free| in percent of managed.
    free_percent: float
    #: Free blocks by order: here after :func:`settle`, and in the capture.
    nr_free: tuple[int, ...]
    traced_nr_free: tuple[int, ...]
    #: Sum over the orders of |difference in free pages|, in percent of managed.
    order_percent: float


def settle(sim: Simulation, after: Path) -> None:
    """Drain each pageset to the number of pages that the capture in `after` has on it.

    Between the last event and the capture, vmstat workers of the traced kernel drain idle pagesets, for which
    the trace has no events. It moves pages from pagesets to free lists only.
    """
    captured = read_pagesets(after)
    for nid, node in sim.nodes.items():
        pgdat = node.pgdat
        for extent in pgdat.extents:
            for position, cpu in enumerate(pgdat.all_cpus):
                wanted = captured.get((nid, extent.name, cpu))
                surplus = int(pgdat.pg.pcp_count[position, extent.index]) - (wanted or 0)
                if wanted is not None and surplus > 0:
                    free_pcppages_bulk(pgdat.pg, extent.index, position, surplus, i64(0))


def compare_after(
    sim: Simulation, after: Path, then: Mapping[tuple[int, int], int] | None = None
) -> list[ZoneDivergence]:
    """Settle the machine, and compare every zone with the capture in `after`.

    Zones that only one of the two has are left out. `then` are free pages of the traced zones at the last
    event, by (nid, zone index). TraceError if the capture cannot be read.
    """
    traced = parse_buddyinfo(read_captured(after, "buddyinfo.txt"))
    pagesets = read_pagesets(after)
    pgdats = [node.pgdat for node in sim.nodes.values()]
    unsettled = {(z.nid, z.zone): z for z in zone_samples(pgdats)}
    settle(sim, after)
    sizes = 1 << np.arange(NR_ORDERS, dtype=np.int64)
    result = []
    for now in zone_samples(pgdats):
        key = now.nid, now.zone
        if key not in traced:
            continue
        pgdat = sim.nodes[now.nid].pgdat
        extent = next(extent for extent in pgdat.extents if extent.name == now.zone)
        managed = extent.managed
        straight = unsettled[key].free
        traced_then = None if then is None else then.get((now.nid, extent.index))
        there = np.array(traced[key], dtype=np.int64)
        off = np.abs(np.array(now.nr_free, dtype=np.int64) - there) * sizes
        traced_free = int((there * sizes).sum())
        result.append(
            ZoneDivergence(
                nid=now.nid,
                zone=now.zone,
                managed=managed,
                free=straight,
                traced_free_then=traced_then,
                then_percent=None if traced_then is None else 100 * abs(straight - traced_then) / managed,
                pageset=unsettled[key].pageset,
                settled_free=now.free,
                traced_free=traced_free,
                traced_pageset=sum(n for (nid, zone, _), n in pagesets.items() if (nid, zone) == key),
                free_percent=100 * abs(now.free - traced_free) / managed,
                nr_free=now.nr_free,
                traced_nr_free=traced[key],
                order_percent=100 * int(off.sum()) / managed,
            )
        )
    return result
