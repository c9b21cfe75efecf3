"""Allocation requests: memory policies, the fast path, and the walks over zonelists (``alloc_pages``).

The memory policy turns a request into one or more walks; ``zonelist_alloc.py`` makes each. The functions are
generators: ops on this node are applied at once, and an Ask is yielded for an op on another node. A request
for many blocks gets what as many single allocations in a row would get, with one lookup per remote node.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from numa_client import Explanation, FreelistPass
from numa_client._explanation_steps import Step

from numa_service.mm.gfp import Gfp
from numa_service.mm.mempolicy.nodemask import nids_of
from numa_service.mm.page_alloc import LRU_KIND_NONE
from numa_service.node import ops
from numa_service.node.ask import Steps, tell
from numa_service.node.cost import Cost
from numa_service.node.errors import LimitExceeded, NodeError
from numa_service.node.explanation_recorder import (
    Recorder,
    alloc_flag_names,
    gfp_names,
    migratetype_name,
    node_visit,
    told_cost,
    told_policy,
)
from numa_service.node.mempolicy import Policy, PolicyMode, policy_walk, take_turns
from numa_service.node.node import Node
from numa_service.node.oom_kill import OomAsker
from numa_service.node.owners import Owner
from numa_service.node.prepare import AllocRequest, Prepared
from numa_service.node.unserved import Unserved, unserved
from numa_service.node.zonelist_alloc import FAST_PATH, AllocContext, __alloc_pages

#: (nid, blocks) of an interleaved request, in the order in which the nodes are asked.
Shares = tuple[tuple[int, int], ...]


@dataclass(slots=True)
class Allocation:
    """What a request got, over all its walks."""

    #: (nid, packed pfns) of the blocks, in the order in which they were got.
    pages: list[tuple[int, bytes]] = field(default_factory=list)
    #: Number of blocks got.
    got: int = 0
    cost: Cost = field(default_factory=Cost)
    remote_lookups: int = 0
    #: Pages that direct reclaim freed.
    direct_reclaimed: int = 0
    #: As in AllocContext.
    hopeless: bool = False
    unasked: dict[int, NodeError] = field(default_factory=dict)
    #: Set for a request that asked for an explanation.
    explanation: Explanation | None = None

    def absorb(self, ac: AllocContext) -> None:
        """Add what one walk got."""
        self.pages += ac.pages
        self.got += ac.got
        self.remote_lookups += ac.remote_lookups
        self.direct_reclaimed += ac.direct_reclaimed
        self.hopeless = self.hopeless or ac.hopeless
        self.unasked.update(ac.unasked)


def spend(node: Node, cpu: int, cost: Cost) -> None:
    """Advance a CPU's virtual clock by the cost of its request, and account for the request's traffic."""
    node.apply(ops.Spend(cpu, cost.latency_ns, tuple(cost.traffic.items())))


def alloc_pages(node: Node, request: AllocRequest) -> Steps[Allocation]:
    """AllocPages: allocate blocks that the session holds until it frees them.

    If not all blocks can be got, those that were got are freed and the request fails, unless it asked for
    `partial` and got some. It fails with NodesAway if nodes of the walk did not answer, else with
    AllocFailed, or with the LimitExceeded of a node. InvalidRequest and NotFound are raised before anything
    is allocated.
    """
    begun = begin_alloc(node, request)
    return begun if isinstance(begun, Allocation) else (yield from begun)


def begin_alloc(node: Node, request: AllocRequest) -> Allocation | Steps[Allocation]:
    """Run :func:`alloc_pages` up to the end of the fast path.

    Returns the allocation if the fast path got all blocks, else the steps that continue from there.
    """
    owner, count = node.session(request.session).owner, request.count
    prepared, op, walk_step = node.prepared.alloc(request, owner)
    first = fast_path(node, op) if op else None
    if first and first.spent:
        allocation = Allocation([(node.nid, first.pfns)], count, first.spent)
        if walk_step:
            steps = walk_step, _pass_here(node, prepared, request.order, first)
            allocation.explanation = _explanation(node, request, prepared, allocation, steps)
        return allocation
    return _alloc_rest(node, request, prepared, owner, first)


def _pass_here(node: Node, prepared: Prepared, order: int, first: ops.AllocResult) -> FreelistPass:
    """Return the step of an explanation for a request that one op of the fast path has served.

    Its time is what the op counted and waited, as of any pass; zeroing comes after it.
    """
    cost, pages = Cost(), len(first.pfns) // 8 << order
    cost.add_path(node.machine.spec.latency, first.path)
    cost.add_access(node.load, node.nid, pages, first.wait_ns)
    visit = node_visit(node.nid, False, first.account)
    return FreelistPass(FAST_PATH, alloc_flag_names(prepared.alloc_flags), (visit,), cost.latency_ns)


def _alloc_rest(
    node: Node, request: AllocRequest, prepared: Prepared, owner: Owner, first: ops.AllocResult | None
) -> Steps[Allocation]:
    """Continue a request after its fast path; `first` is what that has got, None if it was not tried."""
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
    """Return the explanation of a request; `failure` is the text of its error, "" if it succeeded."""
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
    """Free the blocks of a request that fails."""
    for nid, pfns in pages:
        # a node that does not answer is told later (outbox.py)
        yield from tell(node, nid, ops.Free(owner, request.cpu, request.order, pfns, undoes=True))


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
    shares: Shares | None = None,
    asker: OomAsker | None = None,
) -> Steps[Allocation]:
    """Allocate up to `count` blocks for an owner of this node, by policy; return what was got.

    Unlike :func:`alloc_pages`, it does not fail when blocks are missing, and does not spend the cost. `cost`
    is added to; `indexes` are the packed page indexes of a region, for an `lru_kind` other than
    LRU_KIND_NONE. `shares` are the blocks that an interleave policy wants of each node, in the order of the
    indexes. Session 0 is none: the caller knows itself where the owner has pages. `asker` is the task that
    asks, if there is one: tasks may be killed for it.
    """
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
        asker=asker,
    )
    yield from _walk_zonelists(node, session, policy, ac, result, shares)
    return result


def fast_path(node: Node, op: ops.Alloc) -> ops.AllocResult | None:
    """Apply the op of the fast path: take blocks from this node's zones, with which the walk begins.

    It serves most requests completely. Otherwise the result is passed on to the walk for the missing blocks,
    so that the walk does not try these zones again. None if this node has too many owners to serve another
    one.
    """
    try:
        return node.apply(op)
    except LimitExceeded:
        return None


def _walk_zonelists(
    node: Node,
    session: int,
    policy: Policy,
    ac: AllocContext,
    result: Allocation,
    shares: Shares | None = None,
) -> Steps[None]:
    """Make the walks of a request and zero its pages; what the fast path has got is in `ac.first`."""
    yield from _alloc_by_policy(node, session, policy, ac, result, shares)
    if ac.gfp & Gfp.ZERO:
        for nid, pfns in result.pages:
            result.cost.add_zeroing(node.machine.spec.latency, nid, len(pfns) // 8 << ac.order)
    if result.got < ac.count and not result.unasked:
        node.alloc_failures[ac.order] = node.alloc_failures.get(ac.order, 0) + ac.count - result.got
    if session and (result.remote_lookups or session not in node.sessions):
        yield from _note_holdings(node, session, ac.owner, result)


def turns(node: Node, session: int, policy: Policy, count: int) -> npt.NDArray[np.int64]:
    """Take the next `count` turns of a session under an interleave policy; return their nodes.

    There are none if no node of the policy has memory.
    """
    before = node.apply(ops.Interleave(session, count, policy.plain()))
    machine = node.machine
    weights = machine.sysctls.interleave_weights
    return take_turns(policy, machine.zonelists, before, weights, count)[0]


def shares_of(nodes: npt.NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Return how many blocks each node is to give, by nid, ascending."""
    nids, counts = np.unique(nodes, return_counts=True)
    return tuple(zip(nids.tolist(), counts.tolist(), strict=True))


