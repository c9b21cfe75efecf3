"""Ops that only count: virtual time of CPUs, events of requests, and the vmstat tick."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.vmstat import ALLOCSTALL, PGFAULT, PGMAJFAULT, PGPGIN
from numa_service.node.errors import InvalidRequest
from numa_service.node.ops.fields import MAX_INT64, check_below, check_nid
from numa_service.node.ops.op import Op
from numa_service.node.state import NodeState


@dataclass(slots=True)
class Spend(Op[None]):
    """Advances a CPU's virtual clock: by the time of a request, or by idle time between two requests.

    Later requests find the load that this makes (``node/load.py``).
    """

    tag = "spend"

    cpu: int
    ns: int
    #: (nid of the memory, bytes moved)
    traffic: tuple[tuple[int, int], ...] = ()

    def apply(self, node: NodeState) -> None:
        """Advance the clock and account for the traffic."""
        node.load.spend(self.cpu, self.ns, self.traffic)

    def check(self, node: NodeState) -> None:
        """Check that the CPU is this node's, that the nodes exist, and that the numbers fit 64 bits."""
        if self.cpu not in node.pgdat.cpus:
            raise InvalidRequest("cpu", f"{self.cpu} is not a CPU of node {node.nid}")
        check_below("ns", self.ns, MAX_INT64)
        for nid, nr_bytes in self.traffic:
            check_nid(node, "traffic", nid)
            check_below("traffic", nr_bytes, MAX_INT64)

    def text(self, node: NodeState, result: None) -> str:
        """Return "": the op only accounts for time."""
        return ""


@dataclass(frozen=True, slots=True)
class Rest(Op[None]):
    """Removes all load of this node, as after a long time without traffic from its CPUs or to its memory."""

    tag = "rest"

    def apply(self, node: NodeState) -> None:
        """Forget the load."""
        node.load.rest()

    def check(self, node: NodeState) -> None:
        """Accept: the op has no fields."""

    def text(self, node: NodeState, result: None) -> str:
        """Return "": the op only accounts for time."""
        return ""


@dataclass(frozen=True, slots=True)
class CountEvents(Op[None]):
    """Counts the faults and stalls of a request in the counters of /proc/vmstat."""

    tag = "count_events"

    faults: int = 0
    major_faults: int = 0
    pages_in: int = 0
    stalls: int = 0

    def apply(self, node: NodeState) -> None:
        """Add to the counters; pgpgin counts kB, the others count events."""
        event = node.pgdat.pg.vm_event
        event[PGFAULT] += self.faults
        event[PGMAJFAULT] += self.major_faults
        event[PGPGIN] += 4 * self.pages_in
        event[ALLOCSTALL] += self.stalls

    def check(self, node: NodeState) -> None:
        """Check that the numbers are below 2^32."""
        for name in ("faults", "major_faults", "pages_in", "stalls"):
            check_below(name, getattr(self, name), 1 << 32)

    def text(self, node: NodeState, result: None) -> str:
        """Return the counters that change, by name."""
        counts = {
            "pgfault": self.faults,
            "pgmajfault": self.major_faults,
            "pgpgin": 4 * self.pages_in,
            "allocstall": self.stalls,
        }
        return "count " + " ".join(f"{name}={count}" for name, count in counts.items() if count)


@dataclass(frozen=True, slots=True)
class VmstatTick(Op[int]):
    """vmstat_update() for every CPU: folds per-CPU counters and drains idle pagesets.

    A grace period is over by then for slabs of SLAB_TYPESAFE_BY_RCU caches.

    The result is the number of pages that left the pagesets.
    """

    tag = "vmstat_tick"

    def apply(self, node: NodeState) -> int:
        """Update for every CPU of the machine, as each has pagesets on this node."""
        node.kmem.rcu_callbacks()
        return node.pgdat.tick()

    def check(self, node: NodeState) -> None:
        """Accept: the op has no fields."""

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"vmstat_update drained={result}"
