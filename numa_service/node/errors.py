"""What can go wrong with a request. One root; the mapping to gRPC status is in ``rpc/status.py``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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


class Unserved(NodeError):
    """A request got fewer blocks than it wanted: `got` of `wanted`. What had been taken was given back."""

    def __init__(self, message: str, order: int, wanted: int, got: int) -> None:
        super().__init__(message)
        self.order = order
        self.wanted = wanted
        self.got = got
        #: For a request that asked why.
        self.explanation: Explanation | None = None


class AllocFailed(Unserved):
    """The zonelist was walked to its end, reclaim included, and the pages are not there."""

    def __init__(self, order: int, wanted: int, got: int, nodes: tuple[int, ...]) -> None:
        super().__init__(
            f"page allocation failure: order {order}, {got} of {wanted} blocks found on nodes "
            f"{','.join(map(str, nodes))}",
            order,
            wanted,
            got,
        )
        self.nodes = nodes


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


class NodesAway(Unserved):
    """The nodes that answered do not have the pages, and others of the walk did not answer.

    What those have is not known: this is no shortage of memory.
    """

    retry_seconds = PeerUnavailable.retry_seconds

    def __init__(self, order: int, wanted: int, got: int, away: Mapping[int, PeerUnavailable]) -> None:
        """`away`: of each node that did not answer, what became of the question."""
        reasons = "; ".join(str(error) for _, error in sorted(away.items()))
        super().__init__(
            f"order {order}, {got} of {wanted} blocks found, not all nodes were asked: {reasons}",
            order,
            wanted,
            got,
        )
        self.nids = tuple(sorted(away))


def unserved(
    order: int, wanted: int, got: int, nodes: tuple[int, ...], unasked: Mapping[int, NodeError]
) -> NodeError:
    """Why a walk over `nodes` ended with less than was wanted.

    `unasked`: of its nodes that were not, or not in full, asked for pages, why. Only without any is the
    memory known to be short.
    """
    away = {nid: error for nid, error in unasked.items() if isinstance(error, PeerUnavailable)}
    if away:
        return NodesAway(order, wanted, got, away)
    return next(iter(unasked.values()), None) or AllocFailed(order, wanted, got, nodes)


def fault(error: BaseException) -> str:
    """Number of a fault, 12 hexadecimal digits: the same for every error of its type raised at its place."""
    kind, place, at = type(error), "", error.__traceback__
    while at:
        place = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
        at = at.tb_next
    return hashlib.sha256(f"{kind.__module__}.{kind.__qualname__} {place}".encode()).hexdigest()[:12]
