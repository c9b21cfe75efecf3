"""Measures loaded latency like Intel MLC: traffic at rising rates, and the mean latency of an access at each.

The traffic consists of TouchRegion requests like a client's, so that the measured points are independent of
the latency curve that the model is given.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from numa_service.machine.spec import MachineSpec
from numa_service.mm.mmzone import PAGE_SIZE
from numa_service.mm.page_alloc import LRU_KIND_ANON
from numa_service.node import ops
from numa_service.node.cost import Cost
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.ops.alloc import MAX_COUNT
from numa_service.node.region import map_region, touch_region
from numa_service.sim.simulation import Simulation

#: Offered loads, in percent of the bandwidth.
RATES = (5, 20, 40, 60, 75, 90, 100)
#: Windows until the load has settled, and windows that are then measured.
SETTLE_WINDOWS, MEASURED_WINDOWS = 40, 8
#: Requests of all generators together in one window: enough that one more or less makes no difference.
REQUESTS_A_WINDOW = 32


@dataclass(frozen=True, slots=True)
class Path:
    """A path from the CPUs of a node to the memory of a node."""

    from_nid: int
    to_nid: int

    def __str__(self) -> str:
        return f"{self.from_nid} → {self.to_nid}"


@dataclass(frozen=True, slots=True)
class Idle:
    """The idle latencies of a path, and its bandwidths and curves."""

    path: Path
    read_ns: int
    write_ns: int
    #: Bandwidth of the memory, and of the link, in MB/s; 0 = unlimited.
    memory_mb_per_s: int
    link_mb_per_s: int
    memory_curve: str
    link_curve: str

    @property
    def mb_per_s(self) -> int:
        """The smaller bandwidth of the two, in MB/s; 0 if both are unlimited."""
        limits = [limit for limit in (self.memory_mb_per_s, self.link_mb_per_s) if limit]
        return min(limits, default=0)


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one offered rate."""

    path: Path
    offered_mb_per_s: float
    #: The rate that was achieved.
    mb_per_s: float
    #: Mean latency of an access, ns.
    latency_ns: float


def paths(spec: MachineSpec) -> list[Idle]:
    """Return every path of a machine, from nodes with CPUs to nodes with memory."""
    model = spec.latency
    initiators = [node.nid for node in spec.nodes if spec.own_cpus[node.nid]]
    memories = [node.nid for node in spec.nodes if node.zones]
    return [
        Idle(
            Path(nid, to),
            model.read_latency_ns(nid, to, spec.distance(nid, to)),
            model.write_latency_ns(nid, to, spec.distance(nid, to)),
            model.memory_bandwidth(to),
            model.link_bandwidth(nid, to),
            model.memory_curve_name(to),
            model.link_curve_name(nid, to),
        )
        for nid in initiators
        for to in memories
    ]


def kinds(spec: MachineSpec) -> list[Idle]:
    """Return one path of each kind: paths with equal latencies, bandwidths and curves behave alike."""
    first: dict[tuple[object, ...], Idle] = {}
    for idle in paths(spec):
        local = idle.path.from_nid == idle.path.to_nid
        numbers = (local, idle.read_ns, idle.memory_mb_per_s, idle.link_mb_per_s, idle.memory_curve)
        first.setdefault((*numbers, idle.link_curve), idle)
    return list(first.values())


@dataclass(slots=True)
class _Generator:
    """A CPU that accesses its own region again and again."""

    cpu: int
    region: int
    now_ns: float = 0.0


def sweep(spec: MachineSpec, path: Path, rates: tuple[int, ...] = RATES) -> Iterator[Point]:
    """Measure a path at rates in percent of its bandwidth; yield a point for each.

    Every CPU of the path's node makes an equal share of the traffic. ValueError for a path whose bandwidth is
    unlimited.
    """
    bandwidth = next(idle.mb_per_s for idle in paths(spec) if idle.path == path)
    if not bandwidth:
        raise ValueError(f"{path} has no limit to come near to")
    traffic = _Traffic(spec, path, [bandwidth * percent / 100 for percent in rates])
    for mb_per_s in traffic.rates:
        yield traffic.measure(mb_per_s)


class _Traffic:
    """A machine in which only the CPUs of one node are busy, accessing one memory."""

    def __init__(self, spec: MachineSpec, path: Path, rates: list[float]) -> None:
        self.rates = rates
        self._path = path
        self._window_ns = spec.latency.window_ns
        self._sim = Simulation(spec)
        self._home = self._sim.nodes[path.from_nid]
        self._session = self._home.apply(ops.OpenSession("loaded latency", ops.FOREVER_NS, 0))
        self._generators = [
            _Generator(cpu, self._region(cpu, max(map(self._pages, rates))))
            for cpu in spec.own_cpus[path.from_nid]
        ]
        for node in self._sim.nodes.values():
            node.apply(ops.Rest())

    def _pages(self, mb_per_s: float) -> int:
        """Return the pages that one request accesses at a rate."""
        return min(
            MAX_COUNT, max(1, round(mb_per_s * self._window_ns / 1000 / PAGE_SIZE / REQUESTS_A_WINDOW))
        )

    def _region(self, cpu: int, pages: int) -> int:
        """Map a region on the memory's node and fault all of it in; return its id."""
        policy = Policy(PolicyMode.BIND, (self._path.to_nid,))
        region = map_region(self._home, self._session, LRU_KIND_ANON, pages, policy)
        self._touch(cpu, region, pages)
        return region

    def _touch(self, cpu: int, region: int, pages: int) -> Cost:
        steps = touch_region(self._home, self._session, region, 0, pages, False, cpu)
        return self._sim.call(self._home.nid, steps).cost

    def measure(self, mb_per_s: float) -> Point:
        """Offer a rate until the load has settled, then measure."""
        pages = self._pages(mb_per_s)
        period_ns = pages * PAGE_SIZE * len(self._generators) * 1000 / mb_per_s
        for index, generator in enumerate(self._generators):
            generator.now_ns = index * period_ns / len(self._generators)
        self._run(pages, period_ns, SETTLE_WINDOWS * self._window_ns)
        start_ns = min(generator.now_ns for generator in self._generators)
        accesses, spent = self._run(pages, period_ns, start_ns + MEASURED_WINDOWS * self._window_ns)
        took_ns = min(generator.now_ns for generator in self._generators) - start_ns
        return Point(self._path, mb_per_s, accesses * PAGE_SIZE * 1000 / took_ns, spent / accesses)

    def _run(self, pages: int, period_ns: float, until_ns: float) -> tuple[int, int]:
        """Make requests until the clocks of all generators have reached a time.

        The generator whose clock is furthest behind makes the next request. A generator begins a request one
        period after its previous one, or when that is over if it takes longer than a period. Returns the
        number of accesses and their total time in ns.
        """
        accesses = spent = 0
        queue = [(generator.now_ns, index) for index, generator in enumerate(self._generators)]
        heapq.heapify(queue)
        while queue[0][0] < until_ns:
            now_ns, index = heapq.heappop(queue)
            generator = self._generators[index]
            cost = self._touch(generator.cpu, generator.region, pages)
            accesses += pages
            spent += cost.access_ns + cost.queueing_ns
            idle_ns = round(period_ns - cost.latency_ns)
            if idle_ns > 0:
                self._home.apply(ops.Spend(generator.cpu, idle_ns))
            generator.now_ns = now_ns + max(period_ns, cost.latency_ns)
            heapq.heappush(queue, (generator.now_ns, index))
        return accesses, spent
