"""The base class of questions between nodes that are more than one op (``requests.py``, ``kmap.py``, …)."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from numa_service.node.ask import Steps
from numa_service.node.inbox import Inbox
from numa_service.node.ops.op import Tagged

R = TypeVar("R")


class Request(Tagged[R]):
    """A question to another node that is more than one op: that node runs it as a generator of its own."""

    __slots__ = ()

    asked = True

    @abstractmethod
    def run(self, inbox: Inbox) -> Steps[R]:
        """Run the request on the inbox's node."""
