"""Requests that take steps and need the inbox: those of clients, and those that another node may ask for."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeVar

from numa_service.node.ask import Steps
from numa_service.node.errors import NotFound
from numa_service.node.first_replies import Key
from numa_service.node.inbox import Inbox
from numa_service.node.ops.op import Tagged
from numa_service.node.region import Touched, close_session, touch_region, unmap_region
from numa_service.node.state import NodeState

R = TypeVar("R")


def touch(
    inbox: Inbox, session: int, region: int, first: int, count: int, write: bool, cpu: int
) -> Steps[Touched]:
    """TouchRegion: one fault at a time, as each waits for other nodes."""
    inbox.node.region(session, region)
    steps = touch_region(inbox.node, session, region, first, count, write, cpu)
    return (yield from inbox.locked(region, steps))


def unmap(inbox: Inbox, session: int, region: int) -> Steps[int]:
    """UnmapRegion, when nobody is at the region any more; pages freed."""
    inbox.node.region(session, region)
    return (yield from inbox.locked(region, unmap_region(inbox.node, session, region)))


def close(inbox: Inbox, session: int, mine: Key | None = None) -> Steps[int]:
    """CloseSession, when its other requests are over; pages freed. `mine` is the request itself."""
    return (yield from inbox.end_session(session, close_session(inbox.node, session), mine))


class Request(Tagged[R]):
    """Something that the asked node does by steps of its own, and with questions of its own."""

    __slots__ = ()

    asked = True

    @abstractmethod
    def run(self, inbox: Inbox) -> Steps[R]:
        """Carry it out on the node of this inbox."""


@dataclass(frozen=True, slots=True)
class CloseSession(Request[int]):
    """End a session of the asked node, whatever its client says; pages freed, 0 when it is gone already."""

    tag = "close_session"

    session: int

    def run(self, inbox: Inbox) -> Steps[int]:
        """As the end of its lease would."""
        try:
            return (yield from close(inbox, self.session))
        except NotFound:
            return 0

    def check(self, node: NodeState) -> None:
        """Whether there is such a session, the request finds out."""

    def owed(self, heard: bool) -> bool:
        """Until the other node has done it."""
        return True
