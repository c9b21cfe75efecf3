"""The output of ``numactl -H`` (``hardware`` and ``print_distances`` in numactl 2.0.16)."""

from __future__ import annotations

from numa_service.machine.notation import format_cpulist
from numa_service.machine.zonelists import has_numa
from numa_service.mm.mmzone import PAGE_SHIFT
from numa_service.mm.snapshot import MachineSnapshot


def numactl(snapshot: MachineSnapshot) -> str:
    """Nodes with their CPUs, size and free memory in MiB (which numactl calls MB), and the distances."""
    if not has_numa(snapshot):
        return "No NUMA available on this system\n"
    nids = [node.nid for node in snapshot.nodes]
    lines = [f"available: {len(nids)} nodes ({format_cpulist(nids)})"]
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
    """A number as C's ``% 3d`` prints it: at least three wide, with a blank in the place of the sign."""
    return f"{number: 3d}"


def _cell(number: int) -> str:
    return f"{_field(number)} "
