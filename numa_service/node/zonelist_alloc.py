"""Allocation by one walk over a zonelist: ``__alloc_pages`` and its slow path, across nodes.

It reads top to bottom like ``mm/page_alloc.c``. The functions are generators: ops on this node are applied at
once, and an Ask is yielded for an op on another node. One walk allocates many blocks, with one lookup per
node where the kernel would look at the node's zones once for each block.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from numa_service.mm.gfp import Gfp
from numa_service.mm.internal import (
    ALLOC_CPUSET,
    ALLOC_FAIR,
    ALLOC_HARDER,
    ALLOC_HIGH,
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    ALLOC_WMARK_HIGH,
    ALLOC_WMARK_MIN,
)
from numa_service.mm.mmzone import DEF_PRIORITY, PAGE_ALLOC_COSTLY_ORDER, SWAP_CLUSTER_MAX
from numa_service.mm.page_alloc import (
    LRU_KIND_FILE,
    LRU_KIND_NONE,
    NUMA_HOW_HIT,
    NUMA_HOW_INTERLEAVE,
    NUMA_HOW_LOCAL,
)
from numa_service.mm.profile import Profile
from numa_service.mm.variants import WMARK_NON_BLOCK
from numa_service.mm.zonelist import Zoneref
from numa_service.mm.zonelist_cache import ZonelistScan
from numa_service.node import ops
from numa_service.node.ask import Steps, on, tell
from numa_service.node.cost import Cost
from numa_service.node.errors import LimitExceeded, NodeError, PeerUnavailable
from numa_service.node.explanation_recorder import (
    Recorder,
)
from numa_service.node.mempolicy import Walk
from numa_service.node.node import Node
from numa_service.node.oom_kill import OomAsker, OutOfMemory, may_oom
from numa_service.node.ops.alloc import MAX_REQUEST_PAGES
from numa_service.node.owners import Owner

#: Rounds of direct reclaim without progress before giving up (MAX_RECLAIM_RETRIES).
MAX_NO_PROGRESS = 16

#: Name of the first pass over the zonelist in explanations.
FAST_PATH = "fast path"


@dataclass(slots=True)
class AllocContext:
    """``struct alloc_context``, and what the walk has got so far."""

    owner: Owner
    gfp: int
    order: int
    #: Blocks wanted.
    count: int
    cpu: int
    migratetype: int
    walk: Walk
    cost: Cost
    lru_kind: int = LRU_KIND_NONE
    indexes: bytes = b""
    dirty: bool = False
    #: The pages are targets of a migration: those of this node are held without being the region's, as the
    #: old pages are still in its page table.
    moving: bool = False
    #: The node of the CPU, where it is not this one: another node's task moves pages of this one.
    cpu_nid: int | None = None
    #: Whether the policy is MPOL_INTERLEAVE, for interleave_hit.
    interleave: bool = False
    #: (nid, packed pfns) of the blocks got, in the order of the walk.
    pages: list[tuple[int, bytes]] = field(default_factory=list)
    #: Number of blocks got.
    got: int = 0
    remote_lookups: int = 0
    #: Pages that direct reclaim freed.
    direct_reclaimed: int = 0
    #: nid → the error for which that node of the walk was not, or not in full, asked for pages.
    unasked: dict[int, NodeError] = field(default_factory=dict)
    #: The OOM killer found nobody whom it may kill.
    hopeless: bool = False
    #: The OOM killer at work for this walk.
    out_of_memory: OutOfMemory | None = None
    #: For a request that asked for an explanation.
    recorder: Recorder | None = None
    #: What the fast path has got from this node, with which the walk begins.
    first: ops.AllocResult | None = None
    #: Name of the slab cache that the block becomes a slab of; "" for none.
    slab: str = ""
    #: Most objects of it that the node gets; 0: all.
    slab_objects: int = 0
    #: The task that asks: for its sake the OOM killer may kill somebody.
    asker: OomAsker | None = None
    #: The new slab: its node, that node's lineage, and the packed addresses of its objects.
    new_slab: tuple[int, int, bytes] | None = None

    @property
    def missing(self) -> int:
        """Number of blocks that are still wanted."""
        return self.count - self.got


def __alloc_pages(node: Node, ac: AllocContext) -> Steps[None]:
    """Walk the zonelist at the LOW watermark, then take the slow path for the blocks that are missing."""
    yield from get_page_from_freelist(node, ac, node.prepared.alloc_flags(ac.gfp, ac.walk))
    if ac.missing:
        yield from __alloc_pages_slowpath(node, ac)
    tracer = node.tracepoints.tracer
    if tracer and ac.missing:
        tracer.failed(ac.owner, ac.cpu, ac.gfp, ac.order, ac.migratetype)


def get_page_from_freelist(
    node: Node, ac: AllocContext, alloc_flags: int, name: str = FAST_PATH
) -> Steps[None]:
    """Make one pass over the zonelist: take from each zone what it can give and stay above its watermark.

    linux-3.0 skips zones that its zonelist cache says are full, and makes a second pass without the cache if
    blocks are missing. `name` is the name of the pass in explanations.
    """
    scan = node.zonelist_scan(ac.walk, alloc_flags)
    yield from _scan_zonelist(node, ac, alloc_flags, name, scan)
    if ac.missing and scan and scan.scan_again():
        flags = alloc_flags & ~ALLOC_FAIR
        yield from _scan_zonelist(node, ac, flags, f"{name}, without the zonelist cache", scan)


def _scan_zonelist(
    node: Node, ac: AllocContext, alloc_flags: int, name: str, scan: ZonelistScan | None
) -> Steps[None]:
    """Ask the nodes of the walk for blocks, one after the other, until none is missing."""
    preferred = ac.walk.preferred
    recorder = ac.recorder
    foreign = 0
    if recorder:
        recorder.begin_pass(name, alloc_flags)
    for at, (nid, listed) in enumerate(ac.walk.segments):
        if ac.got == ac.count:
            break
        zones, cached_full = _worth_trying(ac.walk, nid, listed, scan) if scan else (listed, ())
        if not zones:
            if recorder:
                recorder.visit(nid, False, None, cached_full=cached_full)
            continue
        here, flags = nid == node.nid, alloc_flags
        by_hand = here and ac.moving
        if nid != preferred.nid:
            flags &= ~ALLOC_NOFRAGMENT  # as in the kernel: on another node, fragmenting is the lesser evil
        if at:
            flags &= ~ALLOC_FAIR  # only the zones of the preferred node take turns
        op = ops.Alloc(
            owner=ac.owner,
            zones=zones,
            cpu=ac.cpu,
            order=ac.order,
            count=ac.missing,
            migratetype=ac.migratetype,
            highest_zoneidx=ac.walk.highest_zoneidx,
            alloc_flags=flags,
            numa_how=_numa_how(node, ac, nid),
            lru_kind=LRU_KIND_NONE if by_hand else ac.lru_kind,
            indexes=b"" if by_hand else ac.indexes[4 * ac.got :] if ac.got else ac.indexes,
            dirty=ac.dirty and not by_hand,
            explain=recorder is not None,
            report=None if here else node.load.report(nid),
            gfp=ac.gfp,
            slab=ac.slab,
            slab_objects=ac.slab_objects,
        )
        try:
            if ac.first:
                result, ac.first = ac.first, None
            else:
                result = node.apply(op) if here else (yield from on(node, nid, op))
        except (PeerUnavailable, LimitExceeded) as e:
            ac.unasked[nid] = e
            if recorder:
                recorder.visit(nid, not here, None, str(e), cached_full)
            continue  # the node does not answer, or has too many owners: try the next one
        finally:
            if not here:
                ac.remote_lookups += 1
                ac.cost.add_lookup(node.machine.spec.latency)
        blocks = len(result.pfns) // 8
        ac.cost.add_path(node.machine.spec.latency, result.path)
        if blocks:
            ac.cost.add_access(node.load, nid, blocks << ac.order, result.wait_ns)
        if recorder:
            if cached_full and blocks == op.count:
                # leave out the skipped zones behind the zone that served last: the walk did not come to them
                end = listed.index(zones[len(result.full)])
                cached_full = tuple(zone for zone in cached_full if listed.index(zone) < end)
            recorder.visit(nid, not here, result.account, cached_full=cached_full)
        if scan and result.full:
            positions = tuple(scan.cache.position(Zoneref(nid, zone)) for zone in result.full)
            setup_ns = scan.now_ns if scan.zones_full() else None
            node.apply(ops.ZlcMarkFull(ac.walk.list_nid, positions, setup_ns))
        if blocks:
            ac.pages.append((nid, result.pfns))
            if ac.slab:
                ac.new_slab = nid, result.lineage, result.objects
            ac.got += blocks
            if nid != preferred.nid:
                foreign += blocks
    if recorder:
        recorder.end_pass()
    if foreign:
        yield from tell(node, preferred.nid, ops.CountForeign(preferred.zone, foreign))


def _worth_trying(
    walk: Walk, nid: int, zones: tuple[int, ...], scan: ZonelistScan
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split a node's zones into those to try and those that the zonelist cache says are full.

    The first zone of a walk is always tried: the kernel uses the cache only after that zone has failed.
    """
    full = tuple(
        zone
        for zone in zones
        if (nid, zone) != walk.preferred and scan.skips(scan.cache.position(Zoneref(nid, zone)))
    )
    return tuple(zone for zone in zones if zone not in full), full


