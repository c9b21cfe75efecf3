"""The allocation path across nodes: ``__alloc_pages`` and its slow path, read from top to bottom.

Generators: steps on this node are applied at once; for another node they yield an Ask and are sent
its result. A batch is what so many single allocations in a row would be, with one lookup per remote node.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numa_client import Explanation, FreelistPass
from numa_client._explanation_steps import Step

from numa_service.mm.gfp import Gfp
from numa_service.mm.mmzone import DEF_PRIORITY, PAGE_ALLOC_COSTLY_ORDER, SWAP_CLUSTER_MAX
from numa_service.mm.page_alloc import (
    ALLOC_CPUSET,
    ALLOC_HARDER,
    ALLOC_HIGH,
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    ALLOC_NOFRAGMENT,
    ALLOC_NON_BLOCK,
    ALLOC_WMARK_MIN,
    LRU_KIND_NONE,
    NUMA_HOW_HIT,
    NUMA_HOW_INTERLEAVE,
    NUMA_HOW_LOCAL,
)
from numa_service.mm.profile import WMARK_FREE_RESERVE, Profile
from numa_service.mm.zonelist import Zoneref
from numa_service.mm.zonelist_cache import ZonelistScan
from numa_service.node import ops
from numa_service.node.ask import Steps, on
from numa_service.node.cost import Cost
from numa_service.node.errors import LimitExceeded, NodeError, PeerUnavailable
from numa_service.node.explain import (
    Recorder,
    alloc_flag_names,
    gfp_names,
    migratetype_name,
    node_visit,
    told_cost,
    told_policy,
)
from numa_service.node.mempolicy import Policy, PolicyMode, Walk, policy_walk
from numa_service.node.node import Node
from numa_service.node.ops.alloc import MAX_REQUEST_PAGES
from numa_service.node.ops.op import Op
from numa_service.node.owners import Owner
from numa_service.node.prepare import AllocRequest, Prepared
from numa_service.node.unserved import Unserved, unserved

R = TypeVar("R")
T = TypeVar("T")

#: MAX_RECLAIM_RETRIES: rounds without progress before giving up.
MAX_NO_PROGRESS = 16

#: The first pass over the zonelist, as explanations call it.
FAST_PATH = "fast path"


@dataclass(slots=True)
class AllocContext:
    """``struct alloc_context`` and what has been got so far."""

    owner: Owner
    gfp: int
    order: int
    count: int
    cpu: int
    migratetype: int
    walk: Walk
    cost: Cost
    lru_kind: int = LRU_KIND_NONE
    indexes: bytes = b""
    dirty: bool = False
    #: Region pages that move: what this node gives is held by hand until the old page has made room for it.
    moving: bool = False
    interleave: bool = False
    #: Blocks got, in the order of the walk.
    pages: list[tuple[int, bytes]] = field(default_factory=list)
    got: int = 0
    remote_lookups: int = 0
    direct_reclaimed: int = 0
    #: Nodes of the walk that were not asked for all that they could give, and why.
    unasked: dict[int, NodeError] = field(default_factory=dict)
    #: Takes down what happens, for a request that asked why.
    recorder: Recorder | None = None
    #: What the first node of the walk, this one, has given already.
    first: ops.AllocResult | None = None

    @property
    def missing(self) -> int:
        """Blocks still wanted."""
        return self.count - self.got


@dataclass(slots=True)
class Allocation:
    """What a request got, over all its walks."""

    pages: list[tuple[int, bytes]] = field(default_factory=list)
    got: int = 0
    cost: Cost = field(default_factory=Cost)
    remote_lookups: int = 0
    direct_reclaimed: int = 0
    #: As in AllocContext.
    unasked: dict[int, NodeError] = field(default_factory=dict)
    #: For a request that asked why.
    explanation: Explanation | None = None

    def absorb(self, ac: AllocContext) -> None:
        """Take over what one walk got."""
        self.pages += ac.pages
        self.got += ac.got
        self.remote_lookups += ac.remote_lookups
        self.direct_reclaimed += ac.direct_reclaimed
        self.unasked.update(ac.unasked)


def spend(node: Node, cpu: int, cost: Cost) -> None:
    """The CPU's clock goes on, and its traffic is load for others."""
    node.apply(ops.Spend(cpu, cost.latency_ns, tuple(cost.traffic.items())))


def alloc_pages(node: Node, request: AllocRequest) -> Steps[Allocation]:
    """AllocPages: blocks that the session holds by hand.

    When they are not to be had, what was got goes back, unless `partial` was asked for and something was got:
    NodesAway when nodes of the walk did not answer, else AllocFailed, or the LimitExceeded of a node.
    """
    begun = begin_alloc(node, request)
    return begun if isinstance(begun, Allocation) else (yield from begun)


