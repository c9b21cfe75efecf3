"""Checks that the owners of a node's pages are alive, as far as the node itself knows.

A node knows its own sessions and regions, and which other nodes have rebooted.
"""

from __future__ import annotations

import numpy as np

from numa_service.node.errors import NotFound, Precondition
from numa_service.node.owners import KERNEL_ID, OF_TASKS, Owner
from numa_service.node.state import NodeState
from numa_service.node.vm_areas import areas_of


def check_owners(node: NodeState) -> list[str]:
    """Return the violations: slots that have pages but no owner, and owners that are known to be dead.

    Whether an owner of another node is alive is known only there; ``rpc/owner_checks.py`` asks.
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
    for area in areas_of(node.vmalloc) if node.vmalloc else ():
        owner = Owner(*area.owner) if area.owner else node.kernel
        if not lives(node, owner) if owner.nid == node.nid else node.slots.is_dead(owner):
            problems.append(f"node {node.nid}: the area at {area.addr:#x} is of no session")
    return problems


def lives(node: NodeState, owner: Owner) -> bool:
    """Whether an owner of this home is its kernel, its tasks, a session with its areas, or a region."""
    return owner.lineage == node.lineage and (
        owner.id in (KERNEL_ID, *OF_TASKS)
        or owner.id in node.sessions
        or owner.id in node.regions
        or any(session.vmalloc_id == owner.id for session in node.sessions.values())
    )


def has_pages(node: NodeState, owner: Owner, slot: int, what: str) -> str:
    """Return the text of a violation: the owner, how many pages it has here, and `what` is wrong."""
    pages = int(node.pgdat.pg.owner_pages[slot])
    return (
        f"node {node.nid}: owner {owner.id} of node {owner.nid}, lineage {owner.lineage}, has "
        f"{pages} pages and {what}"
    )


def lost_page(
    node: NodeState, session: int, nid: int, error: NotFound | Precondition
) -> NotFound | Precondition:
    """Return the error for a client whose page node `nid` refused to free.

    It says that the page was lost in a restart if that node has rebooted since the session got pages there;
    otherwise it is `error`, unchanged.
    """
    if session not in node.sessions or nid not in node.sessions[session].lost:
        return error
    page = str(error).partition(": ")[0].removeprefix("page ")
    return NotFound("page", page, f"lost in the restart of node {nid}, or not this session's any more")