def _numa_how(node: Node, ac: AllocContext, nid: int) -> int:
    """Return the NUMA_HOW_* bits by which node `nid` counts its blocks in numastat (zone_statistics)."""
    how = NUMA_HOW_HIT if nid == ac.walk.preferred.nid else 0
    if nid == (node.nid if ac.cpu_nid is None else ac.cpu_nid):
        how |= NUMA_HOW_LOCAL
    if ac.interleave and nid == ac.walk.preferred.nid:
        how |= NUMA_HOW_INTERLEAVE
    return how


def gfp_to_alloc_flags(gfp: int, order: int, profile: Profile) -> int:
    """Return the ALLOC_* flags of the slow path (gfp_to_alloc_flags)."""
    flags = ALLOC_WMARK_MIN | ALLOC_CPUSET
    if gfp & Gfp.HIGH:
        flags |= ALLOC_HIGH
    if gfp & Gfp.KSWAPD_RECLAIM:
        flags |= ALLOC_KSWAPD
    if profile.watermark_rules >= WMARK_NON_BLOCK:
        # without __GFP_ATOMIC (6.3): a request that may not block gets into the reserves, deeper with
        # __GFP_HIGH
        atomic, entitled = not gfp & Gfp.DIRECT_RECLAIM, ALLOC_NON_BLOCK
        if order > 0 and flags & ALLOC_MIN_RESERVE:
            entitled |= ALLOC_HIGHATOMIC
        leaves_cpuset = atomic and flags & ALLOC_MIN_RESERVE
    else:
        atomic, entitled = bool(gfp & Gfp.ATOMIC), ALLOC_HARDER
        leaves_cpuset = atomic
    if atomic and not gfp & Gfp.NOMEMALLOC:
        flags |= entitled
    if leaves_cpuset:
        flags &= ~ALLOC_CPUSET
    return flags


