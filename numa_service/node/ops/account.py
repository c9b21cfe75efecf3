"""What is only counted: virtual time of CPUs, events of requests, the vmstat tick."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.vmstat import ALLOCSTALL, PGFAULT, PGMAJFAULT, PGPGIN
from numa_service.node.errors import InvalidRequest
from numa_service.node.ops.fields import MAX_INT64, check_below, check_nid
from numa_service.node.ops.op import Op
from numa_service.node.state import NodeState


@dataclass(slots=True)
class Spend(Op[None]):
    """A CPU has spent virtual time: on a request, or idle between two.

    Makes the load that later requests meet (``node/load.py``).
    """

    tag = "spend"

    cpu: int
    ns: int
    #: (node of the memory, bytes)
    traffic: tuple[tuple[int, int], ...] = ()

    def apply(self, node: NodeState) -> None:
        """Advance its clock."""
        node.load.spend(self.cpu, self.ns, self.traffic)

    def check(self, node: NodeState) -> None:
        """Of a CPU of this node, and amounts that fit 64 bits."""
        if self.cpu not in node.pgdat.cpus:
            raise InvalidRequest("cpu", f"{self.cpu} is not a CPU of node {node.nid}")
        check_below("ns", self.ns, MAX_INT64)
        for nid, nr_bytes in self.traffic:
            check_nid(node, "traffic", nid)
            check_below("traffic", nr_bytes, MAX_INT64)

    def text(self, node: NodeState, result: None) -> str:
        """Nothing."""
        return ""


@dataclass(frozen=True, slots=True)
class Rest(Op[None]):
    """No CPU of this node does anything, and nobody uses its memory, for so long that all load is gone."""

    tag = "rest"

    def apply(self, node: NodeState) -> None:
        """Begin anew without load."""
        node.load.rest()

    def check(self, node: NodeState) -> None:
        """It says nothing."""

    def text(self, node: NodeState, result: None) -> str:
        """Nothing."""
        return ""


@dataclass(frozen=True, slots=True)
class CountEvents(Op[None]):
    """Faults and stalls of a request, in /proc/vmstat's counters."""

    tag = "count_events"

    faults: int = 0
    major_faults: int = 0
    pages_in: int = 0
    stalls: int = 0

    def apply(self, node: NodeState) -> None:
        """Add them; pages that were read count in kB."""
        event = node.pgdat.pg.vm_event
        event[PGFAULT] += self.faults
        event[PGMAJFAULT] += self.major_faults
        event[PGPGIN] += 4 * self.pages_in
        event[ALLOCSTALL] += self.stalls

    def check(self, node: NodeState) -> None:
        """Of numbers that one request can have."""
        for name in ("faults", "major_faults", "pages_in", "stalls"):
            check_below(name, getattr(self, name), 1 << 32)

    def text(self, node: NodeState, result: None) -> str:
        """What there was of each."""
        counts = {
            "pgfault": self.faults,
            "pgmajfault": self.major_faults,
            "pgpgin": 4 * self.pages_in,
            "allocstall": self.stalls,
        }
        return "count " + " ".join(f"{name}={count}" for name, count in counts.items() if count)


@dataclass(frozen=True, slots=True)
class VmstatTick(Op[int]):
    """vmstat_update() on every CPU: counters folded, idle pagesets drained; pages that left the pagesets."""

    tag = "vmstat_tick"

    def apply(self, node: NodeState) -> int:
        """For every CPU of the machine: each has pagesets here."""
        return node.pgdat.tick()

    def check(self, node: NodeState) -> None:
        """It says nothing."""

    def text(self, node: NodeState, result: int) -> str:
        """One line."""
        return f"vmstat_update drained={result}"
