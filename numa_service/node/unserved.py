"""Errors of requests that got fewer blocks than they wanted, and the choice among them."""

from __future__ import annotations

from collections.abc import Mapping

from numa_client import Explanation

from numa_service.node.errors import NodeError, PeerUnavailable


class Unserved(NodeError):
    """A request found `got` of the `wanted` blocks. The blocks that it had got were freed again."""

    def __init__(self, message: str, order: int, wanted: int, got: int) -> None:
        super().__init__(message)
        self.order = order
        self.wanted = wanted
        self.got = got
        #: Set for a request that asked for an explanation.
        self.explanation: Explanation | None = None


class AllocFailed(Unserved):
    """The machine is short of memory: every node of the walk was asked, and reclaim did not help."""

    def __init__(self, order: int, wanted: int, got: int, nodes: tuple[int, ...]) -> None:
        super().__init__(
            f"page allocation failure: order {order}, {got} of {wanted} blocks found on nodes "
            f"{','.join(map(str, nodes))}",
            order,
            wanted,
            got,
        )
        self.nodes = nodes


class VmallocFailed(AllocFailed):
    """vmalloc got no addresses or not all pages; the message is the kernel's report."""

    def __init__(self, report: str, order: int, wanted: int, got: int) -> None:
        super().__init__(order, wanted, got, ())
        self.args = (report,)


class NodesAway(Unserved):
    """The nodes that answered are short of memory, and other nodes of the walk did not answer.

    Those may have had the pages, so it is not known whether the machine is short of memory.
    """

    retry_seconds = PeerUnavailable.retry_seconds

    def __init__(self, order: int, wanted: int, got: int, away: Mapping[int, PeerUnavailable]) -> None:
        """Make the error; `away` has the error of each node that did not answer, by nid."""
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
    """Return the error for a walk over `nodes` that found fewer blocks than were wanted.

    `unasked` has, by nid, why nodes of the walk were not, or not in full, asked for pages. Only if it is
    empty is the result an AllocFailed, because only then the machine is known to be short of memory.
    """
    away = {nid: error for nid, error in unasked.items() if isinstance(error, PeerUnavailable)}
    if away:
        return NodesAway(order, wanted, got, away)
    return next(iter(unasked.values()), None) or AllocFailed(order, wanted, got, nodes)
