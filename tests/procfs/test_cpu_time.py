"""/proc/stat and /proc/uptime: busy and idle times of CPUs, and the time since boot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from procfs.machines import machine, node

from numa_service.cli.fill import Fill, fill
from numa_service.machine.presets import load_preset
from numa_service.machine.snapshot import IdleClock, NodePart
from numa_service.machine.spec import MachineSpec
from numa_service.mm.snapshot import MachineSnapshot, Uptime
from numa_service.node.struct_views import cpu_time
from numa_service.procfs import tree
from numa_service.sim.simulation import Simulation

SECOND = 10**9


def two_nodes(*busy: dict[int, int]) -> MachineSnapshot:
    cpus = ((0, 1), (2,))
    nodes = [node(nid, "x86_64", {"Normal": 1000}, cpus=cpus[nid]) for nid in (0, 1)]
    return machine(*(replace(n, cpu_ns=ns) for n, ns in zip(nodes, busy, strict=True)))


def test_stat() -> None:
    """Work is system time; the kswapd of one node may have run on a CPU of another."""
    given = replace(
        two_nodes({0: 2 * SECOND}, {0: SECOND, 2: 10_000_000}),
        uptime=Uptime(1_700_000_000, 10 * SECOND, {0: 7 * SECOND, 1: 10 * SECOND, 2: 9 * SECOND}),
    )
    assert tree.read(given, "/proc/stat").splitlines() == [
        "cpu  0 0 301 2600 0 0 0 0 0 0",
        "cpu0 0 0 300 700 0 0 0 0 0 0",
        "cpu1 0 0 0 1000 0 0 0 0 0 0",
        "cpu2 0 0 1 900 0 0 0 0 0 0",
        "intr 0",
        "ctxt 0",
        "btime 1700000000",
        "processes 0",
        "procs_running 1",
        "procs_blocked 0",
        "softirq 0 0 0 0 0 0 0 0 0 0 0",
    ]
    assert tree.read(given, "/proc/uptime") == "10.00 26.00\n"


def test_no_cpu_was_never_there() -> None:
    rows = tree.read(two_nodes({}, {}), "/proc/stat").splitlines()[:4]
    assert [sum(map(int, row.split()[1:])) for row in rows] == [3, 1, 1, 1]


def parts(spec: MachineSpec, busy_ns: int, booted: float = 1000.0) -> list[NodePart]:
    simulation = Simulation(spec)
    return [
        n.machine.node_part(nid, {spec.cpus[0]: busy_ns} if nid == 0 else {}, booted + nid)
        for nid, n in simulation.nodes.items()
    ]


def test_idle_is_the_rest_of_the_time_and_never_falls() -> None:
    spec, clock = load_preset("demo"), IdleClock()
    first, other, *_ = spec.cpus
    seen = []
    for busy_ns, now in (
        (0, 1000.0),
        (SECOND, 1010.0),
        (21 * SECOND, 1012.0),  # the CPU worked longer than wall time has passed
        (SECOND, 1013.0),  # its node was restarted, and has worked again
        (SECOND, 1016.0),
    ):
        uptime = clock.read(spec, parts(spec, busy_ns), now)
        assert (uptime.btime, uptime.ns) == (1000, (now - 1000) * SECOND)
        assert uptime.idle_ns[other] == uptime.ns
        seen.append(uptime.idle_ns[first] // SECOND)
    assert seen == [0, 9, 9, 9, 12]
    again = clock.read(spec, parts(spec, 0, booted=2000.0), 2003.0)
    assert (again.btime, again.idle_ns[first]) == (2000, 3 * SECOND)


@pytest.mark.parametrize(("preset", "nid", "on"), [("demo", 0, 0), ("cxl-tier", 2, 0)])
def test_kswapd_works_on_a_cpu(preset: str, nid: int, on: int) -> None:
    """A kswapd runs on the CPUs of its node, or of the nearest node that has some."""
    spec = load_preset(preset)
    simulation = Simulation(spec)
    for _ in range(2):
        fill(simulation, Fill.parse(f"{nid}=100%:file", spec))
    waker = simulation.nodes[nid]
    assert waker.kswapd.reclaimed > 0
    kswapd_ns = waker.kswapd.cost.latency_ns
    assert kswapd_ns >= waker.kswapd.reclaimed * spec.latency.reclaim_page_ns
    busy = cpu_time(waker)
    assert busy[on] - waker.load.cpu_ns.get(on, 0) == kswapd_ns
