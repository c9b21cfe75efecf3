"""Requests that need the inbox because they lock a region or end a session.

Clients send them, and some may be asked for by another node (:class:`Request`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from numa_service.mm.page_alloc import LRU_KIND_FILE
from numa_service.node.ask import Park, Steps, ask
from numa_service.node.errors import NotFound
from numa_service.node.first_replies import Key
from numa_service.node.inbox import Inbox
from numa_service.node.kmap import mappings_ended
from numa_service.node.mempolicy import Policy
from numa_service.node.move_pages import (
    Destination,
    Moved,
    mbind_region,
    migrate_session,
    move_away,
    move_region_pages,
)
from numa_service.node.ops.fields import (
    GFP_BITS,
    check_below,
    check_bits,
    check_cpu,
    check_indexes,
    check_nid,
    check_owner,
)
from numa_service.node.ops.page_bits import ClearPageBit, SetPageBit
from numa_service.node.owners import Owner
from numa_service.node.page_bits import LOCKED, WRITEBACK
from numa_service.node.page_wait import PageWaitTable, Waiter
from numa_service.node.region import Touched, close_session, touch_region, unmap_region
from numa_service.node.request import Request
from numa_service.node.state import NodeState


def touch(
    inbox: Inbox, session: int, region: int, first: int, count: int, write: bool, cpu: int
) -> Steps[Touched]:
    """TouchRegion under the region's lock, as a fault may wait for other nodes."""
    inbox.node.region(session, region)
    steps = touch_region(inbox.node, session, region, first, count, write, cpu)
    return (yield from inbox.locked(region, steps))


def unmap(inbox: Inbox, session: int, region: int) -> Steps[int]:
    """UnmapRegion under the region's lock; return the number of pages freed."""
    inbox.node.region(session, region)
    return (yield from inbox.locked(region, unmap_region(inbox.node, session, region)))


def mbind(
    inbox: Inbox,
    session: int,
    region: int,
    first: int,
    count: int,
    policy: Policy,
    cpu: int,
    *,
    move: bool = False,
    strict: bool = False,
) -> Steps[Moved]:
    """BindRegion under the region's lock, as pages may move between other nodes."""
    inbox.node.region(session, region)
    ask = partial(_ask_to_move, inbox)
    steps = mbind_region(
        inbox.node, session, region, first, count, policy, cpu, ask, move=move, strict=strict
    )
    return (yield from inbox.locked(region, steps))


def migrate(inbox: Inbox, session: int, old: Sequence[int], new: Sequence[int], cpu: int) -> Steps[Moved]:
    """MigratePages of a session. A fault that is under way meanwhile may add pages to the old nodes."""
    ask = partial(_ask_to_move, inbox)
    return (yield from migrate_session(inbox.node, session, old, new, cpu, ask))


def move(
    inbox: Inbox, session: int, region: int, pages: Sequence[int], nodes: Sequence[int] | None, cpu: int
) -> Steps[tuple[tuple[int, ...], int]]:
    """MovePages of a region under its lock."""
    inbox.node.region(session, region)
    ask = partial(_ask_to_move, inbox)
    steps = move_region_pages(inbox.node, session, region, pages, nodes, cpu, ask)
    return (yield from inbox.locked(region, steps))


def _ask_to_move(
    inbox: Inbox, nid: int, owner: Owner, lru_kind: int, indexes: bytes, to: Destination | None
) -> Steps[bytes]:
    request = MoveAway(owner, lru_kind, indexes, to)
    if nid == inbox.node.nid:
        return (yield from request.run(inbox))
    return (yield from ask(inbox.node, nid, request))


def lock_page(inbox: Inbox, session: int, pfn: int) -> Steps[None]:
    """Lock a page of this node for a session, and wait while another one has it locked (lock_page).

    The wait is exclusive: each unlock wakes one. NotFound; Precondition for a page that is nobody's, or that
    the session has locked itself.
    """
    node = inbox.node
    while not node.apply(SetPageBit(session, pfn, LOCKED)):
        yield from _wait_for_page(inbox, session, pfn, LOCKED, exclusive=True)


