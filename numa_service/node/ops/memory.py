"""Ops of memory hotplug: memory of this node goes off-line and comes back (``mm/memory_hotplug.c``)."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.machine.hotplug import memory_notify, memory_state
from numa_service.machine.record import MemoryState
from numa_service.mm.memory_hotplug import BusyError
from numa_service.mm.mmzone import MIGRATE_TYPES
from numa_service.node.errors import Busy, InvalidRequest, Precondition
from numa_service.node.ops.fields import (
    check_below,
    check_pfn_range,
)
from numa_service.node.ops.op import Op
from numa_service.node.state import NodeState

#: What may be written into a memory block's ``state`` file to bring it on-line.
ONLINE_TYPES = ("online", "online_kernel", "online_movable")


def busy(node: NodeState, error: BusyError) -> Busy:
    """Return the Busy error (EBUSY) that names the page that is in use."""
    return Busy(f"EBUSY: page {error.idx + node.pgdat.base_pfn:#x} of node {node.nid} is {error}")


def range_text(start_pfn: int, end_pfn: int) -> str:
    """Return a range of pfns [start, end) as transcripts print it."""
    return f"pfns={start_pfn:#x}-{end_pfn:#x}"


def _memory_changed(node: NodeState, online: bool = True) -> MemoryState:
    """Recompute what depends on this node's memory; return that memory, with the next sequence number."""
    node.memory_changes += 1
    state = memory_state(node.pgdat, online)._replace(sequence=node.memory_sequence)
    memory_notify(node.machine, state)
    return state


@dataclass(frozen=True, slots=True)
class IsolateMemory(Op[None]):
    """Isolates a memory block that is to go off-line, so that nothing is allocated from it any more.

    This is start_isolate_page_range(). InvalidRequest (EINVAL) for a range that cannot go off-line; Busy
    (EBUSY) if it has an unmovable page.
    """

    tag = "isolate_memory"

    start_pfn: int
    end_pfn: int

    def apply(self, node: NodeState) -> None:
        """Set the pageblocks to MIGRATE_ISOLATE; this also drains the pagesets."""
        try:
            node.pgdat.start_isolate(self.start_pfn, self.end_pfn)
        except BusyError as e:
            raise busy(node, e) from None
        except ValueError as e:
            raise InvalidRequest("block", f"EINVAL: {e}") from None

    def check(self, node: NodeState) -> None:
        """Check the range."""
        check_pfn_range(self.start_pfn, self.end_pfn)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op and its result as one line."""
        return f"isolate {range_text(self.start_pfn, self.end_pfn)}"


@dataclass(frozen=True, slots=True)
class UndoIsolation(Op[None]):
    """Returns an isolated range to use (undo_isolate_page_range)."""

    tag = "undo_isolation"

    start_pfn: int
    end_pfn: int
    migratetype: int

    def apply(self, node: NodeState) -> None:
        """Set the pageblocks to their earlier migratetype."""
        node.pgdat.unisolate(self.start_pfn, self.end_pfn, self.migratetype)

    def check(self, node: NodeState) -> None:
        """Check the range and the migratetype."""
        check_pfn_range(self.start_pfn, self.end_pfn)
        check_below("migratetype", self.migratetype, MIGRATE_TYPES)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op and its result as one line."""
        return f"undo_isolate {range_text(self.start_pfn, self.end_pfn)}"


@dataclass(frozen=True, slots=True)
class OfflinePages(Op[MemoryState]):
    """Takes an isolated range off-line; the result is the memory that the node has left.

    Busy (EBUSY) if a page of the range is in use.
    """

    tag = "offline_pages"

    start_pfn: int
    end_pfn: int

    def apply(self, node: NodeState) -> MemoryState:
        """Change the range, and recompute what depends on the node's memory."""
        try:
            node.pgdat.offline_pages(self.start_pfn, self.end_pfn)
        except BusyError as e:
            raise busy(node, e) from None
        return _memory_changed(node)

    def check(self, node: NodeState) -> None:
        """Check the range."""
        check_pfn_range(self.start_pfn, self.end_pfn)

    def text(self, node: NodeState, result: MemoryState) -> str:
        """Return the op and its result as one line."""
        return f"offline_pages {range_text(self.start_pfn, self.end_pfn)} {state_text(node, result)}"


@dataclass(frozen=True, slots=True)
class OnlinePages(Op[MemoryState]):
    """Brings a range on-line; the result is the memory that the node has then.

    InvalidRequest (EINVAL) if the range cannot come on-line.
    """

    tag = "online_pages"

    start_pfn: int
    end_pfn: int
    #: One of ONLINE_TYPES.
    online_type: str

    def apply(self, node: NodeState) -> MemoryState:
        """Change the range, and recompute what depends on the node's memory."""
        try:
            node.pgdat.online_pages(self.start_pfn, self.end_pfn, self.online_type)
        except ValueError as e:
            raise InvalidRequest("block", f"EINVAL: {e}") from None
        return _memory_changed(node)

    def check(self, node: NodeState) -> None:
        """Check the range and the online type."""
        check_pfn_range(self.start_pfn, self.end_pfn)
        if self.online_type not in ONLINE_TYPES:
            raise InvalidRequest("online_type", f"{self.online_type!r} is not {', '.join(ONLINE_TYPES)}")

    def text(self, node: NodeState, result: MemoryState) -> str:
        """Return the op and its result as one line."""
        where = range_text(self.start_pfn, self.end_pfn)
        return f"online_pages {where} as={self.online_type} {state_text(node, result)}"


@dataclass(frozen=True, slots=True)
class OfflineNode(Op[MemoryState]):
    """Takes a node off-line (try_offline_node). Precondition if it still has memory or CPUs."""

    tag = "offline_node"

    def apply(self, node: NodeState) -> MemoryState:
        """Remove the node from every zonelist that this node knows."""
        if node.pgdat.cpus or any(extent.present for extent in node.pgdat.extents):
            raise Precondition(f"node {node.nid} has memory or CPUs")
        return _memory_changed(node, online=False)

    def check(self, node: NodeState) -> None:
        """Accept: the op has no fields."""

    def text(self, node: NodeState, result: MemoryState) -> str:
        """Return the op and its result as one line."""
        return "try_offline_node"


def state_text(node: NodeState, state: MemoryState) -> str:
    """Return the present pages of each zone, as transcripts print them."""
    zones = " ".join(f"{node.pgdat.zone_names[zone]}={present}" for zone, present, _ in state.zones)
    return f"present: {zones or 'nothing'}" + ("" if state.online else ", off-line")
