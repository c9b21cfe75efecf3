"""How far a replayed machine is from the capture made after tracing, by zone and order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.start import read_pagesets
from numa_service.mm.jit import i64
from numa_service.mm.mmzone import NR_ORDERS
from numa_service.mm.pcp import free_pcppages_bulk
from numa_service.sim.replay_samples import zone_samples
from numa_service.sim.simulation import Simulation
from numa_service.trace.buddyinfo import parse_buddyinfo, read_captured


@dataclass(frozen=True, slots=True)
class ZoneDivergence:
    """One zone at the end of the trace, beside the capture made after it. Pages."""

    nid: int
    zone: str
    managed: int
    free: int
    #: Free in the traced kernel at the last event, by its own events; None when the start is not known.
    traced_free_then: int | None
    #: |free - traced_free_then| in percent of managed: nothing had to be settled for this.
    then_percent: float | None
    pageset: int
    #: Free once the pagesets have given back what the captured ones gave back after tracing had ended.
    settled_free: int
    traced_free: int
    traced_pageset: int
    #: |settled_free - traced_free| in percent of managed.
    free_percent: float
    #: Free blocks here (settled) and there, by order.
    nr_free: tuple[int, ...]
    traced_nr_free: tuple[int, ...]
    #: Sum over the orders of |difference in free pages|, in percent of managed.
    order_percent: float


def settle(sim: Simulation, after: Path) -> None:
    """Drain each pageset to what the capture has on it.

    Between the last event and the capture the traced kernel goes on: its vmstat workers drain idle
    pagesets, and no event says so. Pages only change between pageset and free lists.
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
    """Settle, and set every zone beside the capture in `after`. TraceError if that cannot be read.

    Zones that only one of the two has are left out. `then`: free pages of the traced zones at the last event,
    by nid and zone index.
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
