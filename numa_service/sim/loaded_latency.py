"""Loaded latency, measured as MLC does: traffic at a rising rate, and what an access takes meanwhile.

Every point is made of TouchRegion requests like those of a client. Nothing here knows the curve.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from numa_service.machine.spec import MachineSpec
from numa_service.mm.page_alloc import LRU_KIND_ANON
from numa_service.node import ops
from numa_service.node.load import bytes_of
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.page_alloc import MAX_COUNT
from numa_service.node.region import map_region, touch_region
from numa_service.sim.simulation import Simulation

#: Offered load in percent of the bandwidth.
RATES = (5, 20, 40, 60, 75, 90, 100)
#: Windows until the load has settled, and windows measured after.
SETTLE_WINDOWS, MEASURED_WINDOWS = 60, 8
#: Requests in a window, all generators together: one more or less makes no difference to speak of.
REQUESTS_A_WINDOW = 32
_LEASE_NS = 1 << 62


@dataclass(frozen=True, slots=True)
class Path:
    """From CPUs of a node to a memory."""

    from_nid: int
    to_nid: int

    def __str__(self) -> str:
        return f"{self.from_nid} → {self.to_nid}"


@dataclass(frozen=True, slots=True)
class Idle:
    """What a path is like when nobody else is there."""

    path: Path
    read_ns: int
    write_ns: int
    #: The memory's, and the link's, MB/s; 0 is without limit.
    memory_mb_per_s: int
    link_mb_per_s: int
    memory_curve: str
    link_curve: str

    @property
    def mb_per_s(self) -> int:
        """The narrower of the two; 0 is without limit."""
        limits = [limit for limit in (self.memory_mb_per_s, self.link_mb_per_s) if limit]
        return min(limits, default=0)


@dataclass(frozen=True, slots=True)
class Point:
    """One offered rate."""

    path: Path
    offered_mb_per_s: float
    #: What went through.
    mb_per_s: float
    #: Mean time of an access, ns.
    latency_ns: float


def paths(spec: MachineSpec) -> list[Idle]:
    """Every path of a machine, from the nodes with CPUs."""
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
    """One path of each kind: those with the same numbers behave the same."""
    first: dict[tuple[object, ...], Idle] = {}
    for idle in paths(spec):
        local = idle.path.from_nid == idle.path.to_nid
        numbers = (local, idle.read_ns, idle.memory_mb_per_s, idle.link_mb_per_s, idle.memory_curve)
        first.setdefault((*numbers, idle.link_curve), idle)
    return list(first.values())


@dataclass(slots=True)
class _Generator:
    """A CPU that accesses its own region over and over."""

    nid: int
    cpu: int
    session: int
    region: int
    pages: int
    now_ns: float = 0.0


def sweep(spec: MachineSpec, path: Path, rates: tuple[int, ...] = RATES) -> Iterator[Point]:
    """Measured points of a path, from low to high rates. Every CPU of the path's node takes part.

    ValueError for a path without a limit.
    """
    bandwidth = next(idle.mb_per_s for idle in paths(spec) if idle.path == path)
    if not bandwidth:
        raise ValueError(f"{path} has no limit to come near to")
    for percent in rates:
        yield _measure(spec, path, bandwidth * percent / 100)


def _measure(spec: MachineSpec, path: Path, mb_per_s: float) -> Point:
    sim = Simulation(spec)
    window_ns = spec.latency.window_ns
    cpus = spec.own_cpus[path.from_nid]
    pages = max(1, round(mb_per_s * window_ns / 1000 / bytes_of(1) / REQUESTS_A_WINDOW))
    period_ns = bytes_of(pages) * len(cpus) * 1000 / mb_per_s
    generators = [
        _generator(sim, path, cpu, min(pages, MAX_COUNT), index * period_ns / len(cpus))
        for index, cpu in enumerate(cpus)
    ]
    for node in sim.nodes.values():
        node.apply(ops.Rest())
    _run(sim, generators, period_ns, SETTLE_WINDOWS * window_ns)
    start_ns = min(generator.now_ns for generator in generators)
    accesses, spent = _run(sim, generators, period_ns, start_ns + MEASURED_WINDOWS * window_ns)
    took_ns = min(generator.now_ns for generator in generators) - start_ns
    return Point(path, mb_per_s, bytes_of(accesses) * 1000 / took_ns, spent / accesses)


def _generator(sim: Simulation, path: Path, cpu: int, pages: int, first_ns: float) -> _Generator:
    """With a region at the path's end, all of it there."""
    home = sim.nodes[path.from_nid]
    session = home.apply(ops.OpenSession("loaded latency", _LEASE_NS, 0))
    policy = Policy(PolicyMode.BIND, (path.to_nid,))
    region = map_region(home, session, LRU_KIND_ANON, pages, policy)
    sim.call(home.nid, touch_region(home, session, region, 0, pages, False, cpu))
    return _Generator(home.nid, cpu, session, region, pages, first_ns)


def _run(sim: Simulation, generators: list[_Generator], period_ns: float, until_ns: float) -> tuple[int, int]:
    """Whoever is first makes the next request, until all have come to a time; accesses, and their time.

    A request begins a period after the one before, or when that is over if it takes longer.
    """
    accesses = spent = 0
    queue = [(generator.now_ns, index) for index, generator in enumerate(generators)]
    heapq.heapify(queue)
    while queue[0][0] < until_ns:
        now_ns, index = heapq.heappop(queue)
        one = generators[index]
        home = sim.nodes[one.nid]
        steps = touch_region(home, one.session, one.region, 0, one.pages, False, one.cpu)
        cost = sim.call(one.nid, steps).cost
        accesses += one.pages
        spent += cost.access_ns + cost.queueing_ns
        idle_ns = round(period_ns - cost.latency_ns)
        if idle_ns > 0:
            home.apply(ops.Spend(one.cpu, idle_ns))
        one.now_ns = now_ns + max(period_ns, cost.latency_ns)
        heapq.heappush(queue, (one.now_ns, index))
    return accesses, spent