def begin_alloc(node: Node, request: AllocRequest) -> Allocation | Steps[Allocation]:
    """:func:`alloc_pages` up to the end of the fast path: all that was wanted, or the steps for the rest."""
    owner, count = node.session(request.session).owner, request.count
    prepared, op, walk_step = node.prepared.alloc(request, owner)
    first = fast_path(node, op) if op else None
    if first and first.spent:
        allocation = Allocation([(node.nid, first.pfns)], count, first.spent)
        if walk_step:
            steps = walk_step, _pass_here(node, prepared, first)
            allocation.explanation = _explanation(node, request, prepared, allocation, steps)
        return allocation
    return _alloc_rest(node, request, prepared, owner, first)


def _pass_here(node: Node, prepared: Prepared, first: ops.AllocResult) -> FreelistPass:
    """What a walk would have taken down that ended with the fast path."""
    cost = first.spent
    assert cost
    # clearing is a second pass over the pages, and waits as long as the first
    passed_ns = cost.latency_ns - (cost.zeroing_ns + cost.queueing_ns // 2 if cost.zeroing_ns else 0)
    visit = node_visit(node.nid, False, first.account)
    return FreelistPass(FAST_PATH, alloc_flag_names(prepared.alloc_flags), (visit,), passed_ns)


def _alloc_rest(
    node: Node, request: AllocRequest, prepared: Prepared, owner: Owner, first: ops.AllocResult | None
) -> Steps[Allocation]:
    gfp, order, count, cpu = request.gfp, request.order, request.count, request.cpu
    cost = Cost()
    recorder = Recorder(node.pgdat.arch, cost) if request.explain else None
    result = Allocation(cost=cost)
    ac = AllocContext(
        owner,
        gfp,
        order,
        count,
        cpu,
        prepared.migratetype,
        prepared.walk,
        cost,
        recorder=recorder,
        first=first,
    )
    yield from _walk_zonelists(node, request.session, request.policy, ac, result)
    spend(node, request.cpu, cost)
    if result.got < request.count and not (request.partial and result.got):
        yield from _undo(node, owner, request, result.pages)
        nodes = node.machine.zonelists[node.nid].node_order
        failed = unserved(request.order, request.count, result.got, nodes, result.unasked)
        if recorder and isinstance(failed, Unserved):
            failed.explanation = _explanation(
                node, request, prepared, result, tuple(recorder.steps), str(failed)
            )
        raise failed
    if recorder:
        result.explanation = _explanation(node, request, prepared, result, tuple(recorder.steps))
    return result


def _explanation(
    node: Node,
    request: AllocRequest,
    prepared: Prepared,
    result: Allocation,
    steps: tuple[Step, ...],
    failure: str = "",
) -> Explanation:
    pgdat, blocks = node.pgdat, dict[int, int]()
    for nid, pfns in result.pages:
        blocks[nid] = blocks.get(nid, 0) + len(pfns) // 8
    return Explanation(
        node=node.nid,
        cpu=request.cpu,
        gfp=gfp_names(request.gfp),
        order=request.order,
        count=request.count,
        migratetype=migratetype_name(pgdat.profile, prepared.migratetype),
        classzone=pgdat.zone_names[prepared.highest_zoneidx],
        policy=told_policy(request.policy),
        profile=pgdat.profile.name,
        steps=steps,
        placement=blocks,
        cost=told_cost(result.cost),
        failure=failure,
    )


def _undo(node: Node, owner: Owner, request: AllocRequest, pages: list[tuple[int, bytes]]) -> Steps[None]:
    for nid, pfns in pages:
        # what a node that went away still has of it, the session's end frees
        yield from tell(node, nid, ops.Free(owner, request.cpu, request.order, pfns))


def alloc_for_owner(
    node: Node,
    owner: Owner,
    session: int,
    gfp: int,
    order: int,
    count: int,
    cpu: int,
    policy: Policy,
    lru_kind: int = LRU_KIND_NONE,
    indexes: bytes = b"",
    dirty: bool = False,
    *,
    cost: Cost | None = None,
) -> Steps[Allocation]:
    """As many of `count` blocks as can be had, by policy; for any owner of this node."""
    prepared = node.prepared(gfp, policy)
    result = Allocation(cost=cost or Cost())
    first = None
    if prepared.here:
        op = prepared.op(owner, gfp, order, count, cpu, lru_kind, indexes, dirty)
        first = fast_path(node, op)
    if first and len(first.pfns) == 8 * count:
        result.pages.append((node.nid, first.pfns))
        result.got = count
        result.cost.add_path(node.machine.spec.latency, first.path)
        result.cost.add_access(node.load, node.nid, count << order, first.wait_ns)
        if gfp & Gfp.ZERO:
            result.cost.add_zeroing(node.machine.spec.latency, node.nid, count << order)
        return result
    ac = AllocContext(
        owner,
        gfp,
        order,
        count,
        cpu,
        prepared.migratetype,
        prepared.walk,
        result.cost,
        lru_kind,
        indexes,
        dirty,
        first=first,
    )
    yield from _walk_zonelists(node, session, policy, ac, result)
    return result


def fast_path(node: Node, op: ops.Alloc) -> ops.AllocResult | None:
    """Take from this node's zones, when the walk begins with them: one op, and most often all there is to do.

    What is still missing is looked for by a walk, which is to know what there was. None when nothing was
    asked for, as this node knows too many owners.
    """
    try:
        return node.apply(op)
    except LimitExceeded:
        return None


def _walk_zonelists(
    node: Node, session: int, policy: Policy, ac: AllocContext, result: Allocation
) -> Steps[None]:
    """All of a request, but for what the fast path has got."""
    yield from _alloc_by_policy(node, session, policy, ac, result)
    if ac.gfp & Gfp.ZERO:
        for nid, pfns in result.pages:
            result.cost.add_zeroing(node.machine.spec.latency, nid, len(pfns) // 8 << ac.order)
    if result.got < ac.count and not result.unasked:
        node.alloc_failures[ac.order] = node.alloc_failures.get(ac.order, 0) + ac.count - result.got
    if result.remote_lookups or session not in node.sessions:
        yield from _note_holdings(node, session, result)


def _alloc_by_policy(
    node: Node, session: int, policy: Policy, whole: AllocContext, result: Allocation
) -> Steps[None]:
    """The walks of a request, one after the other."""
    lists, gfp, highest = node.machine.zonelists, whole.gfp, whole.walk.highest_zoneidx
    if policy.mode is PolicyMode.INTERLEAVE:
        before = node.apply(ops.Interleave(session, whole.count))
        turns = (before + np.arange(whole.count)) % len(policy.nodes)
        shares = np.bincount(turns, minlength=len(policy.nodes)).tolist()
        for nid, share in zip(policy.nodes, shares, strict=True):
            if share:
                target = Policy(PolicyMode.PREFERRED, (nid,))
                walk = policy_walk(lists, node.nid, target, gfp, highest)
                yield from _alloc_part(node, replace(whole, walk=walk, count=share, interleave=True), result)
    elif policy.mode is PolicyMode.PREFERRED_MANY:
        # first the mask, without direct reclaim; then everybody (alloc_pages_preferred_many)
        walk = policy_walk(lists, node.nid, policy, gfp, highest, nodemask=policy.nodes)
        flags = gfp & ~(Gfp.DIRECT_RECLAIM | Gfp.NOFAIL)
        yield from _alloc_part(node, replace(whole, walk=walk, gfp=flags), result)
        if result.got < whole.count:
            yield from _alloc_part(node, replace(whole, count=whole.count - result.got), result)
    else:
        yield from _alloc_part(node, whole, result)


def _alloc_part(node: Node, ac: AllocContext, result: Allocation) -> Steps[None]:
    """One walk, for the blocks that come after those got."""
    ac.indexes = ac.indexes[4 * result.got : 4 * (result.got + ac.count)]
    ac.pages = []
    if ac.recorder:
        ac.recorder.walk(node.machine.zonelists[ac.walk.list_nid], ac.walk, ac.count)
    yield from __alloc_pages(node, ac)
    result.absorb(ac)


def _note_holdings(node: Node, session: int, result: Allocation) -> Steps[None]:
    """Remember where a session's pages are, or may be, so that its end can free them."""
    if session not in node.sessions:
        # its lease ran out while a peer was asked: nobody would ever free these pages
        for nid in dict.fromkeys(nid for nid, _ in result.pages):
            # one that is away is told later (rpc/peers.py), and the others are told now
            yield from tell(node, nid, ops.FreeOwner(node.owner(session)))
        node.session(session)
    for nid in (*dict.fromkeys(nid for nid, _ in result.pages), *result.unasked):
        if nid != node.nid and nid not in node.sessions[session].holdings:
            node.apply(ops.NoteHolding(session, nid))


def __alloc_pages(node: Node, ac: AllocContext) -> Steps[None]:
    """The fast path at LOW, then the slow path."""
    yield from get_page_from_freelist(node, ac, node.prepared.alloc_flags(ac.gfp, ac.walk))
    if ac.missing:
        yield from __alloc_pages_slowpath(node, ac)
    tracer = node.tracepoints.tracer
    if tracer and ac.missing:
        tracer.failed(ac.owner, ac.cpu, ac.gfp, ac.order, ac.migratetype)


def get_page_from_freelist(
    node: Node, ac: AllocContext, alloc_flags: int, name: str = FAST_PATH
) -> Steps[None]:
    """Walk the zonelist, taking what each zone can give and stay above its mark.

    With a zonelist cache (3.0), once passing over what it says is full, and once more without it if that was
    not enough. `name` is what an explanation calls this pass.
    """
    scan = node.zonelist_scan(ac.walk, alloc_flags)
    yield from _scan_zonelist(node, ac, alloc_flags, name, scan)
    if ac.missing and scan and scan.scan_again():
        yield from _scan_zonelist(node, ac, alloc_flags, f"{name}, without the zonelist cache", scan)


def _scan_zonelist(
    node: Node, ac: AllocContext, alloc_flags: int, name: str, scan: ZonelistScan | None
) -> Steps[None]:
    preferred = ac.walk.preferred
    recorder = ac.recorder
    foreign = 0
    if recorder:
        recorder.begin_pass(name, alloc_flags)
    for nid, listed in ac.walk.segments:
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
            flags &= ~ALLOC_NOFRAGMENT  # locality beats fragmentation, and locality is lost already
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
            continue  # a node that is away, or knows too many owners, gives us no pages now
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
                # the walk did not come to what is behind the zone that served last
                end = listed.index(zones[len(result.full)])
                cached_full = tuple(zone for zone in cached_full if listed.index(zone) < end)
            recorder.visit(nid, not here, result.account, cached_full=cached_full)
        if scan and result.full:
            positions = tuple(scan.cache.position(Zoneref(nid, zone)) for zone in result.full)
            setup_ns = scan.now_ns if scan.zones_full() else None
            node.apply(ops.ZlcMarkFull(ac.walk.list_nid, positions, setup_ns))
        if blocks:
            ac.pages.append((nid, result.pfns))
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
    """Zones of a node to ask for, and those that the zonelist cache says are full.

    The first zone of a walk is always looked at: only its failure switches the cache on.
    """
    full = tuple(
        zone
        for zone in zones
        if (nid, zone) != walk.preferred and scan.skips(scan.cache.position(Zoneref(nid, zone)))
    )
    return tuple(zone for zone in zones if zone not in full), full


def _numa_how(node: Node, ac: AllocContext, nid: int) -> int:
    how = NUMA_HOW_HIT if nid == ac.walk.preferred.nid else 0
    if nid == node.nid:
        how |= NUMA_HOW_LOCAL
    if ac.interleave and nid == ac.walk.preferred.nid:
        how |= NUMA_HOW_INTERLEAVE
    return how


def tell(node: Node, nid: int, op: Op[R]) -> Steps[R | None]:
    """Ask, and do without the answer if there is none."""
    with contextlib.suppress(PeerUnavailable):
        return (yield from on(node, nid, op))
    return None


def gfp_to_alloc_flags(gfp: int, order: int, profile: Profile) -> int:
    """Slow-path rights of a request (gfp_to_alloc_flags)."""
    flags = ALLOC_WMARK_MIN | ALLOC_CPUSET
    if gfp & Gfp.HIGH:
        flags |= ALLOC_HIGH
    if gfp & Gfp.KSWAPD_RECLAIM:
        flags |= ALLOC_KSWAPD
    if profile.watermark_rules == WMARK_FREE_RESERVE:
        # 6.12 has no __GFP_ATOMIC: who may not block has the right, and who also sets __GFP_HIGH more of it
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
    """Wake every kswapd, retry at MIN, reclaim, retry; give up where the kernel would call the OOM killer."""
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
            # pages may be stuck on other CPUs' pagesets, or kept for atomic requests
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
            # should_reclaim_retry(): the high-atomic reserves go before the OOM killer comes
            yield from _drain(node, ac, force=True)
            yield from get_page_from_freelist(node, ac, alloc_flags, "after releasing reserves")
            return
        if alloc_flags & ALLOC_KSWAPD:
            yield from wake_all_kswapds(node, ac)


def _drain(node: Node, ac: AllocContext, force: bool) -> Steps[None]:
    """Release high-atomic blocks and empty the pagesets of every node of the zonelist."""
    for nid, zones in ac.walk.segments:
        pages = yield from tell(node, nid, ops.DrainPagesets(zones, ac.migratetype, force))
        if ac.recorder:
            ac.recorder.drain(nid, pages)


def wake_all_kswapds(node: Node, ac: AllocContext) -> Steps[None]:
    """Wake the kswapd of every node in the zonelist."""
    for nid in ac.walk.nodes:
        woken = yield from tell(node, nid, ops.WakeKswapd(ac.order, ac.walk.highest_zoneidx, ac.gfp))
        if ac.recorder:
            ac.recorder.wakeup(nid, woken)


def __alloc_pages_direct_reclaim(node: Node, ac: AllocContext) -> Steps[int]:
    """try_to_free_pages: shrink every node of the zonelist, harder each round; pages reclaimed."""
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
