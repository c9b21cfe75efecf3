"""``/sys/devices/system/node`` (drivers/base/node.c), which libnuma, numastat and lstopo read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from numa_service.machine.notation import format_cpulist
from numa_service.machine.zonelists import has_numa
from numa_service.mm.snapshot import MachineSnapshot, NodeSnapshot
from numa_service.procfs.counters import node_page_state, sum_zone_node_page_state
from numa_service.procfs.meminfo import kb, nodes_kb, row
from numa_service.procfs.names import NODE_NUMASTAT, kernel_names, numa_stat_names, printed_by


def bitmap(numbers: Iterable[int], nr_bits: int) -> str:
    """Numbers in the kernel's bitmap format (``%*pb``): hexadecimal words of 32 bits, the highest first."""
    bits = sum(1 << number for number in set(numbers))
    words: list[str] = []
    for word in range((nr_bits - 1) // 32, -1, -1):
        width = min(nr_bits - 32 * word, 32)
        words.append(f"{bits >> 32 * word & 0xFFFFFFFF:0{-(-width // 4)}x}")
    return ",".join(words)


def online_nodes(snapshot: MachineSnapshot) -> list[NodeSnapshot]:
    """The on-line nodes, each of which has a directory; none without CONFIG_NUMA."""
    return [node for node in snapshot.nodes if node.online] if has_numa(snapshot) else []


def _nodes(snapshot: MachineSnapshot, having: Callable[[NodeSnapshot], bool]) -> str:
    return f"{format_cpulist(node.nid for node in online_nodes(snapshot) if having(node))}\n"


def online(snapshot: MachineSnapshot) -> str:
    """The file ``online``: the nodes that are on-line."""
    return _nodes(snapshot, lambda node: True)


def possible(snapshot: MachineSnapshot) -> str:
    """The file ``possible``: all nodes of the machine's description, and the numbers that others may get."""
    return f"{format_cpulist({*(node.nid for node in snapshot.nodes), *snapshot.possible_nodes})}\n"


def has_cpu(snapshot: MachineSnapshot) -> str:
    """The file ``has_cpu``: nodes with CPUs."""
    return _nodes(snapshot, lambda node: bool(node.cpus))


def has_memory(snapshot: MachineSnapshot) -> str:
    """The file ``has_memory``: nodes with memory of any kind."""
    return _nodes(snapshot, lambda node: any(zone.populated for zone in node.zones))


def has_normal_memory(snapshot: MachineSnapshot) -> str:
    """The file ``has_normal_memory``: nodes with memory that the kernel can use for itself."""
    special = ("Movable", "HighMem", "Device")
    return _nodes(
        snapshot, lambda node: any(zone.populated and zone.name not in special for zone in node.zones)
    )


def has_generic_initiator(snapshot: MachineSnapshot) -> str:
    """The file ``has_generic_initiator``: nodes with an initiator that is no CPU."""
    return _nodes(snapshot, lambda node: node.nid in snapshot.generic_initiators)


def cpulist(snapshot: MachineSnapshot, node: NodeSnapshot) -> str:
    """CPUs of the node as a list."""
    return f"{format_cpulist(node.cpus)}\n"


def cpumap(snapshot: MachineSnapshot, node: NodeSnapshot) -> str:
    """CPUs of the node as a bitmap, as wide as the machine has CPU numbers (nr_cpu_ids)."""
    nr_cpu_ids = max((cpu for n in snapshot.nodes for cpu in n.cpus), default=0) + 1
    return f"{bitmap(node.cpus, nr_cpu_ids)}\n"


def distance(snapshot: MachineSnapshot, node: NodeSnapshot) -> str:
    """SLIT distances from the node to every node that is on-line."""
    row = zip(snapshot.nodes, snapshot.distances[snapshot.nodes.index(node)], strict=True)
    return f"{' '.join(str(value) for other, value in row if other.online)}\n"


def numastat(snapshot: MachineSnapshot, node: NodeSnapshot) -> str:
    """The node's NUMA events, which count allocations."""
    return "".join(f"{name} {node.numastat.get(name, 0)}\n" for name in NODE_NUMASTAT)


def vmstat(snapshot: MachineSnapshot, node: NodeSnapshot) -> str:
    """The node's vmstat: zone counters and NUMA events, summed over its zones, and node counters."""
    names = kernel_names(snapshot)
    rows = [
        (name, sum_zone_node_page_state(node, name))
        for name in (*names.zone_stat, *numa_stat_names(snapshot))
    ]
    rows += [(name, node_page_state(node, name)) for name in names.node_stat]
    return "".join(f"{name} {value}\n" for name, value in rows)


def meminfo(snapshot: MachineSnapshot, node: NodeSnapshot) -> str:
    """The node's memory in kB (``node_read_meminfo``)."""
    values = nodes_kb([node])
    values["MemUsed"] = values["MemTotal"] - values["MemFree"]
    values["FilePages"] = kb(node_page_state(node, "nr_file_pages"))
    # counts of huge pages are five columns wide in all kernels
    short = printed_by(snapshot.profile).node_meminfo_short
    pool = node.hugetlb.get(snapshot.default_hugepage_kb)
    huge = {"Total": pool.nr, "Free": pool.free, "Surp": pool.surplus} if pool else {}
    lines: list[str] = []
    for name in kernel_names(snapshot).node_meminfo:
        if name.startswith("HugePages_"):
            lines.append(f"{name + ':':<17}{huge.get(name.removeprefix('HugePages_'), 0):>5}")
        else:
            lines.append(row(name, values.get(name, 0), column=15 if name in short else 16))
    return "".join(f"Node {node.nid} {line}\n" for line in lines)
