"""``prepare_alloc_pages()``: what requests with the same flags and policy have in common.

Kept until memory comes or goes anywhere in the machine, as requests of one kind come in thousands.
"""

from __future__ import annotations

from typing import NamedTuple

from numa_service.machine.boot import Machine
from numa_service.mm.gfp import Gfp, gfp_migratetype, gfp_zone
from numa_service.mm.page_alloc import (
    ALLOC_CPUSET,
    ALLOC_KSWAPD,
    ALLOC_NOFRAGMENT,
    ALLOC_WMARK_LOW,
)
from numa_service.mm.pgdata import TUNE_MOBILITY_DISABLED
from numa_service.node.errors import InvalidRequest
from numa_service.node.mempolicy import Policy, PolicyMode, Walk, policy_walk

#: Kinds of requests that are kept.
MAX_KINDS = 256


class Prepared(NamedTuple):
    """The fixed part of ``struct alloc_context``."""

    migratetype: int
    highest_zoneidx: int
    #: The last one, for policies of several.
    walk: Walk
    #: Rights of the fast path.
    alloc_flags: int
    #: Zones that the fast path begins with, where they are this node's and it has but to take from them.
    here: tuple[int, ...]


class PreparedRequests:
    """Those of one node."""

    def __init__(self, machine: Machine, nid: int) -> None:
        self._machine = machine
        self._nid = nid
        names = machine.pgdats[nid].zone_names
        #: Index of Normal, if the zone below it is DMA32; else -1.
        self._zone_above_dma32 = names.index("Normal") if "DMA32" in names else -1
        self._known: dict[tuple[int, Policy], Prepared] = {}
        #: What they follow from: both are new objects when memory came or went.
        self._of = machine.zonelists, machine.managed

    def __call__(self, gfp: int, policy: Policy) -> Prepared:
        """For a request; InvalidRequest for flags or a policy that contradict themselves or each other."""
        zonelists, managed = self._of
        machine = self._machine
        if machine.zonelists is not zonelists or machine.managed is not managed:
            self._known.clear()
            self._of = machine.zonelists, machine.managed
        key = gfp, policy
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= MAX_KINDS:
                self._known.clear()
            known = self._known[key] = self._prepare(gfp, policy)
        return known

    def _prepare(self, gfp: int, policy: Policy) -> Prepared:
        machine = self._machine
        pgdat = machine.pgdats[self._nid]
        highest = gfp_zone_checked(gfp, pgdat.arch)
        migratetype = gfp_migratetype(gfp, bool(pgdat.pg.tune[TUNE_MOBILITY_DISABLED]))
        walk = policy_walk(machine.zonelists, self._nid, policy, gfp, highest)
        nid, zones = walk.segments[0]
        several = policy.mode in (PolicyMode.INTERLEAVE, PolicyMode.PREFERRED_MANY)
        cached = machine.profile.zonelist_cache and not walk.this_node
        here = zones if nid == self._nid and not several and not cached else ()
        return Prepared(migratetype, highest, walk, self.alloc_flags(gfp, walk), here)

    def alloc_flags(self, gfp: int, walk: Walk) -> int:
        """Rights of the fast path, which keeps migratetypes apart while there is a lower zone to go to.

        alloc_flags_nofragment(), gfp_to_alloc_flags_cma() apart.
        """
        flags = ALLOC_WMARK_LOW | ALLOC_CPUSET
        if gfp & Gfp.KSWAPD_RECLAIM:
            flags |= ALLOC_KSWAPD
        nid, zone = walk.preferred
        if zone != self._zone_above_dma32:
            return flags
        if len(self._machine.spec.nodes) > 1 and not self._machine.managed[nid, "DMA32"]:
            return flags
        return flags | ALLOC_NOFRAGMENT


def gfp_zone_checked(gfp: int, arch: str) -> int:
    """gfp_zone() with a request's error."""
    try:
        return gfp_zone(gfp, arch)
    except ValueError as e:
        raise InvalidRequest("gfp_flags", str(e)) from None
