"""What a node knows of the whole machine: sysctls, and the memory of other nodes."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.machine.hotplug import memory_notify
from numa_service.machine.record import MemoryState
from numa_service.machine.spec import SpecError
from numa_service.node.errors import InvalidRequest
from numa_service.node.ops.fields import (
    MAX_INT64,
    MAX_NODE_PAGES,
    check_below,
    check_nid,
    check_zones,
)
from numa_service.node.ops.memory import state_text
from numa_service.node.ops.op import Op
from numa_service.node.state import NodeState


@dataclass(frozen=True, slots=True)
class MemoryNotify(Op[None]):
    """Memory of another node came or went."""

    tag = "memory_notify"
    asked = True

    state: MemoryState

    def apply(self, node: NodeState) -> None:
        """Recompute watermarks, pagesets and zonelists of this node."""
        memory_notify(node.machine, self.state)

    def owed(self, heard: bool) -> bool:
        """Every node has to know."""
        return True

    def check(self, node: NodeState) -> None:
        """Of another node's zones."""
        check_nid(node, "node", self.state.nid)
        if self.state.nid == node.nid:
            raise InvalidRequest("node", "its own memory a node knows")
        check_zones(node, tuple(zone for zone, _, _ in self.state.zones))
        for _, present, managed in self.state.zones:
            check_below("managed_pages", managed, present + 1)
            check_below("present_pages", present, MAX_NODE_PAGES)

    def text(self, node: NodeState, result: None) -> str:
        """One line."""
        return f"memory_notify node{self.state.nid} {state_text(node, self.state)}"


@dataclass(frozen=True, slots=True)
class WriteSysctl(Op[None]):
    """Write a sysctl, with its effects on this node. InvalidRequest."""

    tag = "write_sysctl"

    key: str
    value: str
    #: Of the machine's record that says so; 0: it was written here alone.
    version: int = 0

    def apply(self, node: NodeState) -> None:
        """By the machine's rules for it."""
        try:
            node.machine.write_sysctl(self.key, self.value)
        except SpecError as e:
            raise InvalidRequest(self.key, str(e).removeprefix(f"{self.key}: ")) from None
        node.record_version = max(node.record_version, self.version)

    def check(self, node: NodeState) -> None:
        """Of its version. Whether there is such a sysctl, and what it may be, `apply` says."""
        check_below("version", self.version, MAX_INT64)

    def text(self, node: NodeState, result: None) -> str:
        """One line."""
        return f"sysctl {self.key}={self.value}"
