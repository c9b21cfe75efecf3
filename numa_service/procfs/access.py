"""``nodeN/access0`` and ``access1``: a memory's best initiators, their latencies and bandwidths.

access0 counts all initiators, access1 only CPUs (drivers/base/node.c). A machine without an HMAT has neither.
"""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.node import online_nodes

ATTRIBUTES = ("read_bandwidth", "read_latency", "write_bandwidth", "write_latency")


_CLASSES = (0, 1)


def classes(snapshot: MachineSnapshot, nid: int) -> Iterator[int]:
    """The access classes of a node's memory."""
    return (access for access in _CLASSES if (nid, access) in snapshot.access)


def classes_from(snapshot: MachineSnapshot, nid: int) -> Iterator[int]:
    """The access classes in which a node is an initiator."""
    return (access for access in _CLASSES if next(targets(snapshot, nid, access), None) is not None)


def attribute(snapshot: MachineSnapshot, nid: int, access: int, name: str) -> str:
    """The text of one file: a latency in ns or a bandwidth in MiB/s; 0 if the HMAT has no value."""
    seen = snapshot.access[nid, access]
    values = {
        "read_bandwidth": seen.read_bandwidth,
        "read_latency": seen.read_latency_ns,
        "write_bandwidth": seen.write_bandwidth,
        "write_latency": seen.write_latency_ns,
    }
    return f"{values[name]}\n"


def initiators(snapshot: MachineSnapshot, nid: int, access: int) -> tuple[int, ...]:
    """The best initiators for a node's memory, each of which has a link in ``initiators``."""
    return snapshot.access[nid, access].initiators


def targets(snapshot: MachineSnapshot, nid: int, access: int) -> Iterator[int]:
    """The nodes for whose memory a node is a best initiator: each has a link in ``targets``."""
    for memory in (node.nid for node in online_nodes(snapshot)):
        if (memory, access) in snapshot.access and nid in snapshot.access[memory, access].initiators:
            yield memory
