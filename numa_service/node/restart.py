"""What a node does when another one has booted again."""

from __future__ import annotations

from numa_service.node import ops
from numa_service.node.ask import Steps
from numa_service.node.kmap import wake_pkmap
from numa_service.node.node import Node


def node_restarted(node: Node, nid: int, lineage: int) -> Steps[None]:
    """Free what owners of earlier lineages of node `nid` have here; whoever waits for a kmap may go on then.

    Of the memory that it has now this node hears from the machine's record (``machine_record.py``).
    """
    node.apply(ops.FreeDeadOwners(nid, lineage))
    yield from wake_pkmap(node)
