"""What a request calls: allocating and freeing on one node, in one call from Python each."""

from __future__ import annotations

from numa_service.mm.address import pgdata_at
from numa_service.mm.jit import i64, kernel
from numa_service.mm.mmzone import WMARK_HIGH
from numa_service.mm.page_alloc import alloc_pages_bulk, free_hot_cold_pages
from numa_service.mm.pgdata import I64, U32, ZONE_BOOSTED_WATERMARK
from numa_service.mm.vmstat import NR_FREE_PAGES, NR_PATH

#: What :func:`serve_alloc` reports: work counters, whether a zone was boosted, and five numbers a zone.
REPORT_BOOSTED = NR_PATH
REPORT_ZONES = NR_PATH + 1
REPORT_ZONE_NUMBERS = 5


@kernel
def serve_alloc(
    address: int,
    zones: I64,
    cpu: int,
    order: int,
    count: int,
    mt: int,
    highest_zoneidx: int,
    alloc_flags: int,
    numa_how: int,
    owner: int,
    lru_kind: int,
    indexes: U32,
    dirty: bool,
    out: I64,
    report: I64,
) -> int:
    """:func:`alloc_pages_bulk` for a request, with all that is told of it, in one call from Python.

    `report` takes the PATH_* counters of this call, then 1 if :func:`take_boosted` will find a zone, then of
    each zone managed, free, min, low and high pages.
    """
    pg = pgdata_at(address)
    pg.path[:] = 0
    got = alloc_pages_bulk(
        pg,
        zones,
        cpu,
        order,
        count,
        mt,
        highest_zoneidx,
        alloc_flags,
        numa_how,
        owner,
        lru_kind,
        indexes,
        dirty,
        out,
    )
    for i in range(NR_PATH):
        report[i] = pg.path[i]
    report[REPORT_BOOSTED] = 0
    for zone in range(pg.managed.shape[0]):
        if pg.zone_flags[zone] & ZONE_BOOSTED_WATERMARK:
            report[REPORT_BOOSTED] = 1
        at = REPORT_ZONES + REPORT_ZONE_NUMBERS * zone
        report[at] = pg.managed[zone]
        report[at + 1] = max(i64(0), pg.vm_stat[zone, NR_FREE_PAGES])
        for mark in range(WMARK_HIGH + 1):
            report[at + 2 + mark] = pg.watermark[zone, mark]
    return got


@kernel
def serve_free(address: int, cpu: int, order: int, owner: int, pages: I64, cold: bool) -> int:
    """:func:`free_hot_cold_pages` for a request."""
    return free_hot_cold_pages(pgdata_at(address), cpu, order, owner, pages, cold)
