"""Giving pages back: blocks held by hand, and all that an owner has."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.pgdat import BadPageError
from numa_service.node.errors import NotFound, Precondition
from numa_service.node.ops.fields import (
    MAX_INT64,
    check_below,
    check_cpu,
    check_nid,
    check_order,
    check_owner,
    owner_text,
)
from numa_service.node.ops.op import Op
from numa_service.node.owners import Owner
from numa_service.node.pfns import check_pfns
from numa_service.node.state import NodeState


@dataclass(slots=True)
class Free(Op[int]):
    """Free blocks held by hand, all or none; pages freed (__free_pages). NotFound, Precondition."""

    tag = "free"
    asked = True

    owner: Owner
    cpu: int | None
    order: int
    pfns: bytes
    #: The request is over then, and its CPU spends what it cost.
    spends: bool = False

    def apply(self, node: NodeState) -> int:
        """Free them; none, if one is not the owner's."""
        check_pfns(self.pfns)
        try:
            freed = node.pgdat.free_packed(self.cpu, self.order, node.slot_of(self.owner), self.pfns)
        except BadPageError as e:
            if e.not_found:
                raise NotFound("page", f"{e.pfn:#x} on node {node.nid}", e.reason) from None
            raise Precondition(f"page {e.pfn:#x} on node {node.nid}: {e.reason}") from None
        if self.spends and self.cpu is not None:
            node.load.spend(self.cpu, node.cost_of_free(len(self.pfns) // 8).latency_ns, ())
        return freed

    def check(self, node: NodeState) -> None:
        """Of blocks held by hand."""
        check_owner(node, self.owner)
        check_order(self.order)
        if self.cpu is not None:
            check_cpu(node, self.cpu)
        check_pfns(self.pfns)

    def text(self, node: NodeState, result: int) -> str:
        """One line."""
        return f"free {owner_text(self.owner)} -> {result} pages"

    @property
    def payload(self) -> int:
        """Of the frame numbers."""
        return len(self.pfns)


@dataclass(frozen=True, slots=True)
class FreeOwner(Op[int]):
    """Free all that an owner has on this node; pages freed."""

    tag = "free_owner"
    asked = True

    owner: Owner

    def apply(self, node: NodeState) -> int:
        """Free what it holds by hand, then what its page table names."""
        return node.drop_owner(self.owner)

    def owed(self, heard: bool) -> bool:
        """Nobody else would free it."""
        return True

    def check(self, node: NodeState) -> None:
        """Of an owner."""
        check_owner(node, self.owner)

    def text(self, node: NodeState, result: int) -> str:
        """One line."""
        return f"freeowner {owner_text(self.owner)} -> {result} pages"


@dataclass(frozen=True, slots=True)
class FreeDeadOwners(Op[int]):
    """A node has booted anew: free what its owners of other lineages have here; pages freed.

    What sessions of this node had there is lost.
    """

    tag = "free_dead_owners"

    nid: int
    lineage: int

    def apply(self, node: NodeState) -> int:
        """Note the loss, then free."""
        for session in node.sessions.values():
            if self.nid in session.holdings:
                session.lost.add(self.nid)
        return sum(node.drop_owner(owner) for owner in node.slots.restarted(self.nid, self.lineage))

    def check(self, node: NodeState) -> None:
        """Of another node."""
        check_nid(node, "node", self.nid)
        check_below("lineage", self.lineage, MAX_INT64)

    def text(self, node: NodeState, result: int) -> str:
        """One line."""
        return f"free_dead_owners node={self.nid} lineage={self.lineage} -> {result} pages"
