"""``hugetlb_init`` and ``hugetlb_hstate_alloc_pages``: boot sets huge pages aside (``mm/hugetlb.c``)."""

from __future__ import annotations

import numpy as np

from numa_service.machine.booted import BootedMachine
from numa_service.machine.cmdline import parse_cmdline
from numa_service.machine.hugetlb_setup import boot_shares, hstates
from numa_service.mm.gfp import gfp_migratetype, gfp_zone
from numa_service.mm.hugetlb.contig import find_gigantic, take_gigantic
from numa_service.mm.hugetlb.gfp import pool_gfp
from numa_service.mm.hugetlb.hstate import Hstate
from numa_service.mm.hugetlb.node_hugetlb import NodeHugetlb
from numa_service.mm.hugetlb.pool import FIRST_OWNER_SLOT
from numa_service.mm.internal import ALLOC_CPUSET, ALLOC_KSWAPD, ALLOC_WMARK_LOW, ALLOC_WMARK_MIN
from numa_service.mm.mmzone import MIGRATE_MOVABLE
from numa_service.mm.page_alloc import NUMA_HOW_HIT, NUMA_HOW_LOCAL
from numa_service.mm.pgdat import Pgdat


def hugetlb_init(machine: BootedMachine) -> None:
    """Make the pools of the nodes of this process, and fill them as the command line says.

    Every node comes to its share by itself. One that has not so many pages keeps fewer: nobody makes up for
    it. Pages of boot are held by the first slot for an owner, which the node's kernel gets.
    """
    spec = machine.spec
    requests = parse_cmdline(spec.cmdline).hugepages
    sizes = [hstate.kb for hstate in hstates(spec.arch, requests)]
    for pgdat in machine.pgdats.values():
        pgdat.hugetlb = NodeHugetlb(sizes)
    for request in requests:
        for nid, share in boot_shares(spec, request).items():
            pgdat_here = machine.pgdats.get(nid)
            if pgdat_here is not None and share and request.kb in sizes:
                _fill(machine, pgdat_here, Hstate(request.kb), share)


def _fill(machine: BootedMachine, pgdat: Pgdat, hstate: Hstate, share: int) -> None:
    """Fill a node's pool with up to `share` pages."""
    highest = gfp_zone(pool_gfp(machine.profile), pgdat.arch)
    zones = tuple(ref.zone for ref in machine.zonelists[pgdat.nid].thisnode if ref.zone <= highest)
    if hstate.gigantic:
        pfns = _gigantic(pgdat, zones, hstate.order, share)
    else:
        pfns = _from_buddy(machine, pgdat, zones, hstate.order, share)
        pgdat.hugetlb.alloc_success += len(pfns)
        pgdat.hugetlb.alloc_fail += len(pfns) < share
    pgdat.hugetlb.pools[hstate.kb].enqueue(pfns)
    pgdat.pg.path[:] = 0


def _from_buddy(
    machine: BootedMachine, pgdat: Pgdat, zones: tuple[int, ...], order: int, share: int
) -> list[int]:
    pfns: list[int] = []
    gfp = pool_gfp(machine.profile)
    migratetype = gfp_migratetype(gfp, False)
    for mark in (ALLOC_WMARK_LOW, ALLOC_WMARK_MIN):
        if len(pfns) < share:
            flags = mark | ALLOC_CPUSET | ALLOC_KSWAPD
            got, _, _ = pgdat.alloc_packed(
                zones,
                machine.spec.cpus[0],
                order,
                share - len(pfns),
                migratetype,
                gfp_zone(gfp, pgdat.arch),
                flags,
                NUMA_HOW_HIT | NUMA_HOW_LOCAL,
                FIRST_OWNER_SLOT,
            )
            pfns += np.frombuffer(got, "<u8").astype(int).tolist()
    return pfns


def _gigantic(pgdat: Pgdat, zones: tuple[int, ...], order: int, share: int) -> list[int]:
    """Take pages where memblock would: from the top of the node's memory down (alloc_bootmem_huge_page)."""
    pg, base = pgdat.pg, pgdat.base_pfn
    pfns: list[int] = []
    for zone in zones:
        places: list[int] = []
        place = find_gigantic(pg, zone, base, order, 0)
        while place is not None:
            places.append(place)
            place = find_gigantic(pg, zone, base, order, place + (1 << order))
        for place in reversed(places[-(share - len(pfns)) :] if len(pfns) < share else []):
            pgdat.isolate(place, place + (1 << order))
            take_gigantic(pg, zone, place - base, place - base + (1 << order), FIRST_OWNER_SLOT)
            pgdat.unisolate(place, place + (1 << order), MIGRATE_MOVABLE)
            pfns.append(place)
    return pfns
