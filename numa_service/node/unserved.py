"""Why a request got fewer blocks than it wanted."""

from __future__ import annotations

from collections.abc import Mapping

from numa_client import Explanation

from numa_service.node.errors import NodeError, PeerUnavailable


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
