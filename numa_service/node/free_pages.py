"""FreePages: frees blocks that a session got by AllocPages, on any nodes (``__free_pages``)."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from numa_service.mm.mmzone import NR_ORDERS
from numa_service.node import ops
from numa_service.node.ask import Ask, Steps, on
from numa_service.node.cost import Cost
from numa_service.node.errors import InvalidRequest, NotFound, Precondition
from numa_service.node.node import Node
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.owner_checks import lost_page
from numa_service.node.owners import Owner
from numa_service.node.page_alloc import spend
from numa_service.node.pfns import check_pfns
from numa_service.node.prepare import check_cpu


class Freed(NamedTuple):
    """What one FreePages did: the number of pages freed, and its cost."""

    pages: int
    cost: Cost


def free_pages(
    node: Node,
    session: int,
    order: int,
    pages: list[tuple[int, bytes]],
    cpu: int,
    request_id: str = "",
) -> Steps[Freed]:
    """Free blocks of one order that the session got by AllocPages; `pages` are (nid, packed pfns).

    It is all or nothing as long as at most one other node is involved: this node's blocks are checked first
    and freed last. With several other nodes it is all or nothing on each of them. If one does not answer
    (PeerUnavailable), a repeat with the same `request_id` of the client continues where it stopped.
    InvalidRequest, NotFound; Precondition for a page that is not the session's.
    """
    begun = begin_free(node, session, order, pages, cpu, request_id)
    return begun if isinstance(begun, Freed) else (yield from begun)


def begin_free(
    node: Node, session: int, order: int, pages: list[tuple[int, bytes]], cpu: int, request_id: str = ""
) -> Freed | Steps[Freed]:
    """:func:`free_pages`, returning the result if only this node is involved, else the steps."""
    owner = node.session(session).owner
    check_cpu(node.pgdat, cpu)
    if not 0 <= order < NR_ORDERS:
        raise InvalidRequest("order", f"{order} is not in 0…{NR_ORDERS - 1}")
    blocks = 0
    for nid, pfns in pages:
        if nid != node.nid and nid not in node.machine.spec.nids:
            raise InvalidRequest("pages.node", f"there is no node {nid}")
        check_pfns(pfns)
        if len(pfns) > 8 * MAX_COUNT:
            raise InvalidRequest("pages.pfns", f"{len(pfns) // 8} blocks: at most {MAX_COUNT} a node")
        blocks += len(pfns) // 8
    if not blocks:
        raise InvalidRequest("pages", "no page is named")
    if len(pages) == 1 and pages[0][0] == node.nid:
        freed = node.apply(ops.Free(owner, cpu, order, pages[0][1], spends=True))
        return Freed(freed, node.cost_of_free(blocks))
    return _free_by_node(
        node, owner, order, pages, cpu, request_id, Cost.of_free(node.machine.spec.latency, blocks)
    )


def _free_by_node(
    node: Node,
    owner: Owner,
    order: int,
    pages: list[tuple[int, bytes]],
    cpu: int,
    request_id: str,
    cost: Cost,
) -> Steps[Freed]:
    """Free blocks of several nodes, those of this node last."""
    by_nid: dict[int, bytes] = {}
    for nid, pfns in pages:
        by_nid[nid] = by_nid[nid] + pfns if nid in by_nid else pfns
    here = by_nid.pop(node.nid, b"")
    if here and by_nid and not node.may_free(owner, order, here):
        node.apply(ops.Free(owner, cpu, order, here))  # raises the error before another node is asked
    freed = 0
    for nid, pfns in sorted(by_nid.items()):
        if pfns:
            op = ops.Free(owner, cpu, order, pfns)
            try:
                if request_id:
                    # an id that a repeat has, too: a node that has freed already gives its first answer
                    freed += yield Ask(nid, op, _question_id(node, owner, request_id))
                else:
                    freed += yield from on(node, nid, op)
            except (NotFound, Precondition) as error:
                raise lost_page(node, owner.id, nid, error) from None
            cost.add_lookup(node.machine.spec.latency)
    if here:
        freed += node.apply(ops.Free(owner, cpu, order, here))
    spend(node, cpu, cost)
    return Freed(freed, cost)


def _question_id(node: Node, owner: Owner, request_id: str) -> str:
    """Return the request id of a question to another node, derived from the client's request id.

    The client's id is hashed, so that the result is short enough however long the client's id is.
    """
    digest = hashlib.blake2b(request_id.encode(), digest_size=16).hexdigest()
    return f"{node.nid}.{node.lineage}.free.{owner.id}.{digest}"
