"""Mapping of high pages across nodes: kmap and its slots (``mm/highmem.c``, ``arch/x86/mm/highmem_32.c``).

The node that keeps the machine's kernel addresses has the pool; a page is of the node that tells whose it is.
Who finds no entry waits at home, and is woken there by the node with the pool.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass, replace

from numa_service.mm.structs import Page
from numa_service.node import ops
from numa_service.node.ask import Park, Steps, ask
from numa_service.node.errors import KernelBug, NotFound, PeerUnavailable, Precondition
from numa_service.node.inbox import Inbox
from numa_service.node.node import Node
from numa_service.node.ops.fields import MAX_NODE_PAGES, check_below, check_owner
from numa_service.node.ops.highmem import check_high, linear_address, page_owner, pool_of
from numa_service.node.owners import Owner
from numa_service.node.request import Request
from numa_service.node.state import NodeState
from numa_service.node.struct_views import page_view


def kmap(inbox: Inbox, session: int, pfn: int, *, atomic: bool = False) -> Steps[int]:
    """Map a page that the session has, of any node; return its address (kmap).

    It waits if the pool has no free entry. Who may not sleep (`atomic`) does not: KernelBug with what the
    kernel prints. NotFound; Precondition for a page that is not the session's, PeerUnavailable.
    """
    node = inbox.node
    yield from _check_page(inbox, session, pfn)
    linear = linear_address(node, pfn)
    if linear is not None:
        return linear
    keeper = node.machine.vmalloc_nid
    if keeper not in (node.nid, *node.session(session).holdings):
        node.apply(ops.NoteHolding(session, keeper))  # its end gives up what it has mapped
    while not (address := (yield from _on(inbox, keeper, MapPage(node.owner(session), pfn, atomic)))):
        if atomic:
            name = node.session(session).name
            raise KernelBug((f"BUG: scheduling while atomic: {name}/{session}/0x00000002",))
        yield from _wait(inbox, session)
    return address


def kunmap(inbox: Inbox, session: int, pfn: int) -> Steps[None]:
    """Give up a mapping by :func:`kmap`, and wake who waits for one.

    KernelBug with what the kernel prints for a page that the session has not mapped; NotFound for the
    session, and for a mapping that was lost in a restart.
    """
    node, keeper = inbox.node, inbox.node.machine.vmalloc_nid
    theirs = node.session(session)
    if not node.is_highmem(pfn):
        return
    try:
        with contextlib.suppress(PeerUnavailable):  # it is asked again later (outbox.py)
            yield from _on(inbox, keeper, UnmapPage(node.owner(session), pfn))
    except KernelBug:
        if keeper in theirs.lost:
            raise NotFound("mapping", f"{pfn:#x}", f"lost in the restart of node {keeper}") from None
        raise


def kmap_atomic(inbox: Inbox, session: int, pfn: int, cpu: int) -> Steps[int]:
    """Map a page that the session has in the next slot; return its number (kmap_atomic, kmap_local_page).

    -1 for a page of low memory, which needs none. NotFound; Precondition for a page that is not the
    session's, KernelBug if all slots are in use.
    """
    yield from _check_page(inbox, session, pfn)
    return inbox.node.apply(ops.KmapLocal(session, pfn, cpu))


def _check_page(inbox: Inbox, session: int, pfn: int) -> Steps[None]:
    """Check that a session has a page. NotFound for the session or the page, Precondition else."""
    node = inbox.node
    theirs = node.session(session)
    spec = node.machine.spec
    nid = next((n.nid for n in spec.nodes for low, high in n.ram if low <= pfn < high), None)
    if nid is None:
        raise NotFound("page", f"{pfn:#x}", f"no page of {spec.name}")
    id = yield from _on(inbox, nid, PageOwner(node.nid, node.lineage, pfn))
    if id not in (session, theirs.vmalloc_id, *theirs.regions) or not id:
        raise Precondition(f"page {pfn:#x} on node {nid} is not the session's")


def _on(inbox: Inbox, nid: int, request: Request[int]) -> Steps[int]:
    """Run a request on a node, at once if that is this one."""
    if nid == inbox.node.nid:
        return (yield from request.run(inbox))
    return (yield from ask(inbox.node, nid, request))


def _wait(inbox: Inbox, session: int) -> Steps[None]:
    """Wait until an entry of the pool may be free; NotFound if the session is being closed.

    A kernel's task would sleep on: here it would keep its session from ending.
    """
    park, queue = Park(), inbox.node.pkmap_wait
    waiting = queue.enter(session, park.wake)
    try:
        yield from park.wait()
    finally:
        queue.leave(waiting)
    inbox.check_session(session)


def wake_pkmap(node: Node) -> Steps[None]:
    """Wake who waits for an entry of the pool: requests of this node and, if it has the pool, of others."""
    node.pkmap_wait.wake()
    pool = node.highmem.pool if node.highmem else None
    if pool and pool.waiting:
        for nid in node.apply(ops.TakePkmapWaiters()):
            with contextlib.suppress(PeerUnavailable):  # it is told later (outbox.py)
                yield from ask(node, nid, WakePkmap())


def mappings_ended(inbox: Inbox, holdings: Collection[int]) -> Steps[None]:
    """A session that had something on these other nodes has ended: entries of the pool may be free."""
    node = inbox.node
    yield from wake_pkmap(node)
    keeper = node.machine.vmalloc_nid
    if node.highmem and keeper != node.nid and keeper in holdings:
        with contextlib.suppress(PeerUnavailable):
            yield from ask(node, keeper, MappingsEnded())


def inspect_page(inbox: Inbox, pfn: int) -> Steps[Page]:
    """The view of a page of this node, with the address of a high page that is mapped (page_address).

    Which that is, the node with the pool knows; while that is away the page shows none. NotFound.
    """
    node = inbox.node
    view = page_view(node, pfn)
    if view.virtual is None and node.machine.vmalloc_nid != node.nid:
        with contextlib.suppress(PeerUnavailable):
            address = yield from ask(node, node.machine.vmalloc_nid, PageAddress(pfn))
            view = replace(view, virtual=address or None)
    return view


@dataclass(frozen=True, slots=True)
class PageAddress(Request[int]):
    """Where the asked node's pool has mapped a high page; 0: nowhere (page_address)."""

    tag = "page_address"

    pfn: int

    def run(self, inbox: Inbox) -> Steps[int]:
        """Look it up in the hash."""
        yield from ()
        return pool_of(inbox.node).pkmap.page_address(self.pfn) or 0

    def check(self, node: NodeState) -> None:
        """Check the page."""
        check_high(node, self.pfn)


