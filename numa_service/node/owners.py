"""Owners of pages: sessions and regions. An owner has one home node and may have pages on every node."""

from __future__ import annotations

from typing import Any, NamedTuple

from numa_service.mm.pgdat import MAX_OWNERS
from numa_service.node.errors import LimitExceeded, NotFound, Precondition

#: The low bits of an owner's id count sessions and regions; the bits above are its home's lineage less one.
ID_BITS = 32
#: The id of a node's kernel as an owner. Sessions and regions have ids from 1 on.
KERNEL_ID = 0
#: Ids of what all tasks of a home have together, behind those that are counted: their anonymous and shared
#: memory, the pages of files, and the pages of their page tables.
TASKS_ID, CACHE_ID, PGTABLE_ID = ((1 << ID_BITS) - at for at in (1, 2, 3))
OF_TASKS = (TASKS_ID, CACHE_ID, PGTABLE_ID)
#: The id of what they have of pools of huge pages, which have owners of their own: it gets no slot.
HUGETLB_ID = (1 << ID_BITS) - 4


class Owner(NamedTuple):
    """Who holds pages: the owner's home node, that node's lineage, and an id on that node."""

    nid: int
    lineage: int
    id: int


class OwnerSlots(dict[Owner, int]):
    """Maps each owner to its slot on a node: the small number in `PgData.owner` that marks its pages."""

    def __init__(self, nid: int, lineage: int) -> None:
        super().__init__()
        self._nid = nid
        self._free: list[int] = []
        self._used = 1
        #: The current lineage of this node, and of every node that has rebooted since this one booted.
        self._lineages = {nid: lineage}

    def make(self, owner: Owner) -> int:
        """Return the slot of an owner, taking a free one at its first use.

        LimitExceeded when every slot is taken. Precondition for an owner of a lineage that is no more: its
        home has rebooted since the question was sent.
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
        """Free the slot of an owner and return it; None if the owner has no slot."""
        slot = self.pop(owner, None)
        if slot is not None:
            self._free.append(slot)
        return slot

    def restarted(self, nid: int, lineage: int) -> list[Owner]:
        """Note that node `nid` has rebooted with a new lineage; return its owners of earlier lineages."""
        self._lineages[nid] = lineage
        return [owner for owner in self if owner.nid == nid and owner.lineage != lineage]

    def is_dead(self, owner: Owner) -> bool:
        """Whether the owner's home is known here to have rebooted since the owner was made."""
        return owner.lineage < self._lineages.get(owner.nid, 0)

    def homes(self, id: int) -> tuple[int, ...]:
        """The other nodes whose owner with this id has pages here, ascending."""
        return tuple(sorted({owner.nid for owner in self if owner.id == id and owner.nid != self._nid}))

    def dump(self) -> list[Any]:
        """Return all of it as plain data, which :meth:`load` reads."""
        return [list(self.items()), self._free, self._used, sorted(self._lineages.items())]

    def load(self, dumped: list[Any]) -> None:
        """Replace the content by what :meth:`dump` returned."""
        slots, self._free, self._used, lineages = dumped
        self.clear()
        self.update({Owner(*owner): slot for owner, slot in slots})
        self._lineages = dict(lineages)

    @property
    def state(self) -> tuple[object, ...]:
        """The part of it that the node's digest covers, which is all."""
        return dict(self), self._free, self._used, sorted(self._lineages.items())


def unknown_session(nid: int, lineage: int, session: int) -> NotFound:
    """Return the NotFound error for a session that a node of this lineage does not have."""
    if lineage > 1 and 0 < session <= (lineage - 1) << ID_BITS:
        return NotFound("session", str(session), f"lost in the restart of node {nid}: open another one")
    return NotFound("session", str(session), "unknown, closed, or its lease ran out")
