"""Pools of huge pages of all nodes: resizing, promises, taking and freeing pages (``mm/hugetlb.c``).

Each node has its pools (`hugetlb_state.py`). What concerns all of them, the turns and the promises, is kept
by one node, the one that keeps the kernel's addresses, and what looks at all of them runs there, one after
the other under a lock of the inbox (``resize_lock``, ``hugetlb_lock``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numa_service.mm.hugetlb.contig import find_gigantic
from numa_service.mm.hugetlb.gfp import pool_gfp
from numa_service.mm.hugetlb.hstate import Hstate
from numa_service.mm.hugetlb.node_hugetlb import HstateTotals
from numa_service.mm.hugetlb.spread import in_turn, outcome, spread
from numa_service.mm.mmzone import MIGRATE_MOVABLE
from numa_service.node import ops
from numa_service.node.ask import Steps, ask, on
from numa_service.node.cost import Cost
from numa_service.node.errors import Busy, InvalidRequest, LimitExceeded, NodeError, Precondition
from numa_service.node.inbox import Inbox
from numa_service.node.locks import locked
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.migrate import empty_range
from numa_service.node.node import Node
from numa_service.node.ops.alloc import MAX_REQUEST_PAGES
from numa_service.node.ops.fields import MAX_NODE_PAGES, check_below, check_nid, check_owner
from numa_service.node.ops.hugetlb import HugetlbAnswer, check_size
from numa_service.node.owners import Owner
from numa_service.node.request import Request
from numa_service.node.state import NodeState
from numa_service.node.zonelist_alloc import AllocContext, __alloc_pages
from numa_service.trace.tracepoint_formats import MR_CONTIG_RANGE

#: The sysctl that says how many surplus pages there may be, of sizes of the buddy system.
OVERCOMMIT = "vm.nr_overcommit_hugepages"

Counts = dict[int, HugetlbAnswer]


def keeper_of(node: NodeState) -> int:
    """Return the node that keeps what concerns all pools."""
    return node.machine.vmalloc_nid


def check_keeper(node: NodeState) -> None:
    """Raise Precondition on a node that does not keep the pools."""
    if node.nid != keeper_of(node):
        raise Precondition(f"node {keeper_of(node)} keeps the pools of huge pages")


# growing the pool of one node


def grow(node: Node, kb: int, count: int, surplus: bool = False) -> Steps[int]:
    """Allocate up to `count` huge pages of this node for its pool; return how many.

    (alloc_pool_huge_folio.)
    """
    hstate, got = Hstate(kb), 0
    while got < count:
        if hstate.gigantic:
            some = yield from _grow_gigantic(node, hstate)
            wanted = 1
        else:
            wanted = min(count - got, MAX_REQUEST_PAGES >> hstate.order)
            some = yield from _grow_from_buddy(node, hstate, wanted, surplus)
        got += some
        if some < wanted:
            break
    return got


def _grow_from_buddy(node: Node, hstate: Hstate, count: int, surplus: bool) -> Steps[int]:
    gfp = pool_gfp(node.machine.profile)
    try:
        prepared = node.prepared(gfp, Policy(PolicyMode.PREFERRED, (node.nid,)))
    except InvalidRequest:
        return 0  # the node has no memory for it
    if prepared.walk.nodes != (node.nid,):
        return 0  # it is off-line
    cpu = node.pgdat.all_cpus[0]
    walk, migratetype = prepared.walk, prepared.migratetype
    ac = AllocContext(node.kernel, gfp, hstate.order, count, cpu, migratetype, walk, Cost())
    yield from __alloc_pages(node, ac)
    node.apply(ops.HugetlbAdd(hstate.kb, b"".join(pfns for _, pfns in ac.pages), surplus))
    return ac.got


def _grow_gigantic(node: Node, hstate: Hstate) -> Steps[int]:
    """Make one range of pages free, and take it (alloc_contig_pages, alloc_contig_range)."""
    pgdat = node.pgdat
    zones = [ref.zone for ref in pgdat.zonelists.thisnode]
    others = tuple(nid for nid, populated in node.machine.populated.items() if populated)
    for zone in zones:
        start = find_gigantic(pgdat.pg, zone, pgdat.base_pfn, hstate.order, 0)
        while start is not None:
            end = start + (1 << hstate.order)
            try:
                node.apply(ops.IsolateMemory(start, end))
            except (Busy, InvalidRequest):
                pass
            else:
                try:
                    yield from empty_range(node, start, end, others, MR_CONTIG_RANGE)
                    node.apply(ops.HugetlbTakeRange(hstate.kb, start, end))
                    return 1
                except NodeError:
                    node.apply(ops.UndoIsolation(start, end, MIGRATE_MOVABLE))
            start = find_gigantic(pgdat.pg, zone, pgdat.base_pfn, hstate.order, end)
    return 0


# numbers of all nodes


def counts_of(node: Node, kb: int) -> Steps[Counts]:
    """Ask every node for its pool; return the answers by nid."""
    counts: Counts = {}
    for nid in node.machine.spec.nids:
        counts[nid] = yield from on(node, nid, ops.HugetlbCall("counts", kb))
    return counts


def _persistent(counts: Counts) -> int:
    return sum(count.nr - count.surplus for count in counts.values())


def _free(counts: Counts) -> int:
    return sum(count.free for count in counts.values())


def _surplus(counts: Counts) -> int:
    return sum(count.surplus for count in counts.values())


def _with_memory(node: Node) -> tuple[int, ...]:
    """Return the nodes of N_MEMORY, ascending."""
    return tuple(sorted(nid for nid, zones in node.machine.populated.items() if zones))


def overcommit(node: NodeState, kb: int) -> int:
    """Return how many surplus pages there may be (nr_overcommit_huge_pages)."""
    if Hstate(kb).gigantic:
        return 0
    return int(node.machine.sysctls.get(OVERCOMMIT) or 0)


def _totals(node: Node, kb: int) -> HstateTotals:
    check_keeper(node)
    check_size(node, kb)
    return node.hugetlb.state.totals[kb]


def _call_each(
    node: Node, kb: int, call: str, numbers: dict[int, int], sign: int = 1
) -> Steps[dict[int, HugetlbAnswer]]:
    """Ask every node whose number is not 0; return the answers by nid."""
    answers: dict[int, HugetlbAnswer] = {}
    for nid, number in numbers.items():
        if number:
            answers[nid] = yield from on(node, nid, ops.HugetlbCall(call, kb, sign * number))
    return answers


# resizing


def set_max_huge_pages(inbox: Inbox, kb: int, count: int, nid: int | None = None) -> Steps[int]:
    """Make the pools of all nodes, or that of node `nid`, as large as asked for, as far as that is possible.

    Returns the number of persistent pages that the pools, or the node's, have then: what was asked for, or
    what could be got. Pages in use and promised ones stay, as surplus pages. InvalidRequest; Precondition if
    another node keeps the pools; PeerUnavailable if a node does not answer: what was done until then stays.
    """
    node = inbox.node
    _totals(node, kb)
    if not 0 <= count < 1 << 64:
        raise InvalidRequest("value", f"{count} is not in 0…{(1 << 64) - 1}")
    if nid is not None and nid not in node.machine.spec.nids:
        raise InvalidRequest("node", f"there is no node {nid}")
    if Hstate(kb).gigantic and not node.machine.profile.gigantic_at_runtime:
        raise InvalidRequest("value", "EINVAL: this kernel takes gigantic pages at boot only")
    return (yield from inbox.locked(_lock(kb), _resize(node, kb, count, nid)))


def _lock(kb: int) -> str:
    return f"hugetlb {kb}"


def _resize(node: Node, kb: int, count: int, nid: int | None) -> Steps[int]:
    counts = yield from counts_of(node, kb)
    mask = _with_memory(node) if nid is None else (nid,)
    if nid is not None:
        mine = counts[nid]
        if node.machine.profile.node_write_counts_persistent:
            count += _persistent(counts) - (mine.nr - mine.surplus)
        else:
            count += sum(answer.nr for answer in counts.values()) - mine.nr
    count = min(count, sum(end - start for n in node.machine.spec.nodes for start, end in n.ram))
    totals = node.hugetlb.state.totals[kb]
    to_alloc, to_free = totals.next_nid_to_alloc, totals.next_nid_to_free
    wanted = count - _persistent(counts)
    try:
        if wanted > 0:
            to_alloc = yield from _enlarge(node, kb, mask, to_alloc, wanted, counts)
        elif wanted < 0:
            to_free = yield from _reduce(node, kb, mask, to_free, count, counts)
    finally:
        if (to_alloc, to_free) != (totals.next_nid_to_alloc, totals.next_nid_to_free):
            node.apply(ops.HugetlbTurns(kb, to_alloc, to_free))
    counts = yield from counts_of(node, kb)
    return _persistent(counts if nid is None else {nid: counts[nid]})


def _enlarge(
    node: Node, kb: int, mask: tuple[int, ...], first: int, wanted: int, counts: Counts
) -> Steps[int]:
    """Make surplus pages persistent, then allocate new pages; return whose turn is next."""
    turns = in_turn(mask, first)
    shares = spread(turns, {nid: counts[nid].surplus for nid in mask}, wanted)
    made = sum(shares.values())
    if made:
        yield from _call_each(node, kb, "surplus", shares, -1)
        turns = in_turn(mask, outcome(turns, shares, made).next_nid)
        wanted -= made
    if not wanted:
        return turns[0]
    got, limits = dict.fromkeys(turns, 0), dict[int, int]()
    while True:
        shares = spread(turns, limits, wanted)
        more = {nid: share - got[nid] for nid, share in shares.items() if share > got[nid]}
        if not more:
            break
        for nid, missing in more.items():
            got[nid] += yield from _grow_on(node, nid, kb, missing, False)
            if got[nid] < shares[nid]:
                limits[nid] = got[nid]
    end = outcome(turns, got, wanted)
    if not Hstate(kb).gigantic:
        yield from _call_each(node, kb, "failed", end.failed)
    return end.next_nid


def _reduce(node: Node, kb: int, mask: tuple[int, ...], first: int, count: int, counts: Counts) -> Steps[int]:
    """Return free pages that nobody was promised, then call pages in use surplus.

    Returns whose turn is next.
    """
    persistent = _persistent(counts)
    in_use = sum(answer.nr - answer.free for answer in counts.values())
    least = max(count, node.hugetlb.state.totals[kb].resv_huge_pages + in_use)
    turns = in_turn(mask, first)
    if least < persistent:
        shares = spread(turns, {nid: counts[nid].free for nid in mask}, persistent - least)
        if any(shares.values()):
            answers = yield from _call_each(node, kb, "shrink", shares)
            counts = counts | answers
            persistent -= sum(answer.changed for answer in answers.values())
            turns = in_turn(mask, outcome(turns, shares, sum(shares.values())).next_nid)
    if count < persistent:
        limits = {nid: counts[nid].nr - counts[nid].surplus for nid in mask}
        shares = spread(turns, limits, persistent - count)
        if any(shares.values()):
            yield from _call_each(node, kb, "surplus", shares)
            turns = in_turn(mask, outcome(turns, shares, sum(shares.values())).next_nid)
    return turns[0]


def _grow_on(node: Node, nid: int, kb: int, count: int, surplus: bool) -> Steps[int]:
    if nid == node.nid:
        return (yield from grow(node, kb, count, surplus))
    return (yield from ask(node, nid, GrowPool(kb, count, surplus)))


# promises


def hugetlb_acct_memory(inbox: Inbox, owner: Owner, kb: int, delta: int, nid: int) -> Steps[int]:
    """Promise `delta` huge pages to an owner of any node, or with a negative one take promises back.

    Surplus pages are allocated for what free pages do not cover, near node `nid` first
    (gather_surplus_pages); those that nobody needs any more are returned (return_unused_surplus_pages).
    Returns how many pages the owner is promised then. LimitExceeded (ENOMEM) if there are not so many.
    """
    node = inbox.node
    _totals(node, kb)
    check_nid(node, "node", nid)
    return (yield from locked(node, _lock(kb), _acct(node, owner, kb, delta, nid)))


def promise_to(node: Node, owner: Owner, kb: int, delta: int, nid: int) -> Steps[int]:
    """Have the keeper, this node or another, do so; PeerUnavailable, too."""
    keeper = keeper_of(node)
    if keeper != node.nid:
        return (yield from ask(node, keeper, ReserveHugePages(owner, kb, delta, nid)))
    return (yield from locked(node, _lock(kb), _acct(node, owner, kb, delta, nid)))


def _acct(node: Node, owner: Owner, kb: int, delta: int, nid: int) -> Steps[int]:
    counts = yield from counts_of(node, kb)
    totals = node.hugetlb.state.totals[kb]
    if delta > 0:
        needed = totals.resv_huge_pages + delta - _free(counts)
        if needed > 0:
            yield from _gather_surplus_pages(node, kb, needed, nid, counts)
        return node.apply(ops.HugetlbReserve(kb, owner, delta))
    now = node.apply(ops.HugetlbReserve(kb, owner, delta))
    yield from _return_surplus(node, kb, -delta, counts)
    return now


def _gather_surplus_pages(node: Node, kb: int, needed: int, nid: int, counts: Counts) -> Steps[None]:
    """Add `needed` surplus pages; LimitExceeded, and nothing is left, if there are not so many."""
    room = overcommit(node, kb) - _surplus(counts)
    if needed > room:
        raise LimitExceeded(f"ENOMEM: {needed} huge pages more are needed, {max(0, room)} may be surplus")
    got: dict[int, int] = {}
    lists = node.machine.zonelists.get(nid) or node.machine.zonelists[node.nid]
    for other in lists.node_order:
        missing = needed - sum(got.values())
        if missing:
            got[other] = yield from _grow_on(node, other, kb, missing, True)
    if sum(got.values()) < needed:
        yield from _drop_surplus(node, kb, got)
        raise LimitExceeded(f"ENOMEM: {needed} huge pages more are needed, {sum(got.values())} could be got")


def _return_surplus(node: Node, kb: int, unused: int, counts: Counts) -> Steps[None]:
    totals, mask = node.hugetlb.state.totals[kb], _with_memory(node)
    total = min(unused, _surplus(counts))
    turns = in_turn(mask, totals.next_nid_to_free)
    limits = {nid: min(counts[nid].free, counts[nid].surplus) for nid in mask}
    shares = spread(turns, limits, total)
    if any(shares.values()):
        yield from _drop_surplus(node, kb, shares)
        next_nid = outcome(turns, shares, sum(shares.values())).next_nid
        node.apply(ops.HugetlbTurns(kb, totals.next_nid_to_alloc, next_nid))


def _drop_surplus(node: Node, kb: int, numbers: dict[int, int]) -> Steps[None]:
    """Return free surplus pages of nodes to the buddy system."""
    yield from _call_each(node, kb, "surplus", numbers, -1)
    yield from _call_each(node, kb, "shrink", numbers)


# pages for mappings


def alloc_hugetlb_folio(
    inbox: Inbox, owner: Owner, kb: int, nids: tuple[int, ...], promised: bool
) -> Steps[tuple[int, int]]:
    """Take a free huge page for an owner, from the first of the nodes that has one; return (nid, pfn).

    With `promised` it is one of those that the owner was promised; else one that nobody was promised, or a
    new surplus page (alloc_surplus_hugetlb_folio). LimitExceeded if there is none, for which a kernel's task
    gets SIGBUS.
    """
    node = inbox.node
    _totals(node, kb)
    for nid in nids:
        check_nid(node, "nids", nid)
    return (yield from inbox.locked(_lock(kb), _alloc(node, owner, kb, nids, promised)))


def _alloc(
    node: Node, owner: Owner, kb: int, nids: tuple[int, ...], promised: bool
) -> Steps[tuple[int, int]]:
    totals = node.hugetlb.state.totals[kb]
    counts = yield from counts_of(node, kb)
    if promised and not totals.resv.get(owner):
        raise Precondition("the owner was promised no huge page")
    if not promised and _free(counts) <= totals.resv_huge_pages:
        if _surplus(counts) >= overcommit(node, kb):
            raise LimitExceeded("no free huge page that nobody was promised, and no more may be surplus")
        for nid in nids:
            if (yield from _grow_on(node, nid, kb, 1, True)):
                break
    for nid in nids:
        answer = yield from on(node, nid, ops.HugetlbCall("take", kb, 0, owner))
        if answer.changed:
            if promised:
                node.apply(ops.HugetlbReserve(kb, owner, -1))
            return nid, answer.pfn
    raise LimitExceeded(f"no free huge page on nodes {nids}")


def take_huge_page(inbox: Inbox, session: int, kb: int, nids: tuple[int, ...], promised: bool) -> Steps[int]:
    """Take a huge page for a session of this node, as a fault in its mapping does; return the pfn.

    It goes back to the pool when the session ends, if not before. Errors as of :func:`alloc_hugetlb_folio`.
    """
    node = inbox.node
    owner, keeper = node.owner(node.session(session).id), keeper_of(node)
    for nid in (*nids, keeper):
        if nid != node.nid and nid not in node.session(session).holdings:
            node.apply(ops.NoteHolding(session, nid))
    if keeper == node.nid:
        _, pfn = yield from alloc_hugetlb_folio(inbox, owner, kb, nids, promised)
    else:
        pfn = yield from ask(node, keeper, AllocHugePage(owner, kb, nids, promised))
    if session not in node.sessions:  # its end has not found the page
        for nid in nids:
            yield from on(node, nid, ops.FreeOwner(owner))
        node.session(session)
    return pfn


def reserve_huge_pages(inbox: Inbox, session: int, kb: int, delta: int) -> Steps[int]:
    """Promise huge pages to a session of this node, as mmap() does, or take promises back.

    Returns how many it is promised then.
    """
    node = inbox.node
    owner, keeper = node.owner(node.session(session).id), keeper_of(node)
    if keeper == node.nid:
        return (yield from hugetlb_acct_memory(inbox, owner, kb, delta, node.nid))
    if keeper not in node.session(session).holdings:
        node.apply(ops.NoteHolding(session, keeper))
    return (yield from ask(node, keeper, ReserveHugePages(owner, kb, delta, node.nid)))


def free_huge_page(node: Node, session: int, kb: int, nid: int, pfn: int) -> Steps[None]:
    """Put a session's huge page back, into the pool or, of a node with surplus pages, out of it."""
    owner = node.owner(node.session(session).id)
    yield from on(node, nid, ops.HugetlbCall("put", kb, 0, owner, pfn))


