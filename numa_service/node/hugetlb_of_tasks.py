"""Huge pages of pools for the tasks of a home: got from the nodes that have them, and given back."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from numa_service.node import ops
from numa_service.node.ask import Steps, on, tell
from numa_service.node.errors import LimitExceeded, NodeError, PeerUnavailable, Precondition
from numa_service.node.hugetlb import counts_of, keeper_of, promise_to
from numa_service.node.node import Node
from numa_service.node.ops.fields import MAX_NODE_PAGES
from numa_service.node.task_pages import PROMISED_PAGE, PROMISES, SURPLUS, Want
from numa_service.node.task_state import Task


def get_hugetlb(node: Node, task: Task, want: Want) -> Steps[None]:
    """Get what an op of a task lacks; if there is none, its next op knows that."""
    kb = 4 << want.order
    if want.kind == SURPLUS:
        surplus = 0
        with suppress(PeerUnavailable):  # as if there were none: the pages are promised again
            counts = yield from counts_of(node, kb)
            surplus = sum(count.surplus for count in counts.values())
        node.apply(ops.NoteSurplus(kb, surplus))
        return
    if want.kind == PROMISES:
        promised = yield from _promise(node, kb, want.pages, task.cpu_nid)
        node.apply(ops.GrantHugetlb(task.pid, kb, want.pages if promised else 0))
        return
    nids = [nid for nid, _ in want.shares]
    nid = pfn = -1
    has_promise = want.kind == PROMISED_PAGE
    # a page that no mapping was promised is promised first: so nobody's promise is broken by it
    if nids and (has_promise or (yield from _promise(node, kb, 1, nids[0]))):
        nid, pfn = yield from _take(node, kb, nids)
        if nid < 0 and not has_promise:
            yield from _take_back(node, kb, 1)
    node.apply(ops.StockHugetlb(task.pid, kb, has_promise, nid, max(0, pfn)))


def _promise(node: Node, kb: int, pages: int, nid: int) -> Steps[bool]:
    """Have the keeper promise pages; False if there are not so many, or if it does not answer."""
    if pages >= MAX_NODE_PAGES:
        return False
    try:
        yield from promise_to(node, node.tasks.hugetlb_owner, kb, pages, nid)
    except (LimitExceeded, PeerUnavailable, Precondition):
        return False
    return True


def _take_back(node: Node, kb: int, promises: int) -> Steps[None]:
    """Give promises back, for which surplus pages may go; a keeper that has lost them has none to take."""
    with suppress(NodeError):
        yield from promise_to(node, node.tasks.hugetlb_owner, kb, -promises, node.nid)


def _take(node: Node, kb: int, nids: Iterable[int]) -> Steps[tuple[int, int]]:
    """Take a free page of the first node that has one; return its nid and pfn, -1 if none has."""
    for nid in nids:
        with suppress(PeerUnavailable):
            answer = yield from on(node, nid, ops.HugetlbCall("take", kb, 0, node.tasks.hugetlb_owner))
            if answer.changed:
                return nid, answer.pfn
    return -1, -1


def release_hugetlb(node: Node) -> Steps[None]:
    """Tell other nodes of huge pages that tasks do not need any more, and of promises."""
    owner, keeper = node.tasks.hugetlb_owner, keeper_of(node)
    if not any(pool.has_limbo for pool in node.tasks.pools.values()):
        return
    for limbo in node.apply(ops.TakeHugetlbLimbo()):
        kb = limbo.kb
        if limbo.restored:
            with suppress(NodeError):
                yield from tell(node, keeper, ops.HugetlbReserve(kb, owner, limbo.restored))
        for nid, pfn in limbo.pages:
            with suppress(NodeError):  # its node has lost it in a restart
                yield from tell(node, nid, ops.HugetlbCall("put", kb, 0, owner, pfn))
        if limbo.change < 0:
            yield from _take_back(node, kb, -limbo.change)
        elif limbo.change:  # to a keeper that has lost them
            with suppress(NodeError):
                yield from tell(node, keeper, ops.HugetlbReserve(kb, owner, limbo.change))
