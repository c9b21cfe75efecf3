"""``numactl -H`` (``hardware`` and ``print_distances`` in numactl 2.0.16)."""

from __future__ import annotations

from numa_service.mm.mmzone import PAGE_SHIFT
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.names import has_numa
from numa_service.procfs.node import number_list


def numactl(snapshot: MachineSnapshot) -> str:
    """Nodes with their CPUs, size and free memory in MiB ("MB" there), and the distance table."""
    if not has_numa(snapshot):
        return "No NUMA available on this system\n"
    nids = [node.nid for node in snapshot.nodes]
    lines = [f"available: {len(nids)} nodes ({number_list(nids)})"]
    for node in snapshot.nodes:
        lines.append(f"node {node.nid} cpus:" + "".join(f" {cpu}" for cpu in sorted(node.cpus)))
        lines.append(f"node {node.nid} size: {_mb(sum(zone.managed for zone in node.zones))} MB")
        lines.append(f"node {node.nid} free: {_mb(sum(zone.free for zone in node.zones))} MB")
    lines.append("node distances:")
    lines.append("node " + "".join(_cell(nid) for nid in nids))
    for nid, row in zip(nids, snapshot.distances, strict=True):
        lines.append(f"{_field(nid)}: " + "".join(_cell(distance) for distance in row))
    return "".join(f"{line}\n" for line in lines)


def _mb(pages: int) -> int:
    return pages << PAGE_SHIFT >> 20


def _field(number: int) -> str:
    """C's ``% 3d``: at least three wide, and always a blank where the sign would be."""
    return f"{number: 3d}"


def _cell(number: int) -> str:
    return f"{_field(number)} "