# what is asked of other nodes


@dataclass(frozen=True, slots=True)
class GrowPool(Request[int]):
    """Have a node allocate huge pages for its pool; the result is how many it got."""

    tag = "grow_pool"

    kb: int
    count: int
    surplus: bool

    def run(self, inbox: Inbox) -> Steps[int]:
        """Allocate them, with reclaim if need be."""
        return (yield from grow(inbox.node, self.kb, self.count, self.surplus))

    def check(self, node: NodeState) -> None:
        """Check the size and the count."""
        check_size(node, self.kb)
        check_below("count", self.count, MAX_NODE_PAGES)


@dataclass(frozen=True, slots=True)
class ReserveHugePages(Request[int]):
    """Have the keeper promise huge pages to an owner of the asking node, or take promises back."""

    tag = "reserve_huge_pages"

    owner: Owner
    kb: int
    delta: int
    #: Near which node surplus pages are sought first.
    nid: int

    def run(self, inbox: Inbox) -> Steps[int]:
        """Carry it out under the lock."""
        return (yield from hugetlb_acct_memory(inbox, self.owner, self.kb, self.delta, self.nid))

    def check(self, node: NodeState) -> None:
        """Check the owner, the size, the number and the node."""
        check_owner(node, self.owner)
        check_size(node, self.kb)
        check_below("delta", self.delta + MAX_NODE_PAGES, MAX_NODE_PAGES << 1)
        check_nid(node, "node", self.nid)

    def owed(self, heard: bool) -> bool:
        """Return whether promises would be kept that nobody knows of."""
        return heard or self.delta < 0

    def undo(self, result: int) -> ops.Op[Any] | None:
        """Return the op that takes back what was promised too late."""
        return ops.HugetlbReserve(self.kb, self.owner, -self.delta) if self.delta > 0 else None


@dataclass(frozen=True, slots=True)
class AllocHugePage(Request[int]):
    """Have the keeper find a huge page for an owner of the asking node; the result is the pfn.

    If the answer is lost, the owner has the page until it ends.
    """

    tag = "alloc_huge_page"

    owner: Owner
    kb: int
    nids: tuple[int, ...]
    promised: bool

    def run(self, inbox: Inbox) -> Steps[int]:
        """Carry it out under the lock."""
        got = yield from alloc_hugetlb_folio(inbox, self.owner, self.kb, self.nids, self.promised)
        return got[1]

    def check(self, node: NodeState) -> None:
        """Check the owner, the size and the nodes."""
        check_owner(node, self.owner)
        check_size(node, self.kb)
        check_below("nids", len(self.nids), len(node.machine.spec.nids) + 1)
        for nid in self.nids:
            check_nid(node, "nids", nid)