def _alloc_by_policy(
    node: Node, session: int, policy: Policy, whole: AllocContext, result: Allocation, shares: Shares | None
) -> Steps[None]:
    """Make the walks that the memory policy asks for, one after the other.

    `shares` are those of an interleave policy, if the caller knows them: else it is the session's turn.
    """
    lists, gfp, highest = node.machine.zonelists, whole.gfp, whole.walk.highest_zoneidx
    if policy.interleaves:
        if shares is None:
            shares = shares_of(turns(node, session, policy, whole.count))
        for nid, share in shares or ((node.nid, whole.count),):
            target = Policy(PolicyMode.PREFERRED, (nid,))
            walk = policy_walk(lists, node.nid, target, gfp, highest)
            if whole.recorder:
                weights = node.machine.sysctls.interleave_weights
                walk = replace(walk, chosen=policy.turn_of(nid, weights))
            # numastat counts interleave_hit of the plain policy only (alloc_pages_mpol)
            counted = policy.mode is PolicyMode.INTERLEAVE
            yield from _alloc_part(node, replace(whole, walk=walk, count=share, interleave=counted), result)
    elif policy.mode is PolicyMode.PREFERRED_MANY:
        # first the policy's nodes, without direct reclaim, then all nodes (alloc_pages_preferred_many)
        wished = policy.bound(lists)
        if wished is not None:
            walk = policy_walk(lists, node.nid, policy, gfp, highest, nodemask=nids_of(wished.nodes))
            flags = gfp & ~(Gfp.DIRECT_RECLAIM | Gfp.NOFAIL)
            yield from _alloc_part(node, replace(whole, walk=walk, gfp=flags), result)
        if result.got < whole.count:
            yield from _alloc_part(node, replace(whole, count=whole.count - result.got), result)
    else:
        yield from _alloc_part(node, whole, result)


def _alloc_part(node: Node, ac: AllocContext, result: Allocation) -> Steps[None]:
    """Make one walk, for `ac.count` blocks that follow those that `result` has already."""
    ac.indexes = ac.indexes[4 * result.got : 4 * (result.got + ac.count)]
    ac.pages = []
    if ac.recorder:
        ac.recorder.walk(node.machine.zonelists[ac.walk.list_nid], ac.walk, ac.count)
    yield from __alloc_pages(node, ac)
    result.absorb(ac)


def _note_holdings(node: Node, session: int, owner: Owner, result: Allocation) -> Steps[None]:
    """Note on which nodes a session has, or may have, pages, so that its end frees them there.

    NotFound if the session has ended while other nodes were asked; the owner's new pages are freed.
    """
    if session not in node.sessions:
        # its lease ran out while another node was asked: nothing else would ever free these pages
        for nid in dict.fromkeys(nid for nid, _ in result.pages):
            # a node that does not answer is told later (outbox.py)
            yield from tell(node, nid, ops.FreeOwner(owner))
        node.session(session)
    for nid in (*dict.fromkeys(nid for nid, _ in result.pages), *result.unasked):
        if nid != node.nid and nid not in node.sessions[session].holdings:
            node.apply(ops.NoteHolding(session, nid))
