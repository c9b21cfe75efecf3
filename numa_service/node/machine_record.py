"""How a node follows the record of the whole machine, and what it reports to that record.

The machine actor, in the simulator ``sim/keeper.py``, keeps the record: what was written to sysctls and to
/proc/slabinfo, and which memory of each node is on-line. Nodes hear of each other's memory from it alone.
"""

from __future__ import annotations

from numa_service.machine.hotplug import memory_state
from numa_service.machine.record import MachineRecord, MemoryState, SlabCaches, SlabTunables, SysctlWrite
from numa_service.node import ops
from numa_service.node.node import Node


def follow(node: Node, record: MachineRecord) -> None:
    """Apply the news of a record that this node has not applied, in the record's order.

    Of its own memory it applies the record's state again: only the record says what came before what. A state
    that is older than its memory is skipped, and so is what another lineage of this node had. An older record
    changes nothing.
    """
    written, _ = record.sysctls.get("vm.min_free_kbytes", (0, None))
    known = node.record_version
    if record.caches[0] > known:  # before the tunables of caches, which may be older than the last change
        node.apply(ops.KmemCaches(record.caches[1].caches, record.caches[0]))
    for version, news in record.news():
        if version <= known or isinstance(news, SlabCaches):
            continue
        if isinstance(news, SysctlWrite):
            node.apply(ops.WriteSysctl(news.key, news.value, version))
        elif isinstance(news, SlabTunables):
            node.apply(ops.KmemTune(*news, version))
        elif news.nid != node.nid or news.sequence >= node.memory_sequence:
            if news.followed < written:
                news = news._replace(min_free_kbytes=0)
            node.apply(ops.MemoryNotify(news, version))


def own_memory(node: Node) -> MemoryState | None:
    """Return what the record has to say about this node's memory; None if it has nothing to say.

    That is the case in the first lineage while all memory is as booted, which is what other nodes assume. A
    later lineage reports even that, because memory that was off-line before the restart is on-line again.
    """
    if node.memory_sequence == 1 << 32:
        return None
    state = memory_state(node.pgdat, node.nid in node.machine.populated)
    return state._replace(
        sequence=node.memory_sequence,
        min_free_kbytes=node.machine.sysctls.min_free_kbytes or 0,
        followed=node.record_version,
    )
