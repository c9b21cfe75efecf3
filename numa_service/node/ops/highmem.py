"""Ops of high memory: mapping pages in the pool of kmap and in slots (``mm/highmem.c``).

A session maps pages that it has, of any node: whose they are is asked before (``node/kmap.py``). The pool is
on the node that keeps the machine's kernel addresses, slots are at the session's home. A page of low memory
has its address all the time, and needs no mapping.
"""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.highmem.highmem import Highmem, PkmapUsers
from numa_service.mm.highmem.kmap_local import KmapError
from numa_service.mm.mmzone import NR_ORDERS, PAGE_SHIFT
from numa_service.mm.pgdata import PG_HELD, PG_LRU
from numa_service.mm.structs import PAGE_OFFSET
from numa_service.node.errors import InvalidRequest, KernelBug, NotFound, Precondition
from numa_service.node.ops.fields import MAX_NODE_PAGES, check_below, check_cpu, check_owner, owner_text
from numa_service.node.ops.op import Op
from numa_service.node.owners import Owner
from numa_service.node.state import NodeState


def linear_address(node: NodeState, pfn: int) -> int | None:
    """The address of a page of low memory in the kernel's linear map; None for a high page."""
    if node.is_highmem(pfn):
        return None
    return PAGE_OFFSET[node.pgdat.arch] + (pfn << PAGE_SHIFT)


def pool_of(node: NodeState) -> PkmapUsers:
    """The machine's pool of kmap; Precondition if another node has it."""
    if node.highmem is None or node.highmem.pool is None:
        raise Precondition(f"node {node.machine.vmalloc_nid} has the pool of kmap")
    return node.highmem.pool


def _mappings(node: NodeState) -> Highmem:
    assert node.highmem  # the machine has high pages
    return node.highmem


def page_owner(node: NodeState, pfn: int) -> Owner | None:
    """Return who has a page of this node; None: nobody does. NotFound for no page of this node."""
    pg, idx = node.pgdat.pg, pfn - node.pgdat.base_pfn
    if not 0 <= idx < len(pg.flags):
        raise NotFound("page", f"{pfn:#x}", f"no page of node {node.nid}")
    for order in range(NR_ORDERS):
        head = idx >> order << order
        if pg.flags[head] & (PG_HELD | PG_LRU) and pg.order[head] >= order:
            slot = int(pg.owner[head])
            return next((owner for owner, of in node.slots.items() if of == slot), None)
    return None


@dataclass(frozen=True, slots=True)
class Kmap(Op[int]):
    """Maps a high page in the pool (kmap); the result is its address, or 0 if who asks must wait.

    Precondition for an owner whose home has rebooted meanwhile.
    """

    tag = "kmap"

    #: The session.
    owner: Owner
    pfn: int

    def apply(self, node: NodeState) -> int:
        """Map the page. If every entry is in use the search has gone round, which the state remembers.

        So it does which other nodes have to be told when an entry may be free.
        """
        pool = pool_of(node)
        if node.slots.is_dead(self.owner):
            raise Precondition(f"lineage {self.owner.lineage} of node {self.owner.nid} is no more")
        address = pool.kmap(self.owner, self.pfn)
        if address is None and self.owner.nid != node.nid:
            pool.waiting.add(self.owner.nid)
        return address or 0

    def check(self, node: NodeState) -> None:
        """Check the owner and that it is a high page."""
        check_owner(node, self.owner)
        check_high(node, self.pfn)

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"kmap {owner_text(self.owner)} {self.pfn:#x} -> {f'{result:#x}' if result else 'waits'}"


@dataclass(frozen=True, slots=True)
class Kunmap(Op[bool]):
    """Gives up a mapping in the pool (kunmap); the result is whether requests that wait should look again.

    KernelBug, with what a kernel prints when it stops, for a page that the session has not mapped.
    """

    tag = "kunmap"

    #: The session.
    owner: Owner
    pfn: int

    def apply(self, node: NodeState) -> bool:
        """Give up one mapping. The page itself may have been freed, of which a kernel takes no notice."""
        try:
            return pool_of(node).kunmap(self.owner, self.pfn)
        except KmapError as report:
            raise KernelBug((str(report),)) from None

    def check(self, node: NodeState) -> None:
        """Check the owner and that it is a high page."""
        check_owner(node, self.owner)
        check_high(node, self.pfn)

    def text(self, node: NodeState, result: bool) -> str:
        """Return the op as one line."""
        return f"kunmap {owner_text(self.owner)} {self.pfn:#x}"


def check_high(node: NodeState, pfn: int) -> None:
    """Check that a pfn is one of high memory."""
    check_below("pfn", pfn, MAX_NODE_PAGES)
    if not node.is_highmem(pfn):
        raise InvalidRequest("pfn", f"{pfn:#x} is no page of high memory")


@dataclass(frozen=True, slots=True)
class TakePkmapWaiters(Op[tuple[int, ...]]):
    """Forgets which other nodes have requests that wait for an entry; the result are the nodes, ascending."""

    tag = "take_pkmap_waiters"

    def apply(self, node: NodeState) -> tuple[int, ...]:
        """Return them: they are told now, and ask again."""
        pool = pool_of(node)
        waiting = tuple(sorted(pool.waiting))
        pool.waiting.clear()
        return waiting

    def check(self, node: NodeState) -> None:
        """Do nothing: there are no fields."""

    def text(self, node: NodeState, result: tuple[int, ...]) -> str:
        """Return the op and its result as one line."""
        return f"take_pkmap_waiters -> {' '.join(f'node{nid}' for nid in result)}"


@dataclass(frozen=True, slots=True)
class KmapLocal(Op[int]):
    """Maps a page of a session for a short time (kmap_atomic, kmap_local_page).

    The result is the number of the slot behind FIX_KMAP_BEGIN, or -1 for a page of low memory, which needs
    none. NotFound; KernelBug if all slots are in use.
    """

    tag = "kmap_local"

    session: int
    pfn: int
    cpu: int

    def apply(self, node: NodeState) -> int:
        """Take the next slot of the session, or of the CPU under linux-3.0."""
        node.session(self.session)
        if not node.is_highmem(self.pfn):
            return -1
        try:
            return _mappings(node).local.push(self.session, self.cpu, self.pfn)
        except KmapError as report:
            raise KernelBug((str(report),)) from None

    def check(self, node: NodeState) -> None:
        """Check the pfn and the CPU."""
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
                _mappings(node).local.pop(self.session, self.cpu, self.pfn)
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
        """Unmap them. Precondition if another node has the pool."""
        return pool_of(node).pkmap.flush_all_zero_pkmaps()

    def check(self, node: NodeState) -> None:
        """Do nothing: there are no fields."""

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"kmap_flush_unused -> {result}"
