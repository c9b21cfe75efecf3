"""``nodeN/access0`` and ``access1``: a memory's best initiators and their numbers (drivers/base/node.c).

access1 is about CPUs only, access0 about every initiator: the same here, as the model has no other.
"""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.node import online_nodes

CLASSES = ("0", "1")
ATTRIBUTES = ("read_bandwidth", "read_latency", "write_bandwidth", "write_latency")


def _targets(snapshot: MachineSnapshot) -> list[int]:
    return [node.nid for node in online_nodes(snapshot) if node.nid in snapshot.access]


def attributes(snapshot: MachineSnapshot) -> Iterator[tuple[int, str, str]]:
    """(memory's node, class, attribute) of every file."""
    for nid in _targets(snapshot):
        limited = snapshot.access[nid].bandwidth is not None
        for access in CLASSES:
            yield from ((nid, access, name) for name in ATTRIBUTES if limited or "latency" in name)


def attribute(snapshot: MachineSnapshot, nid: int, access: str, name: str) -> str:
    """Latency in ns, bandwidth in MiB/s."""
    seen = snapshot.access[nid]
    values = {"read_latency": seen.read_latency_ns, "write_latency": seen.write_latency_ns}
    return f"{values.get(name, seen.bandwidth)}\n"


def initiators(snapshot: MachineSnapshot) -> Iterator[tuple[int, str, int]]:
    """(memory's node, class, initiator) of every link."""
    for nid in _targets(snapshot):
        for access in CLASSES:
            yield from ((nid, access, of) for of in snapshot.access[nid].initiators)


def targets(snapshot: MachineSnapshot) -> Iterator[tuple[int, str, int]]:
    """(initiator, class, memory's node) of the links the other way."""
    yield from ((of, access, nid) for nid, access, of in initiators(snapshot))
