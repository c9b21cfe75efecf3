"""``nodeN/access0`` and ``access1``: a memory's best initiators and their numbers (drivers/base/node.c).

access0 is about every initiator, access1 about CPUs only. A machine without an HMAT has neither.
"""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.node import online_nodes

ATTRIBUTES = ("read_bandwidth", "read_latency", "write_bandwidth", "write_latency")


def _classes(snapshot: MachineSnapshot) -> Iterator[tuple[int, int]]:
    """(memory's node, class) of every directory."""
    for node in online_nodes(snapshot):
        yield from ((node.nid, access) for access in (0, 1) if (node.nid, access) in snapshot.access)


def attributes(snapshot: MachineSnapshot) -> Iterator[tuple[int, str, str]]:
    """(memory's node, class, attribute) of every file."""
    for nid, access in _classes(snapshot):
        yield from ((nid, str(access), name) for name in ATTRIBUTES)


def attribute(snapshot: MachineSnapshot, nid: int, access: str, name: str) -> str:
    """Latency in ns, bandwidth in MiB/s; 0 where the HMAT does not say."""
    seen = snapshot.access[nid, int(access)]
    values = {
        "read_bandwidth": seen.read_bandwidth,
        "read_latency": seen.read_latency_ns,
        "write_bandwidth": seen.write_bandwidth,
        "write_latency": seen.write_latency_ns,
    }
    return f"{values[name]}\n"


def initiators(snapshot: MachineSnapshot) -> Iterator[tuple[int, str, int]]:
    """(memory's node, class, initiator) of every link."""
    for nid, access in _classes(snapshot):
        yield from ((nid, str(access), of) for of in snapshot.access[nid, access].initiators)


def targets(snapshot: MachineSnapshot) -> Iterator[tuple[int, str, int]]:
    """(initiator, class, memory's node) of the links the other way."""
    yield from ((of, access, nid) for nid, access, of in initiators(snapshot))
