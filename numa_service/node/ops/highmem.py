"""Ops of high memory: mapping pages in the pool of kmap and in slots (``mm/highmem.c``).

A session maps pages that it has, of the node that keeps the machine's kernel addresses. A page of low memory
has its address all the time, and its ops change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.highmem.highmem import Highmem
from numa_service.mm.highmem.kmap_local import KmapError
from numa_service.mm.mmzone import NR_ORDERS, PAGE_SHIFT
from numa_service.mm.pgdata import PG_HELD, PG_LRU
from numa_service.mm.structs import PAGE_OFFSET
from numa_service.node.errors import KernelBug, NotFound, Precondition
from numa_service.node.ops.fields import MAX_NODE_PAGES, check_below, check_cpu
from numa_service.node.ops.op import Op
from numa_service.node.session_state import Session
from numa_service.node.state import NodeState


def linear_address(node: NodeState, pfn: int) -> int | None:
    """The address of a page of low memory in the kernel's linear map; None for a high page."""
    if node.is_highmem(pfn):
        return None
    return PAGE_OFFSET[node.pgdat.arch] + (pfn << PAGE_SHIFT)


def mappings(node: NodeState) -> Highmem:
    """The machine's mappings of high pages; Precondition if another node keeps them."""
    if node.highmem is None:
        raise Precondition(f"node {node.machine.vmalloc_nid} maps high pages: open a session there")
    return node.highmem


def check_page(node: NodeState, session: int, pfn: int) -> Session:
    """Return the session if it has the page; NotFound for the session or the page, Precondition else."""
    theirs = node.session(session)
    pg, idx = node.pgdat.pg, pfn - node.pgdat.base_pfn
    if not 0 <= idx < len(pg.flags):
        raise NotFound("page", f"{pfn:#x}", f"no page of node {node.nid}")
    ids = (session, theirs.vmalloc_id, *theirs.regions)
    slots = {slot for id in ids if (slot := node.slots.get(node.owner(id))) is not None}
    for order in range(NR_ORDERS):
        head = idx >> order << order
        used = pg.flags[head] & (PG_HELD | PG_LRU) and pg.order[head] >= order
        if used and int(pg.owner[head]) in slots:
            return theirs
    raise Precondition(f"page {pfn:#x} on node {node.nid} is not the session's")


@dataclass(frozen=True, slots=True)
class Kmap(Op[int]):
    """Maps a page of a session in the pool (kmap); the result is its address, or 0 if the session must wait.

    NotFound, Precondition for a page that is not the session's.
    """

    tag = "kmap"

    session: int
    pfn: int

    def apply(self, node: NodeState) -> int:
        """Map the page. If every entry is in use the search has gone round, which the state remembers."""
        check_page(node, self.session, self.pfn)
        linear = linear_address(node, self.pfn)
        return linear if linear is not None else mappings(node).kmap(self.session, self.pfn) or 0

    def check(self, node: NodeState) -> None:
        """Check the pfn; `apply` checks whose it is."""
        check_below("pfn", self.pfn, MAX_NODE_PAGES)

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"kmap session={self.session} {self.pfn:#x} -> {f'{result:#x}' if result else 'waits'}"


@dataclass(frozen=True, slots=True)
class Kunmap(Op[bool]):
    """Gives up a mapping in the pool (kunmap); the result is whether requests that wait should look again.

    KernelBug, with what a kernel prints when it stops, for a page that the session has not mapped.
    """

    tag = "kunmap"

    session: int
    pfn: int

    def apply(self, node: NodeState) -> bool:
        """Give up one mapping. The page itself may have been freed, of which a kernel takes no notice."""
        node.session(self.session)
        if not node.is_highmem(self.pfn):
            return False
        try:
            return mappings(node).kunmap(self.session, self.pfn)
        except KmapError as report:
            raise KernelBug((str(report),)) from None

    def check(self, node: NodeState) -> None:
        """Check the pfn."""
        check_below("pfn", self.pfn, MAX_NODE_PAGES)

    def text(self, node: NodeState, result: bool) -> str:
        """Return the op as one line."""
        return f"kunmap session={self.session} {self.pfn:#x}"


@dataclass(frozen=True, slots=True)
class KmapLocal(Op[int]):
    """Maps a page of a session for a short time (kmap_atomic, kmap_local_page).

    The result is the number of the slot behind FIX_KMAP_BEGIN, or -1 for a page of low memory, which needs
    none. NotFound; Precondition for a page that is not the session's, KernelBug if all slots are in use.
    """

    tag = "kmap_local"

    session: int
    pfn: int
    cpu: int

    def apply(self, node: NodeState) -> int:
        """Take the next slot of the session, or of the CPU under linux-3.0."""
        check_page(node, self.session, self.pfn)
        if not node.is_highmem(self.pfn):
            return -1
        try:
            return mappings(node).local.push(self.session, self.cpu, self.pfn)
        except KmapError as report:
            raise KernelBug((str(report),)) from None

    def check(self, node: NodeState) -> None:
        """Check the pfn and the CPU; `apply` checks whose the page is."""
        check_below("pfn", self.pfn, MAX_NODE_PAGES)
        check_cpu(node, self.cpu)

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"kmap_local session={self.session} {self.pfn:#x} cpu={self.cpu} -> {result}"


@dataclass(frozen=True, slots=True)
class KunmapLocal(Op[None]):
    """Gives up the last slot (kunmap_atomic, kunmap_local).

    KernelBug, with what a kernel prints, if the last slot is not of this page.
    """

    tag = "kunmap_local"

    session: int
    pfn: int
    cpu: int

    def apply(self, node: NodeState) -> None:
        """Give up the slot."""
        node.session(self.session)
        if node.is_highmem(self.pfn):
            try:
                mappings(node).local.pop(self.session, self.cpu, self.pfn)
            except KmapError as report:
                raise KernelBug((str(report),)) from None

    def check(self, node: NodeState) -> None:
        """Check the pfn and the CPU."""
        check_below("pfn", self.pfn, MAX_NODE_PAGES)
        check_cpu(node, self.cpu)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"kunmap_local session={self.session} {self.pfn:#x} cpu={self.cpu}"


@dataclass(frozen=True, slots=True)
class KmapFlushUnused(Op[int]):
    """Unmaps every entry of the pool without users (kmap_flush_unused); the result is how many they were."""

    tag = "kmap_flush_unused"

    def apply(self, node: NodeState) -> int:
        """Unmap them. Precondition if another node maps high pages."""
        return mappings(node).pkmap.flush_all_zero_pkmaps()

    def check(self, node: NodeState) -> None:
        """Do nothing: there are no fields."""

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"kmap_flush_unused -> {result}"
