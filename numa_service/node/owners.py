"""Owners of pages: at home on one node, with pages on any."""

from __future__ import annotations

from typing import Any, NamedTuple

from numa_service.mm.pgdat import MAX_OWNERS
from numa_service.node.errors import LimitExceeded, NotFound, Precondition

#: Bits of an owner's number that count; those above are its home's lineage less one.
ID_BITS = 32


class Owner(NamedTuple):
    """Who holds pages, over the whole machine: home node, its lineage, and a number there."""

    nid: int
    lineage: int
    id: int


class OwnerSlots(dict[Owner, int]):
    """The small number under which each owner's pages are marked on a node."""

    def __init__(self, nid: int, lineage: int) -> None:
        super().__init__()
        self._nid = nid
        self._free: list[int] = []
        self._used = 1
        #: Living lineages: of this node, and of those that have booted anew since.
        self._lineages = {nid: lineage}

    def make(self, owner: Owner) -> int:
        """The number of an owner; made at first use.

        LimitExceeded when there are too many, Precondition for one whose home has booted anew since: its
        question was late.
        """
        slot = self.get(owner)
        if slot is None:
            if self.is_dead(owner):
                raise Precondition(f"lineage {owner.lineage} of node {owner.nid} is no more")
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

    def restarted(self, nid: int, lineage: int) -> list[Owner]:
        """A node has booted anew: its owners that are no more."""
        self._lineages[nid] = lineage
        return [owner for owner in self if owner.nid == nid and owner.lineage != lineage]

    def is_dead(self, owner: Owner) -> bool:
        """Whether its home has booted anew since, as far as this node has been told."""
        return owner.lineage < self._lineages.get(owner.nid, 0)

    def dump(self) -> list[Any]:
        """All of it as plain data; see :meth:`load`."""
        return [list(self.items()), self._free, self._used, sorted(self._lineages.items())]

    def load(self, dumped: list[Any]) -> None:
        """Take over what :meth:`dump` gave."""
        slots, self._free, self._used, lineages = dumped
        self.clear()
        self.update({Owner(*owner): slot for owner, slot in slots})
        self._lineages = dict(lineages)

    @property
    def state(self) -> tuple[object, ...]:
        """What a digest covers of it."""
        return dict(self), self._free, self._used, sorted(self._lineages.items())


def unknown_session(nid: int, lineage: int, session: int) -> NotFound:
    """Why a node of this lineage has no such session."""
    if lineage > 1 and 0 < session <= (lineage - 1) << ID_BITS:
        return NotFound("session", str(session), f"lost in the restart of node {nid}: open another one")
    return NotFound("session", str(session), "unknown, closed, or its lease ran out")
