"""What a node makes of the machine's record, and what it has to say to it."""

from __future__ import annotations

from numa_service.machine.hotplug import memory_state
from numa_service.machine.record import MachineRecord, MemoryState, SysctlWrite
from numa_service.node import ops
from numa_service.node.node import Node


def follow(node: Node, record: MachineRecord) -> None:
    """Apply what this node has not seen of a record, in its order. A record that is older changes nothing.

    Of its own memory a node knows more than the record. What other nodes have told it already is no news.
    """
    for version, news in record.news():
        if isinstance(news, SysctlWrite):
            if version > node.record_version:
                node.apply(ops.WriteSysctl(news.key, news.value, version))
        elif news.nid != node.nid and news.sequence > node.machine.memory_news.get(news.nid, 0):
            node.apply(ops.MemoryNotify(news))


def own_memory(node: Node) -> MemoryState | None:
    """What the record is to say of this node's memory; None for a node that is as it first booted.

    That is what everybody takes for granted of a first lineage. Of a later one, that it booted whole is news.
    """
    sequence = node.machine.memory_news.get(node.nid, node.lineage << 32)
    if sequence == 1 << 32:
        return None
    online = node.nid in node.machine.populated
    return memory_state(node.pgdat, online)._replace(sequence=sequence)
