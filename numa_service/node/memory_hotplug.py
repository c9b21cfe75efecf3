"""Memory blocks and nodes going off-line and coming back, over the whole machine (``drivers/base/memory.c``).

What is written into ``/sys/devices/system/memory/memoryN/state``. The node that has the block does the work;
the others are told, and recompute what depends on it.
"""

from __future__ import annotations

import contextlib

from numa_service.machine.hotplug import booted_state, known_state_differs, memory_state
from numa_service.machine.record import MemoryState
from numa_service.mm.memory_hotplug import MEMORY_BLOCK_PAGES, is_offline
from numa_service.mm.mmzone import MIGRATE_MOVABLE
from numa_service.node import ops
from numa_service.node.ask import Steps, on
from numa_service.node.errors import Busy, InvalidRequest, NodeError, NotFound, PeerUnavailable
from numa_service.node.migrate import empty_range
from numa_service.node.node import Node
from numa_service.trace.tracepoints import MR_MEMORY_HOTPLUG

#: What may be written into a block's state.
ONLINE_TYPES = ("online", "online_kernel", "online_movable")
STATES = (*ONLINE_TYPES, "offline")


def memory_blocks(node: Node) -> tuple[int, ...]:
    """Numbers of the memory blocks with RAM of a node, ascending; on-line or not."""
    size = MEMORY_BLOCK_PAGES
    blocks = {b for low, high in node.pgdat.ram for b in range(low // size, -(-high // size))}
    return tuple(sorted(blocks))


def is_online(node: Node, block: int) -> bool:
    """Whether any memory of a block is on-line (the state file's "online")."""
    start, end = _range(block)
    base = node.pgdat.base_pfn
    return not is_offline(node.pgdat.pg, max(0, start - base), end - base)


def _range(block: int) -> tuple[int, int]:
    return block * MEMORY_BLOCK_PAGES, (block + 1) * MEMORY_BLOCK_PAGES


def change_memory_block(node: Node, block: int, state: str) -> Steps[MemoryState]:
    """Write a block's state; what there is of the node's memory now.

    NotFound when the node has no such block. InvalidRequest (EINVAL) when it cannot go or come: of several
    zones, with a hole, or so already. Busy (EBUSY) when it has a page that does not move, PeerUnavailable
    when one had nowhere to go because a node is away: then it is as it was, but for the pages that did.
    """
    if state not in STATES:
        raise InvalidRequest("state", f"{state!r} is not {', '.join(STATES)}")
    if node.pgdat.arch != "x86_64":
        raise InvalidRequest("block", f"EINVAL: {node.pgdat.arch} has no memory hotplug")
    if block not in memory_blocks(node):
        raise NotFound("memory_block", f"memory{block}", f"node {node.nid} has none of it")
    start, end = _range(block)
    if state == "offline":
        now = yield from _offline_pages(node, start, end)
    else:
        now = node.apply(ops.OnlinePages(start, end, state))
    yield from _notify(node, now)
    return now


def _offline_pages(node: Node, start: int, end: int) -> Steps[MemoryState]:
    node.apply(ops.IsolateMemory(start, end))
    try:
        # to other nodes if there are any with memory (do_migrate_range)
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


def _notify(node: Node, now: MemoryState) -> Steps[None]:
    """Tell every other node (the memory notifier chain); one that is away is told later (rpc/peers.py)."""
    for other in node.machine.spec.nodes:
        if other.nid != node.nid:
            with contextlib.suppress(PeerUnavailable):
                yield from on(node, other.nid, ops.MemoryNotify(now))


def node_restarted(node: Node, nid: int, incarnation: int) -> Steps[None]:
    """Another node has booted anew: with no owner of its own here any more, and with all of its memory.

    It is told what of this node is not as booted.
    """
    node.apply(ops.FreeDeadOwners(nid, incarnation))
    anew = booted_state(node.machine, nid)._replace(sequence=incarnation << 32)
    if known_state_differs(node.machine, anew):
        node.apply(ops.MemoryNotify(anew))
    mine = memory_state(node.pgdat, node.nid in node.machine.populated)
    mine = mine._replace(sequence=node.machine.memory_news.get(node.nid, 0))
    if mine.sequence:
        # one that does not answer is told later (rpc/peers.py)
        with contextlib.suppress(PeerUnavailable):
            yield from on(node, nid, ops.MemoryNotify(mine))


def offline_node(node: Node) -> Steps[dict[int, str]]:
    """Take all memory of a node off-line, last block first; blocks that stay, and why.

    A node without CPUs goes with its memory (try_offline_node).
    """
    stay: dict[int, str] = {}
    for block in reversed(memory_blocks(node)):
        if is_online(node, block):
            try:
                yield from change_memory_block(node, block, "offline")
            except (Busy, InvalidRequest, PeerUnavailable) as error:
                stay[block] = str(error)
    if not stay and not node.pgdat.cpus:
        yield from _notify(node, node.apply(ops.OfflineNode()))
    return stay