def __alloc_pages_slowpath(node: Node, ac: AllocContext) -> Steps[None]:
    """Wake every kswapd, retry at MIN, reclaim and retry.

    Then the OOM killer kills a task, as long as there is one, if a task asks; else it gives up.
    """
    can_direct_reclaim = bool(ac.gfp & Gfp.DIRECT_RECLAIM)
    alloc_flags = gfp_to_alloc_flags(ac.gfp, ac.order, node.machine.profile)
    if alloc_flags & ALLOC_KSWAPD:
        yield from wake_all_kswapds(node, ac)
    yield from get_page_from_freelist(node, ac, alloc_flags, "slow path")
    if not ac.missing:
        return
    if ac.gfp & Gfp.MEMALLOC and not ac.gfp & Gfp.NOMEMALLOC:
        yield from get_page_from_freelist(node, ac, alloc_flags | ALLOC_NO_WATERMARKS, "reserves")
        if not ac.missing:
            return
    drained = False
    no_progress = 0
    while ac.missing and can_direct_reclaim:
        reclaimed = yield from __alloc_pages_direct_reclaim(node, ac)
        before = ac.got
        yield from get_page_from_freelist(node, ac, alloc_flags, "after direct reclaim")
        if not ac.missing:
            return
        if not drained:
            # pages may be on other CPUs' pagesets, or reserved for high-order atomic requests
            yield from _drain(node, ac, force=False)
            drained = True
            yield from get_page_from_freelist(node, ac, alloc_flags, "after draining pagesets")
            if not ac.missing:
                return
        if ac.gfp & Gfp.NORETRY:
            return
        if ac.order > PAGE_ALLOC_COSTLY_ORDER and not ac.gfp & Gfp.RETRY_MAYFAIL:
            return
        no_progress = 0 if reclaimed and ac.got > before else no_progress + 1
        if not reclaimed or no_progress > MAX_NO_PROGRESS:
            # should_reclaim_retry(): release the high-atomic reserves before giving up
            yield from _drain(node, ac, force=True)
            yield from get_page_from_freelist(node, ac, alloc_flags, "after releasing reserves")
            if not ac.missing or not (yield from __alloc_pages_may_oom(node, ac)):
                return
            yield from get_page_from_freelist(node, ac, alloc_flags, "after an OOM kill")
            drained, no_progress = False, 0
        if alloc_flags & ALLOC_KSWAPD:
            yield from wake_all_kswapds(node, ac)


