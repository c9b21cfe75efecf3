"""Checks an allocation request and computes the fixed part of its alloc_context (prepare_alloc_pages).

The result is cached, because thousands of requests have the same gfp flags and policy. The cache is emptied
when memory of any node goes off-line or comes back.
"""

from __future__ import annotations

from typing import NamedTuple

from numa_client import WalkStep

from numa_service.machine.booted import BootedMachine
from numa_service.mm.gfp import Gfp, gfp_migratetype, gfp_zone
from numa_service.mm.internal import ALLOC_CPUSET, ALLOC_FAIR, ALLOC_KSWAPD, ALLOC_NOFRAGMENT, ALLOC_WMARK_LOW
from numa_service.mm.mmzone import NR_ORDERS
from numa_service.mm.page_alloc import LRU_KIND_NONE, NUMA_HOW_HIT, NUMA_HOW_LOCAL
from numa_service.mm.pgdat import Pgdat
from numa_service.mm.pgdata import TUNE_MOBILITY_DISABLED
from numa_service.node import ops
from numa_service.node.errors import InvalidRequest
from numa_service.node.explanation_recorder import walk_step
from numa_service.node.mempolicy import Policy, PolicyMode, Walk, policy_walk
from numa_service.node.ops.alloc import MAX_COUNT, MAX_REQUEST_PAGES
from numa_service.node.owners import Owner

#: Entries of the two caches: by gfp flags and policy, and by the whole request.
MAX_KINDS = 256
MAX_REQUESTS = 1 << 12


class AllocRequest(NamedTuple):
    """The fields of AllocPages, not checked yet."""

    session: int
    gfp: int
    order: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    cpu: int
    policy: Policy
    partial: bool = False
    explain: bool = False


def check_cpu(pgdat: Pgdat, cpu: int) -> None:
    """Raise InvalidRequest unless the CPU belongs to this node."""
    if cpu not in pgdat.cpus:
        raise InvalidRequest("cpu", f"{cpu} is not a CPU of node {pgdat.nid} (it has {list(pgdat.cpus)})")


class Prepared(NamedTuple):
    """The fixed part of ``struct alloc_context``."""

    migratetype: int
    highest_zoneidx: int
    #: The walk of the request; for policies that make several walks, the last one.
    walk: Walk
    #: ALLOC_* flags of the fast path.
    alloc_flags: int
    #: The zones of this node with which the walk begins, if one op can serve the fast path from them. Empty
    #: if the walk begins elsewhere, the policy makes several walks, or the zonelist cache is in use.
    here: tuple[int, ...]

    def op(
        self,
        owner: Owner,
        gfp: int,
        order: int,
        count: int,
        cpu: int,
        lru_kind: int = LRU_KIND_NONE,
        indexes: bytes = b"",
        dirty: bool = False,
        spends: bool = False,
        explain: bool = False,
    ) -> ops.Alloc:
        """Return the op of the fast path; see ops.Alloc for its fields."""
        return ops.Alloc(
            owner,
            self.here,
            cpu,
            order,
            count,
            self.migratetype,
            self.highest_zoneidx,
            self.alloc_flags,
            NUMA_HOW_HIT | NUMA_HOW_LOCAL,
            lru_kind,
            indexes,
            dirty,
            explain,
            gfp=gfp,
            spends=spends,
        )


class PreparedAlloc(NamedTuple):
    """An AllocRequest that was checked."""

    prepared: Prepared
    #: The op of its fast path; None if `prepared.here` is empty.
    op: ops.Alloc | None
    #: The first step of the explanation, for a request that asks for one.
    walk_step: WalkStep | None = None


