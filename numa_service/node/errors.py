"""What can go wrong with a request. One root; the mapping to gRPC status is in ``rpc/status.py``."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numa_service.node.explain import Explanation


class NodeError(Exception):
    """A request was refused; nothing changed unless the class says so."""

    #: After so long it may well be granted: the client is told. None: to wait does not help.
    retry_seconds: float | None = None


class InvalidRequest(NodeError):
    """A field of the request is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class NotFound(NodeError):
    """There is no such session, region or allocation."""

    def __init__(self, kind: str, name: str, reason: str = "not found") -> None:
        super().__init__(f"{kind} {name}: {reason}")
        self.kind = kind
        self.name = name


class Precondition(NodeError):
    """The thing exists, and is not in a state that allows this."""


class Busy(Precondition):
    """EBUSY: memory that is to be emptied has a page that cannot be moved."""


class AllocFailed(NodeError):
    """The zonelist was walked to its end, reclaim included, and the pages are not there.

    What had been taken was given back. `got` blocks of `wanted` were within reach.
    """

    def __init__(self, order: int, wanted: int, got: int, nodes: tuple[int, ...]) -> None:
        super().__init__(
            f"page allocation failure: order {order}, {got} of {wanted} blocks found on nodes "
            f"{','.join(map(str, nodes))}"
        )
        self.order = order
        self.wanted = wanted
        self.got = got
        self.nodes = nodes
        #: For a request that asked why.
        self.explanation: Explanation | None = None


class LimitExceeded(NodeError):
    """A limit of the service, not of the emulated machine, was reached."""


class TooMany(LimitExceeded):
    """As many as there may be at one time: there is room again when one of them has ended."""

    retry_seconds = 1.0


class PeerUnavailable(NodeError):
    """Another node did not answer; thrown into the generator that asked it."""

    #: The longest wait before it is asked again by the node itself.
    retry_seconds = 1.0

    def __init__(self, nid: int, reason: str) -> None:
        super().__init__(f"node {nid} does not answer: {reason}")
        self.nid = nid
        self.reason = reason


def fault(error: BaseException) -> str:
    """Number of a fault, 12 hexadecimal digits: the same for every error of its type raised at its place."""
    kind, place, at = type(error), "", error.__traceback__
    while at:
        place = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
        at = at.tb_next
    return hashlib.sha256(f"{kind.__module__}.{kind.__qualname__} {place}".encode()).hexdigest()[:12]