def __alloc_pages_may_oom(node: Node, ac: AllocContext) -> Steps[bool]:
    """Try once more, against the HIGH watermarks, and then have a task killed; True if it is worth a new try.

    The task that asks may be the one: it gets nothing any more then.
    """
    asker = ac.asker
    if asker is None or not may_oom(ac.walk, ac.gfp, ac.order, node):
        return False
    yield from get_page_from_freelist(node, ac, ALLOC_WMARK_HIGH | ALLOC_CPUSET, "before an OOM kill")
    if not ac.missing:
        return False
    if ac.out_of_memory is None:
        ac.out_of_memory = OutOfMemory(node, asker, ac.walk, ac.gfp, ac.order)
    killer = ac.out_of_memory
    pages = ac.got << ac.order
    killed = yield from killer.kill(*((0, pages) if ac.lru_kind == LRU_KIND_FILE else (pages, 0)))
    for _ in range(killer.asked):
        ac.cost.add_lookup(node.machine.spec.latency)
    ac.remote_lookups += killer.asked
    killer.asked = 0
    if not killed:
        ac.hopeless = True
        ac.unasked.update(killer.unasked)
    return killed and (not asker.pid or asker.pid in node.tasks)


def _drain(node: Node, ac: AllocContext, force: bool) -> Steps[None]:
    """Release high-atomic pageblocks and empty the pagesets, on every node of the walk."""
    for nid, zones in ac.walk.segments:
        pages = yield from tell(node, nid, ops.DrainPagesets(zones, ac.migratetype, force))
        if ac.recorder:
            ac.recorder.drain(nid, pages)


def wake_all_kswapds(node: Node, ac: AllocContext) -> Steps[None]:
    """Wake the kswapd of every node of the walk."""
    for nid in ac.walk.nodes:
        woken = yield from tell(node, nid, ops.WakeKswapd(ac.order, ac.walk.highest_zoneidx, ac.gfp))
        if ac.recorder:
            ac.recorder.wakeup(nid, woken)


def __alloc_pages_direct_reclaim(node: Node, ac: AllocContext) -> Steps[int]:
    """Reclaim on every node of the walk, at a higher priority each round (try_to_free_pages).

    Returns the number of pages reclaimed.
    """
    node.apply(ops.CountEvents(stalls=1))
    tracer = node.tracepoints.tracer
    if tracer:
        tracer.direct_reclaim_begin(ac.owner, ac.cpu, ac.gfp, ac.order)
    wanted = max(SWAP_CLUSTER_MAX, min(ac.missing << ac.order, MAX_REQUEST_PAGES))
    reclaimed = 0
    for priority in range(DEF_PRIORITY, -1, -1):
        for nid in ac.walk.nodes:
            op = ops.Reclaim(ac.walk.highest_zoneidx, priority, wanted - reclaimed)
            try:
                result = yield from on(node, nid, op)
            except PeerUnavailable as e:
                ac.unasked[nid] = e
                if ac.recorder:
                    ac.recorder.reclaim_away(nid, priority)
                continue
            before_ns = ac.cost.latency_ns
            ac.cost.add_path(node.machine.spec.latency, result.path)
            if ac.recorder:
                took = ac.cost.latency_ns - before_ns
                ac.recorder.reclaim(nid, priority, result.scanned, result.reclaimed, took)
            reclaimed += result.reclaimed
            if reclaimed >= wanted:
                break
        if reclaimed >= wanted:
            break
    ac.direct_reclaimed += reclaimed
    if tracer:
        tracer.direct_reclaim_end(ac.owner, ac.cpu, ac.gfp, reclaimed)
    if reclaimed and node.zonelist_scan(ac.walk, 0):
        node.apply(ops.ZlcClear(ac.walk.list_nid))
    return reclaimed
