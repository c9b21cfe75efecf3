"""Ops that change what a node knows of the whole machine: sysctls, and the memory of other nodes."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.machine.hotplug import memory_notify
from numa_service.machine.record import MemoryState
from numa_service.machine.spec import SpecError
from numa_service.machine.thp_files import THP_PREFIX
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
from numa_service.node.task_huge import thp_settings


@dataclass(frozen=True, slots=True)
class MemoryNotify(Op[None]):
    """Tells a node what memory a node of the machine has now, after memory hotplug or a restart there."""

    tag = "memory_notify"

    state: MemoryState
    #: Version of the machine's record in which it has been in this state since.
    version: int

    def apply(self, node: NodeState) -> None:
        """Recompute this node's watermarks, pagesets and zonelists."""
        memory_notify(node.machine, self.state, recorded=True)
        node.record_version = max(node.record_version, self.version)

    def check(self, node: NodeState) -> None:
        """Check the node, and its zones' numbers of pages."""
        check_nid(node, "node", self.state.nid)
        check_zones(node, tuple(zone for zone, _, _ in self.state.zones))
        for _, present, managed in self.state.zones:
            check_below("managed_pages", managed, present + 1)
            check_below("present_pages", present, MAX_NODE_PAGES)
        check_below("min_free_kbytes", self.state.min_free_kbytes, MAX_INT64)
        check_below("followed", self.state.followed, MAX_INT64)
        check_below("version", self.version, MAX_INT64)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op and its result as one line."""
        return f"memory_notify node{self.state.nid} {state_text(node, self.state)}"


@dataclass(frozen=True, slots=True)
class WriteSysctl(Op[None]):
    """Writes a sysctl, with its effects on this node. InvalidRequest for an unknown key or a bad value."""

    tag = "write_sysctl"

    key: str
    value: str
    #: Version of the machine's record in which the sysctl was written; 0 if it is written on this node alone.
    version: int = 0

    def apply(self, node: NodeState) -> None:
        """Write the sysctl and recompute what depends on it."""
        try:
            node.machine.write_sysctl(self.key, self.value)
        except SpecError as e:
            raise InvalidRequest(self.key, str(e).removeprefix(f"{self.key}: ")) from None
        if self.key.startswith(THP_PREFIX) and node.tasks.thp is not None:
            node.tasks.thp.settings = thp_settings(node.machine)
        node.record_version = max(node.record_version, self.version)

    def check(self, node: NodeState) -> None:
        """Check the version; `apply` checks the key and the value."""
        check_below("version", self.version, MAX_INT64)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op and its result as one line."""
        return f"sysctl {self.key}={self.value}"