def unlock_page(inbox: Inbox, session: int, pfn: int) -> None:
    """Unlock a page, and wake who waits for that (unlock_page). Precondition if the session has no lock."""
    inbox.node.apply(ClearPageBit(session, pfn, LOCKED))
    inbox.node.page_wait.wake(pfn, LOCKED)


def start_writeback(inbox: Inbox, session: int, pfn: int) -> Steps[None]:
    """Begin to write a page, after an earlier write has ended (set_page_writeback)."""
    while not inbox.node.apply(SetPageBit(session, pfn, WRITEBACK)):
        yield from _wait_for_page(inbox, session, pfn, WRITEBACK)


def end_writeback(inbox: Inbox, session: int, pfn: int) -> None:
    """End a write of a page, and wake all who wait for that (end_page_writeback)."""
    inbox.node.apply(ClearPageBit(session, pfn, WRITEBACK))
    inbox.node.page_wait.wake(pfn, WRITEBACK)


def wait_on_page(inbox: Inbox, session: int, pfn: int, bit: str) -> Steps[None]:
    """Wait until a page is not locked, or not under writeback (wait_on_page_bit)."""
    inbox.node.session(session)
    while inbox.node.page_bits.holder(pfn, bit) is not None:
        yield from _wait_for_page(inbox, session, pfn, bit)


def _wait_for_page(inbox: Inbox, session: int, pfn: int, bit: str, exclusive: bool = False) -> Steps[None]:
    """Wait once; NotFound if the session is being closed: a kernel's task would sleep on."""
    yield from wait_on(inbox.node.page_wait, session, pfn, bit, exclusive)
    inbox.check_session(session)


def wait_on(table: PageWaitTable, session: int, pfn: int, bit: str, exclusive: bool) -> Steps[None]:
    """Wait in the page's queue until somebody is woken there."""
    park = Park()
    waiter = table.enter(Waiter(session, pfn, bit, exclusive, park.wake))
    try:
        yield from park.wait()
    finally:
        table.leave(waiter)


def close(inbox: Inbox, session: int, mine: Key | None = None) -> Steps[int]:
    """CloseSession after the session's other requests have ended; return the number of pages freed.

    `mine` is the key of the CloseSession request itself, which must not wait for itself.
    """
    holdings = tuple(inbox.node.session(session).holdings)
    freed = yield from inbox.end_session(session, close_session(inbox.node, session), mine)
    yield from mappings_ended(inbox, holdings)
    inbox.node.page_wait.wake_all()
    return freed


@dataclass(frozen=True, slots=True)
class CloseSession(Request[int]):
    """End a session of the asked node without its client's consent.

    The result is the number of pages freed, 0 if there is no such session.
    """

    tag = "close_session"

    session: int

    def run(self, inbox: Inbox) -> Steps[int]:
        """Close the session as the end of its lease would."""
        try:
            return (yield from close(inbox, self.session))
        except NotFound:
            return 0

    def check(self, node: NodeState) -> None:
        """Accept every value: :meth:`run` finds out whether the session exists."""

    def owed(self, heard: bool) -> bool:
        """Return True: the question is repeated until the other node has answered."""
        return True


@dataclass(frozen=True, slots=True)
class MoveAway(Request[bytes]):
    """Move a region's pages that the asked node has to another node; the result has a byte for each page."""

    tag = "move_away"

    #: The region.
    owner: Owner
    lru_kind: int
    #: Packed page indexes in the region.
    indexes: bytes
    #: None: only say which pages are there.
    to: Destination | None

    def run(self, inbox: Inbox) -> Steps[bytes]:
        """Move the pages, as :func:`move_away` says."""
        return (yield from move_away(inbox.node, self.owner, self.lru_kind, self.indexes, self.to))

    def check(self, node: NodeState) -> None:
        """Check the owner, the kind, the indexes and the destination."""
        check_owner(node, self.owner)
        check_below("lru_kind", self.lru_kind, LRU_KIND_FILE + 1)
        check_indexes(self.indexes)
        if self.to is None:
            return
        for nid in (self.to.list_nid, self.to.cpu_nid, *self.to.nodemask):
            check_nid(node, "to.nodes", nid)
        check_cpu(node, self.to.cpu)
        check_bits("to.gfp", self.to.gfp, GFP_BITS)
