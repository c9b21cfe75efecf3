"""Whether the owners of a node's pages live: what it knows of its own, and of nodes that booted anew."""

from __future__ import annotations

import numpy as np

from numa_service.node.errors import NotFound, Precondition
from numa_service.node.owners import Owner
from numa_service.node.state import NodeState


def check_owners(node: NodeState) -> list[str]:
    """Violations: pages on a node that are nobody's, or of an owner that it knows to be no more.

    Whether owners of other nodes live, those know: see ``rpc/owners.py``.
    """
    marked = set(node.slots.values())
    problems = [
        f"node {node.nid}: owner slot {slot} has pages and no owner"
        for slot in np.flatnonzero(node.pgdat.pg.owner_pages).tolist()
        if slot not in marked
    ]
    for owner, slot in node.slots.items():
        if owner.nid == node.nid and not lives(node, owner):
            problems.append(has_pages(node, owner, slot, "is unknown here, at its home"))
        elif owner.nid != node.nid and node.slots.is_dead(owner):
            problems.append(has_pages(node, owner, slot, "went with the restart of its home"))
    return problems


def lives(node: NodeState, owner: Owner) -> bool:
    """Whether an owner of this node is a session or a region of it."""
    return owner.lineage == node.lineage and (owner.id in node.sessions or owner.id in node.regions)


def has_pages(node: NodeState, owner: Owner, slot: int, what: str) -> str:
    """A violation by an owner."""
    pages = int(node.pgdat.pg.owner_pages[slot])
    return (
        f"node {node.nid}: owner {owner.id} of node {owner.nid}, lineage {owner.lineage}, has "
        f"{pages} pages and {what}"
    )


def lost_page(
    node: NodeState, session: int, nid: int, error: NotFound | Precondition
) -> NotFound | Precondition:
    """Tell a client why a node refuses to free its session's page, if that node has booted anew meanwhile."""
    if session not in node.sessions or nid not in node.sessions[session].lost:
        return error
    page = str(error).partition(": ")[0].removeprefix("page ")
    return NotFound("page", page, f"lost in the restart of node {nid}, or not this session's any more")
