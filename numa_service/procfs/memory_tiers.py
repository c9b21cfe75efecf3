"""``/sys/devices/virtual/memory_tiering`` (mm/memory-tiers.c): nodes with memory by how slow it is.

A tier is a range of abstract distances; DRAM beside CPUs is in tier 4. Before kernels read an HMAT for it
(6.7), all memory is in it. The tier of its own that kmem gives to what it adds is not modelled.
"""

from __future__ import annotations

from collections.abc import Iterable

from numa_service.machine.notation import format_cpulist
from numa_service.mm.snapshot import AccessSnapshot, MachineSnapshot
from numa_service.procfs.names import printed_by

#: MEMTIER_CHUNK_BITS, and the abstract distance of DRAM: the middle of the fifth chunk.
_CHUNK_BITS = 7
_DRAM = (4 << _CHUNK_BITS) + (1 << _CHUNK_BITS - 1)
#: Access class of the nearest CPUs (ACCESS_COORDINATE_CPU).
_CPU = 1


def tiers(snapshot: MachineSnapshot) -> Iterable[tuple[int]]:
    """Numbers of the tiers that have nodes, ascending."""
    return ((tier,) for tier in sorted(set(_tiers(snapshot).values())))


def nodelist(snapshot: MachineSnapshot, tier: int) -> str:
    """The file ``nodelist`` of a tier."""
    return f"{format_cpulist(nid for nid, own in _tiers(snapshot).items() if own == tier)}\n"


def _tiers(snapshot: MachineSnapshot) -> dict[int, int]:
    """Tier by nid, of nodes that are on-line and have memory."""
    nodes = [node for node in snapshot.nodes if node.online and any(zone.populated for zone in node.zones)]
    dram: AccessSnapshot | None = None
    if printed_by(snapshot.profile).tiers_by_hmat:
        beside_cpus = (snapshot.access.get((node.nid, _CPU)) for node in nodes if node.cpus)
        dram = next((performance for performance in beside_cpus if performance is not None), None)
    found: dict[int, int] = {}
    for node in nodes:
        performance = snapshot.access.get((node.nid, _CPU))
        distance = _DRAM if dram is None or performance is None else _adistance(performance, dram)
        found[node.nid] = distance >> _CHUNK_BITS
    return found


def _adistance(performance: AccessSnapshot, dram: AccessSnapshot) -> int:
    """Abstract distance by latency and bandwidth (mt_perf_to_adistance); that of DRAM if one is unknown."""
    latency = performance.read_latency_ns + performance.write_latency_ns
    bandwidth = performance.read_bandwidth + performance.write_bandwidth
    dram_latency = dram.read_latency_ns + dram.write_latency_ns
    dram_bandwidth = dram.read_bandwidth + dram.write_bandwidth
    if not all((latency, bandwidth, dram_latency, dram_bandwidth)):
        return _DRAM
    return _DRAM * latency // dram_latency * dram_bandwidth // bandwidth