@dataclass(frozen=True, slots=True)
class PageOwner(Request[int]):
    """Which session or region of a home has a page of the asked node; 0: none of them."""

    tag = "page_owner"

    #: The home, and its lineage.
    nid: int
    lineage: int
    pfn: int

    def run(self, inbox: Inbox) -> Steps[int]:
        """Look whose it is."""
        yield from ()
        owner = page_owner(inbox.node, self.pfn)
        return owner.id if owner and owner[:2] == (self.nid, self.lineage) else 0

    def check(self, node: NodeState) -> None:
        """Check the home and the pfn."""
        check_owner(node, Owner(self.nid, self.lineage, 1))
        check_below("pfn", self.pfn, MAX_NODE_PAGES)


@dataclass(frozen=True, slots=True)
class MapPage(Request[int]):
    """Maps a high page in the pool of the asked node; the result is its address, or 0 if there is no entry.

    Who may not sleep changes nothing then.
    """

    tag = "map_page"

    #: The session.
    owner: Owner
    pfn: int
    atomic: bool

    def run(self, inbox: Inbox) -> Steps[int]:
        """Map it."""
        yield from ()
        if self.atomic and pool_of(inbox.node).pkmap.would_wait(self.pfn):
            return 0
        return inbox.node.apply(ops.Kmap(self.owner, self.pfn))

    def check(self, node: NodeState) -> None:
        """Check the owner and the page."""
        check_owner(node, self.owner)
        check_high(node, self.pfn)

    def owed(self, heard: bool) -> bool:
        """Return whether the page may have been mapped without the asker's knowledge."""
        return heard

    def undo(self, result: int) -> Request[int] | None:
        """Return what gives up a mapping of which the answer came too late."""
        return UnmapPage(self.owner, self.pfn) if result else None


@dataclass(frozen=True, slots=True)
class UnmapPage(Request[int]):
    """Gives up a mapping in the pool of the asked node, and wakes who waits for an entry; the result is 0."""

    tag = "unmap_page"

    #: The session.
    owner: Owner
    pfn: int

    def run(self, inbox: Inbox) -> Steps[int]:
        """Give it up."""
        if inbox.node.apply(ops.Kunmap(self.owner, self.pfn)):
            yield from wake_pkmap(inbox.node)
        return 0

    def check(self, node: NodeState) -> None:
        """Check the owner and the page."""
        check_owner(node, self.owner)
        check_high(node, self.pfn)

    def owed(self, heard: bool) -> bool:
        """Return True: the session thinks that it has no mapping any more."""
        return True


@dataclass(frozen=True, slots=True)
class MappingsEnded(Request[int]):
    """Says that a session has ended which may have mapped pages in the asked node's pool; the result is 0."""

    tag = "mappings_ended"

    def run(self, inbox: Inbox) -> Steps[int]:
        """Wake who waits."""
        yield from wake_pkmap(inbox.node)
        return 0

    def check(self, node: NodeState) -> None:
        """Accept: it has no fields."""

    def owed(self, heard: bool) -> bool:
        """Return True: nobody else would wake them."""
        return True


@dataclass(frozen=True, slots=True)
class WakePkmap(Request[int]):
    """Says that an entry of the pool may be free to the asked node, whose requests wait; the result is 0."""

    tag = "wake_pkmap"

    def run(self, inbox: Inbox) -> Steps[int]:
        """Wake them."""
        yield from ()
        inbox.node.pkmap_wait.wake()
        return 0

    def check(self, node: NodeState) -> None:
        """Accept: it has no fields."""

    def owed(self, heard: bool) -> bool:
        """Return True: nobody else would wake them."""
        return True
