"""Memory of this node that goes off-line and comes back (``mm/memory_hotplug.c``)."""

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

#: How a memory block may come back (what is written into its state file).
ONLINE_TYPES = ("online", "online_kernel", "online_movable")


def busy(node: NodeState, error: BusyError) -> Busy:
    """EBUSY, with the page that is in the way."""
    return Busy(f"EBUSY: page {error.idx + node.pgdat.base_pfn:#x} of node {node.nid} is {error}")


def range_text(start_pfn: int, end_pfn: int) -> str:
    """[start, end) as transcripts print it."""
    return f"pfns={start_pfn:#x}-{end_pfn:#x}"


def _memory_changed(node: NodeState, online: bool = True) -> MemoryState:
    """Number the news of this node's memory, and recompute what depends on it here."""
    news = node.machine.memory_news.get(node.nid, node.lineage << 32) + 1
    state = memory_state(node.pgdat, online)._replace(sequence=news)
    memory_notify(node.machine, state)
    return state


@dataclass(frozen=True, slots=True)
class IsolateMemory(Op[None]):
    """Take a memory block out of use, to be off-line (start_isolate_page_range). InvalidRequest, Busy."""

    tag = "isolate_memory"

    start_pfn: int
    end_pfn: int

    def apply(self, node: NodeState) -> None:
        """Label its pageblocks, which empties the pagesets."""
        try:
            node.pgdat.start_isolate(self.start_pfn, self.end_pfn)
        except BusyError as e:
            raise busy(node, e) from None
        except ValueError as e:
            raise InvalidRequest("block", f"EINVAL: {e}") from None

    def check(self, node: NodeState) -> None:
        """Of a range."""
        check_pfn_range(self.start_pfn, self.end_pfn)

    def text(self, node: NodeState, result: None) -> str:
        """One line."""
        return f"isolate {range_text(self.start_pfn, self.end_pfn)}"


@dataclass(frozen=True, slots=True)
class UndoIsolation(Op[None]):
    """Put an isolated range back to use (undo_isolate_page_range)."""

    tag = "undo_isolation"

    start_pfn: int
    end_pfn: int
    migratetype: int

    def apply(self, node: NodeState) -> None:
        """Label its pageblocks with the migratetype that they had."""
        node.pgdat.unisolate(self.start_pfn, self.end_pfn, self.migratetype)

    def check(self, node: NodeState) -> None:
        """Of a range and a migratetype."""
        check_pfn_range(self.start_pfn, self.end_pfn)
        check_below("migratetype", self.migratetype, MIGRATE_TYPES)

    def text(self, node: NodeState, result: None) -> str:
        """One line."""
        return f"undo_isolate {range_text(self.start_pfn, self.end_pfn)}"


@dataclass(frozen=True, slots=True)
class OfflinePages(Op[MemoryState]):
    """Take an isolated range off-line; what is left of the node's memory. Busy when it is not empty."""

    tag = "offline_pages"

    start_pfn: int
    end_pfn: int

    def apply(self, node: NodeState) -> MemoryState:
        """With what depends on the node's memory."""
        try:
            node.pgdat.offline_pages(self.start_pfn, self.end_pfn)
        except BusyError as e:
            raise busy(node, e) from None
        return _memory_changed(node)

    def check(self, node: NodeState) -> None:
        """Of a range."""
        check_pfn_range(self.start_pfn, self.end_pfn)

    def text(self, node: NodeState, result: MemoryState) -> str:
        """One line."""
        return f"offline_pages {range_text(self.start_pfn, self.end_pfn)} {state_text(node, result)}"


@dataclass(frozen=True, slots=True)
class OnlinePages(Op[MemoryState]):
    """Bring a range on-line; what there is now of the node's memory. InvalidRequest."""

    tag = "online_pages"

    start_pfn: int
    end_pfn: int
    #: One of ONLINE_TYPES.
    online_type: str

    def apply(self, node: NodeState) -> MemoryState:
        """With what depends on the node's memory."""
        try:
            node.pgdat.online_pages(self.start_pfn, self.end_pfn, self.online_type)
        except ValueError as e:
            raise InvalidRequest("block", f"EINVAL: {e}") from None
        return _memory_changed(node)

    def check(self, node: NodeState) -> None:
        """Of a range and a type."""
        check_pfn_range(self.start_pfn, self.end_pfn)
        if self.online_type not in ONLINE_TYPES:
            raise InvalidRequest("online_type", f"{self.online_type!r} is not {', '.join(ONLINE_TYPES)}")

    def text(self, node: NodeState, result: MemoryState) -> str:
        """One line."""
        where = range_text(self.start_pfn, self.end_pfn)
        return f"online_pages {where} as={self.online_type} {state_text(node, result)}"


@dataclass(frozen=True, slots=True)
class OfflineNode(Op[MemoryState]):
    """A node without memory and CPUs goes (try_offline_node). Precondition."""

    tag = "offline_node"

    def apply(self, node: NodeState) -> MemoryState:
        """No zonelist names it from now on."""
        if node.pgdat.cpus or any(extent.present for extent in node.pgdat.extents):
            raise Precondition(f"node {node.nid} has memory or CPUs")
        return _memory_changed(node, online=False)

    def check(self, node: NodeState) -> None:
        """It says nothing."""

    def text(self, node: NodeState, result: MemoryState) -> str:
        """One line."""
        return "try_offline_node"


def state_text(node: NodeState, state: MemoryState) -> str:
    """Present pages of each zone, as transcripts print them."""
    zones = " ".join(f"{node.pgdat.zone_names[zone]}={present}" for zone, present, _ in state.zones)
    return f"present: {zones or 'nothing'}" + ("" if state.online else ", off-line")
