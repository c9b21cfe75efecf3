"""Ops that free: blocks that were allocated one by one, and everything that an owner has."""

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
from numa_service.node.owners import PGTABLE_ID, Owner
from numa_service.node.pfns import check_pfns
from numa_service.node.state import NodeState
from numa_service.node.vm_areas import areas_of, end_areas


@dataclass(slots=True)
class Free(Op[int]):
    """Frees blocks of one order that an owner holds, all or none (__free_pages).

    The result is the number of pages freed. NotFound for a pfn that the node does not have or that is free;
    Precondition for a page that is not such a block of the owner's.
    """

    tag = "free"
    asked = True

    owner: Owner
    cpu: int | None
    order: int
    pfns: bytes
    #: Also spend the cost of the request, as Spend does: this op is all of it.
    spends: bool = False
    #: The blocks are of a request that failed: nobody but the asker knows of them.
    undoes: bool = False

    def owed(self, heard: bool) -> bool:
        """Return whether nobody else would repeat the question: a client repeats its own request."""
        return self.undoes

    def apply(self, node: NodeState) -> int:
        """Free all blocks, or none if one must not be freed.

        Of page tables those that are here: their home does not know which were lost in this node's restart.
        """
        check_pfns(self.pfns)
        pfns = self.pfns
        if self.owner.id == PGTABLE_ID:
            pfns = node.own_blocks(self.owner, self.order, pfns)
            if not pfns:
                return 0
        try:
            freed = node.pgdat.free_packed(self.cpu, self.order, node.slot_of(self.owner), pfns)
        except BadPageError as e:
            if e.not_found:
                raise NotFound("page", f"{e.pfn:#x} on node {node.nid}", e.reason) from None
            raise Precondition(f"page {e.pfn:#x} on node {node.nid}: {e.reason}") from None
        node.forget_if_tasks_empty(self.owner)
        if self.spends and self.cpu is not None:
            node.load.spend(self.cpu, node.cost_of_free(len(self.pfns) // 8).latency_ns, ())
        return freed

    def check(self, node: NodeState) -> None:
        """Check the owner, the order, the CPU and the length of the pfns; `apply` checks the blocks."""
        check_owner(node, self.owner)
        check_order(self.order)
        if self.cpu is not None:
            check_cpu(node, self.cpu)
        check_pfns(self.pfns)

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"free {owner_text(self.owner)} -> {result} pages"

    @property
    def payload(self) -> int:
        """Bytes of the pfns."""
        return len(self.pfns)


@dataclass(frozen=True, slots=True)
class FreeOwner(Op[int]):
    """Frees everything that an owner has on this node; the result is the number of pages freed."""

    tag = "free_owner"
    asked = True

    owner: Owner

    def apply(self, node: NodeState) -> int:
        """Free the owner's blocks, the pages of its page table, its swap and its slot, and end its areas."""
        end_areas(node, self.owner)
        if node.highmem and node.highmem.pool:
            node.highmem.pool.end(self.owner)
        return node.drop_owner(self.owner)

    def owed(self, heard: bool) -> bool:
        """Return True: nothing else would free the pages."""
        return True

    def check(self, node: NodeState) -> None:
        """Check the owner."""
        check_owner(node, self.owner)

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"freeowner {owner_text(self.owner)} -> {result} pages"


@dataclass(frozen=True, slots=True)
class FreeDeadOwners(Op[int]):
    """Frees the pages of a rebooted node's dead owners on this node; the result is the number of pages freed.

    The sessions of this node that had pages there note that they have lost them.
    """

    tag = "free_dead_owners"

    #: The node that has rebooted, and its new lineage.
    nid: int
    lineage: int

    def apply(self, node: NodeState) -> int:
        """Note which sessions have lost pages, then free the dead owners' pages."""
        for session in node.sessions.values():
            if self.nid in session.holdings:
                session.lost.add(self.nid)
        for id in sorted(node.kmem.node_restarted(self.nid, self.lineage)):
            node.sessions[id].lost.add(self.nid)
        node.hugetlb.node_restarted(self.nid, self.lineage)
        for of_tasks in node.tasks.pools.values():
            of_tasks.node_restarted(self.nid)
        node.kmem.home_restarted(self.nid, self.lineage)
        for area in areas_of(node.vmalloc) if node.vmalloc else ():
            owner = Owner(*area.owner) if area.owner else node.kernel
            if owner.nid == self.nid and owner.lineage < self.lineage:
                end_areas(node, owner)
        if node.highmem and node.highmem.pool:
            pool = node.highmem.pool
            for task in pool.tasks():
                if task[0] == self.nid and task[1] < self.lineage:
                    pool.end(task)
            pool.waiting.discard(self.nid)
        return sum(node.drop_owner(owner) for owner in node.slots.restarted(self.nid, self.lineage))

    def check(self, node: NodeState) -> None:
        """Check the node and the lineage."""
        check_nid(node, "node", self.nid)
        check_below("lineage", self.lineage, MAX_INT64)

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"free_dead_owners node={self.nid} lineage={self.lineage} -> {result} pages"