class PreparedRequests:
    """Caches what requests with the same gfp flags and policy have in common, for one node."""

    def __init__(self, machine: BootedMachine, nid: int) -> None:
        self._machine = machine
        self._nid = nid
        names = machine.pgdats[nid].zone_names
        #: Index of zone Normal if the node's architecture has a zone DMA32, else -1.
        self._zone_above_dma32 = names.index("Normal") if "DMA32" in names else -1
        self._known: dict[tuple[int, Policy], Prepared] = {}
        self._requests: dict[AllocRequest, PreparedAlloc] = {}
        #: What the cached values were computed from. Memory hotplug replaces both objects.
        self._of = machine.zonelists, machine.managed

    def __call__(self, gfp: int, policy: Policy) -> Prepared:
        """Return the fixed part for gfp flags and a policy; InvalidRequest if they contradict each other."""
        self._forget_old()
        key = gfp, policy
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= MAX_KINDS:
                self._known.clear()
            known = self._known[key] = self._prepare(gfp, policy)
        return known

    def alloc(self, request: AllocRequest, owner: Owner) -> PreparedAlloc:
        """Check a request of a session and return it prepared; InvalidRequest names the field.

        `owner` is the session as an owner.
        """
        self._forget_old()
        known = self._requests.get(request)
        if known is None:
            if len(self._requests) >= MAX_REQUESTS:
                self._requests.clear()
            known = self._requests[request] = self._prepare_alloc(request, owner)
        return known

    def _forget_old(self) -> None:
        machine, (zonelists, managed) = self._machine, self._of
        if machine.zonelists is not zonelists or machine.managed is not managed:
            self._known.clear()
            self._requests.clear()
            self._of = machine.zonelists, machine.managed

    def _prepare_alloc(self, request: AllocRequest, owner: Owner) -> PreparedAlloc:
        _, gfp, order, count, cpu, policy, _, explain = request
        if not 0 <= order < NR_ORDERS:
            raise InvalidRequest("order", f"{order} is not in 0…{NR_ORDERS - 1}")
        if not 1 <= count <= MAX_COUNT:
            raise InvalidRequest("count", f"{count} is not in 1…{MAX_COUNT}")
        if count << order > MAX_REQUEST_PAGES:
            raise InvalidRequest("count", f"{count << order} pages: at most {MAX_REQUEST_PAGES}")
        pgdat = self._machine.pgdats[self._nid]
        check_cpu(pgdat, cpu)
        prepared = self(gfp, policy)
        if not prepared.here:
            return PreparedAlloc(prepared, None)
        op = prepared.op(owner, gfp, order, count, cpu, spends=True, explain=explain)
        if not explain:
            return PreparedAlloc(prepared, op)
        lists = self._machine.zonelists[prepared.walk.list_nid]
        return PreparedAlloc(prepared, op, walk_step(pgdat.arch, lists, prepared.walk, count))

    def _prepare(self, gfp: int, policy: Policy) -> Prepared:
        machine = self._machine
        pgdat = machine.pgdats[self._nid]
        highest = gfp_zone_checked(gfp, pgdat.arch)
        migratetype = gfp_migratetype(gfp, bool(pgdat.pg.tune[TUNE_MOBILITY_DISABLED]))
        walk = policy_walk(machine.zonelists, self._nid, policy, gfp, highest)
        nid, zones = walk.segments[0]
        several = policy.interleaves or policy.mode is PolicyMode.PREFERRED_MANY
        cached = machine.profile.zonelist_cache and not walk.this_node
        here = zones if nid == self._nid and not several and not cached else ()
        return Prepared(migratetype, highest, walk, self.alloc_flags(gfp, walk), here)

    def alloc_flags(self, gfp: int, walk: Walk) -> int:
        """Return the ALLOC_* flags of the fast path (alloc_flags_nofragment).

        ALLOC_NOFRAGMENT (5.0) is set for zone Normal if DMA32 is there to fall back to, and ALLOC_FAIR by
        kernels that have it (3.12 to 4.7). ALLOC_CMA (gfp_to_alloc_flags_cma) is left to the node that
        applies the op.
        """
        flags = ALLOC_WMARK_LOW | ALLOC_CPUSET
        if gfp & Gfp.KSWAPD_RECLAIM:
            flags |= ALLOC_KSWAPD
        if self._machine.profile.fair_zones:
            flags |= ALLOC_FAIR
        nid, zone = walk.preferred
        if zone != self._zone_above_dma32 or not self._machine.profile.avoids_fragmentation:
            return flags
        if len(self._machine.spec.nodes) > 1 and not self._machine.managed[nid, "DMA32"]:
            return flags
        return flags | ALLOC_NOFRAGMENT


def gfp_zone_checked(gfp: int, arch: str) -> int:
    """Return gfp_zone(), the highest zone that the flags allow; InvalidRequest for contradictory flags."""
    try:
        return gfp_zone(gfp, arch)
    except ValueError as e:
        raise InvalidRequest("gfp_flags", str(e)) from None
