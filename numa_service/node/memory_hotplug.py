"""Memory blocks and nodes that go off-line and come back, across the machine (``drivers/base/memory.c``).

This is what a write to ``/sys/devices/system/memory/memoryN/state`` does. The node that has the block does
the work. The other nodes hear of it from the machine's record (``machine_record.py``), and recompute their
watermarks, pagesets and zonelists.
"""

from __future__ import annotations

from numa_service.machine.record import MemoryState
from numa_service.mm.memory_hotplug import MEMORY_BLOCK_PAGES, is_offline
from numa_service.mm.mmzone import MIGRATE_MOVABLE
from numa_service.node import ops
from numa_service.node.ask import Steps
from numa_service.node.errors import Busy, InvalidRequest, NodeError, NotFound, PeerUnavailable
from numa_service.node.migrate import empty_range
from numa_service.node.node import Node
from numa_service.node.ops.memory import ONLINE_TYPES
from numa_service.trace.tracepoint_formats import MR_MEMORY_HOTPLUG

#: What may be written into a block's ``state`` file.
STATES = (*ONLINE_TYPES, "offline")


def memory_blocks(node: Node) -> tuple[int, ...]:
    """Return the numbers of the memory blocks in which a node has RAM, on-line or not, ascending."""
    size = MEMORY_BLOCK_PAGES
    blocks = {b for low, high in node.pgdat.ram for b in range(low // size, -(-high // size))}
    return tuple(sorted(blocks))


def is_online(node: Node, block: int) -> bool:
    """Return whether any page of a block is on-line, so that its ``state`` file reads "online"."""
    start, end = _range(block)
    base = node.pgdat.base_pfn
    return not is_offline(node.pgdat.pg, max(0, start - base), end - base)


def _range(block: int) -> tuple[int, int]:
    return block * MEMORY_BLOCK_PAGES, (block + 1) * MEMORY_BLOCK_PAGES


def change_memory_block(node: Node, block: int, state: str) -> Steps[MemoryState]:
    """Change a block's state; return the memory that the node has afterwards.

    NotFound if the node has no RAM in the block. InvalidRequest (EINVAL) if the block lies in several zones,
    has a hole, or is in that state already. Busy (EBUSY) if a page in it cannot be moved. PeerUnavailable if
    a page could not be moved because a node did not answer. After Busy and PeerUnavailable the block is
    on-line as before, but some pages may have been moved.
    """
    if state not in STATES:
        raise InvalidRequest("state", f"{state!r} is not {', '.join(STATES)}")
    if node.pgdat.arch != "x86_64":
        raise InvalidRequest("block", f"EINVAL: {node.pgdat.arch} has no memory hotplug")
    if block not in memory_blocks(node):
        raise NotFound("memory_block", f"memory{block}", f"node {node.nid} has none of it")
    start, end = _range(block)
    if state == "offline":
        return (yield from _offline_pages(node, start, end))
    return node.apply(ops.OnlinePages(start, end, state))


def _offline_pages(node: Node, start: int, end: int) -> Steps[MemoryState]:
    node.apply(ops.IsolateMemory(start, end))
    try:
        # pages go to other nodes unless no other node has memory (do_migrate_range)
        others = tuple(nid for nid, zones in node.machine.populated.items() if zones and nid != node.nid)
        unasked = yield from empty_range(node, start, end, others or (node.nid,), MR_MEMORY_HOTPLUG)
        try:
            return node.apply(ops.OfflinePages(start, end))
        except Busy:
            if not unasked:
                raise
        raise unasked[min(unasked)]
    except NodeError:
        node.apply(ops.UndoIsolation(start, end, MIGRATE_MOVABLE))
        raise


def offline_node(node: Node) -> Steps[dict[int, str]]:
    """Take all memory of a node off-line, last block first; return the blocks that stay on-line, and why.

    A node without CPUs goes off-line itself when all its memory is (try_offline_node).
    """
    stay: dict[int, str] = {}
    for block in reversed(memory_blocks(node)):
        if is_online(node, block):
            try:
                yield from change_memory_block(node, block, "offline")
            except (Busy, InvalidRequest, PeerUnavailable) as error:
                stay[block] = str(error)
    if not stay and not node.pgdat.cpus:
        node.apply(ops.OfflineNode())
    return stay
