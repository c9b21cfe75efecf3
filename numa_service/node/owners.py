"""Who has pages on a node, and whether they live: owners are at home on one node, and have pages on any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from numa_service.mm.pgdat import MAX_OWNERS
from numa_service.node.errors import LimitExceeded, NotFound, Precondition
from numa_service.node.ops import Owner

if TYPE_CHECKING:
    from numa_service.node.node import Node

#: Bits of an owner's number that count; those above are its home's incarnation less one.
ID_BITS = 32


class OwnerSlots(dict[Owner, int]):
    """The small number under which each owner's pages are marked on a node."""

    def __init__(self, nid: int, incarnation: int) -> None:
        super().__init__()
        self._nid = nid
        self._free: list[int] = []
        self._used = 1
        #: Living incarnations: of this node, and of those that have booted anew since.
        self._incarnations = {nid: incarnation}

    def make(self, owner: Owner) -> int:
        """The number of an owner; made at first use.

        LimitExceeded when there are too many, Precondition for one whose home has booted anew since: its
        question was late.
        """
        slot = self.get(owner)
        if slot is None:
            if self.is_dead(owner):
                raise Precondition(f"incarnation {owner.incarnation} of node {owner.nid} is no more")
            if not self._free and self._used >= MAX_OWNERS:
                raise LimitExceeded(f"node {self._nid} knows {MAX_OWNERS - 1} owners already")
            slot = self._free.pop() if self._free else self._used
            self._used = max(self._used, slot + 1)
            self[owner] = slot
        return slot

    def free(self, owner: Owner) -> int | None:
        """Take an owner's number away, for another one to get; None when it has none."""
        slot = self.pop(owner, None)
        if slot is not None:
            self._free.append(slot)
        return slot

    def restarted(self, nid: int, incarnation: int) -> list[Owner]:
        """A node has booted anew: its owners that are no more."""
        self._incarnations[nid] = incarnation
        return [owner for owner in self if owner.nid == nid and owner.incarnation != incarnation]

    def is_dead(self, owner: Owner) -> bool:
        """Whether its home has booted anew since, as far as this node has been told."""
        return owner.incarnation < self._incarnations.get(owner.nid, 0)

    @property
    def state(self) -> tuple[object, ...]:
        """What a digest sees of it."""
        return dict(self), self._free, self._used, sorted(self._incarnations.items())


def unknown_session(node: Node, session: int) -> NotFound:
    """Why there is no such session."""
    if node.incarnation > 1 and 0 < session <= (node.incarnation - 1) << ID_BITS:
        return NotFound("session", str(session), f"lost in the restart of node {node.nid}: open another one")
    return NotFound("session", str(session), "unknown, closed, or its lease ran out")


def lost_page(node: Node, session: int, nid: int, error: NotFound | Precondition) -> NotFound | Precondition:
    """What a node's refusal to free a session's page there is, if that node has booted anew meanwhile."""
    if session not in node.sessions or nid not in node.sessions[session].lost:
        return error
    page = str(error).partition(": ")[0].removeprefix("page ")
    return NotFound("page", page, f"lost in the restart of node {nid}, or not this session's any more")


def check_owners(node: Node) -> list[str]:
    """Violations: pages on a node that are nobody's, or of an owner that it knows to be no more.

    Whether owners of other nodes live, those know: see ``rpc/owners.py``.
    """
    slots = node.slots()
    marked = {slot for _, slot in slots}
    problems = [
        f"node {node.nid}: owner slot {slot} has pages and no owner"
        for slot in np.flatnonzero(node.pgdat.pg.owner_pages).tolist()
        if slot not in marked
    ]
    for owner, slot in slots:
        if owner.nid == node.nid and not lives(node, owner):
            problems.append(has_pages(node, owner, slot, "is unknown here, at its home"))
        elif owner.nid != node.nid and node.is_dead(owner):
            problems.append(has_pages(node, owner, slot, "went with the restart of its home"))
    return problems


def lives(node: Node, owner: Owner) -> bool:
    """Whether an owner of this node is a session or a region of it."""
    return owner.incarnation == node.incarnation and (owner.id in node.sessions or owner.id in node.regions)


def has_pages(node: Node, owner: Owner, slot: int, what: str) -> str:
    """A violation by an owner."""
    pages = int(node.pgdat.pg.owner_pages[slot])
    return (
        f"node {node.nid}: owner {owner.id} of node {owner.nid}, incarnation {owner.incarnation}, has "
        f"{pages} pages and {what}"
    )
