"""Requests that a node may ask another one to run: not one step, but as many as a client's may take."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeVar

from numa_service.node.ask import Steps
from numa_service.node.errors import NotFound
from numa_service.node.inbox import Inbox
from numa_service.node.ops.op import Tagged
from numa_service.node.region import close_session
from numa_service.node.state import NodeState

R = TypeVar("R")


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
        node = inbox.node
        try:
            return (yield from inbox.end_session(self.session, close_session(node, self.session)))
        except NotFound:
            return 0

    def check(self, node: NodeState) -> None:
        """Whether there is such a session, the request finds out."""

    def owed(self, heard: bool) -> bool:
        """Until the other node has done it."""
        return True
