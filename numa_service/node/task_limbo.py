"""What tasks of a home do not need any more, and other nodes have: those are told to free it."""

from __future__ import annotations

import numpy as np

from numa_service.node import ops
from numa_service.node.ask import Steps, tell
from numa_service.node.errors import NodeError
from numa_service.node.node import Node
from numa_service.node.owners import Owner
from numa_service.node.pfns import pack_pfns
from numa_service.node.task_pages import TABLE


def release_elsewhere(node: Node) -> Steps[None]:
    """Have other nodes free what tasks do not need any more.

    A node that does not answer is asked again (``outbox.py``), and for nothing else until it has answered.
    """
    tasks = node.tasks
    while tasks.limbo or tasks.limbo_tables:
        limbo = node.apply(ops.TakeLimbo())
        for id, nid, frames in limbo.frames:
            yield from tell(node, nid, ops.Release(node.owner(id), None, frames))
            node.apply(ops.FramesFreed(frames))
        for nid, order, pfns in limbo.tables:
            packed = pack_pfns(np.array(pfns, np.uint64))
            yield from free_blocks(node, node.tasks.owner(TABLE), nid, order, packed)


def free_blocks(node: Node, owner: Owner, nid: int, order: int, pfns: bytes) -> Steps[None]:
    """Free blocks of page tables; a node that has lost them in a restart has freed them."""
    try:
        yield from tell(node, nid, ops.Free(owner, None, order, pfns, undoes=True))
    except NodeError:
        return
