"""``nodeN/access0`` and ``access1``: a memory's best initiators, their latencies and bandwidths.

access0 counts all initiators, access1 only CPUs (drivers/base/node.c). A machine without an HMAT has neither.
"""

from __future__ import annotations

from collections.abc import Iterator

from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.node import online_nodes

ATTRIBUTES = ("read_bandwidth", "read_latency", "write_bandwidth", "write_latency")


def _classes(snapshot: MachineSnapshot) -> Iterator[tuple[int, int]]:
    """(memory's node, access class) of every directory."""
    for node in online_nodes(snapshot):
        yield from ((node.nid, access) for access in (0, 1) if (node.nid, access) in snapshot.access)


def attributes(snapshot: MachineSnapshot) -> Iterator[tuple[int, str, str]]:
    """(memory's node, access class, attribute) of every file."""
    for nid, access in _classes(snapshot):
        yield from ((nid, str(access), name) for name in ATTRIBUTES)


def attribute(snapshot: MachineSnapshot, nid: int, access: str, name: str) -> str:
    """The text of one file: a latency in ns or a bandwidth in MiB/s; 0 if the HMAT has no value."""
    seen = snapshot.access[nid, int(access)]
    values = {
        "read_bandwidth": seen.read_bandwidth,
        "read_latency": seen.read_latency_ns,
        "write_bandwidth": seen.write_bandwidth,
        "write_latency": seen.write_latency_ns,
    }
    return f"{values[name]}\n"


def initiators(snapshot: MachineSnapshot) -> Iterator[tuple[int, str, int]]:
    """(memory's node, access class, initiator) of every link in ``initiators``."""
    for nid, access in _classes(snapshot):
        yield from ((nid, str(access), of) for of in snapshot.access[nid, access].initiators)


def targets(snapshot: MachineSnapshot) -> Iterator[tuple[int, str, int]]:
    """(initiator, access class, memory's node) of every link in ``targets``."""
    yield from ((of, access, nid) for nid, access, of in initiators(snapshot))
