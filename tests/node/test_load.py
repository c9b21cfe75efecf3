"""Load: windows of virtual time, the waits that follow from them, and that a log leads to the same load."""

from __future__ import annotations

import dataclasses

import pytest
from node.by_hand import ByHand

from numa_service.machine.latency import queueing_ns
from numa_service.machine.source import load
from numa_service.mm.gfp import parse_gfp
from numa_service.mm.page_alloc import LRU_KIND_ANON
from numa_service.node import ops
from numa_service.node.load import Load, Report, Window
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import Allocation, alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import Touched, map_region, touch_region
from numa_service.node.unserved import AllocFailed

SPEC = load("demo")
WINDOW_NS = SPEC.latency.window_ns
#: Bytes that node 0's memory can move in one window, at 18,000 MB/s.
FULL = 18 * WINDOW_NS


def bind(nid: int) -> Policy:
    return Policy(PolicyMode.BIND, (nid,))


class Client:
    """A session of a node that makes its requests on the node's first CPU."""

    def __init__(self, shell: ByHand, nid: int) -> None:
        self.shell = shell
        self.node = shell.nodes[nid]
        self.session = self.node.apply(ops.OpenSession("client", 10**15, 0))
        self.regions: dict[int, int] = {}

    def alloc(self, nid: int, count: int, gfp: str = "GFP_KERNEL") -> Allocation:
        cpu = self.node.pgdat.cpus[0]
        request = AllocRequest(self.session, parse_gfp(gfp), 0, count, cpu, bind(nid))
        return self.shell.call(self.node.nid, alloc_pages(self.node, request))

    def touch(self, nid: int, count: int, write: bool = False) -> Touched:
        if nid not in self.regions:
            self.regions[nid] = map_region(self.node, self.session, LRU_KIND_ANON, 4096, bind(nid))
        cpu = self.node.pgdat.cpus[0]
        steps = touch_region(self.node, self.session, self.regions[nid], 0, count, write, cpu)
        return self.shell.call(self.node.nid, steps)


# windows


def test_a_window_adds_up_what_cpus_do_at_the_same_time() -> None:
    window = Window(100)
    for _ in range(2):
        for cpu in (1, 2, 3):
            assert window.add(cpu, 50, [(7, 10)]) is None
    over = window.add(2, 50, [(7, 10)])
    assert over is not None
    assert (over.ns, over.bytes) == (100, {7: 60})
    assert window.clocks == {1: 0, 2: 50, 3: 0}
    assert window.bytes == {7: 10}


def test_requests_longer_than_the_window_are_still_at_the_same_time() -> None:
    window = Window(100)
    assert window.add(1, 5000, [(0, 500)]) is None
    assert window.add(2, 5000, [(0, 500)]) is None
    over = window.add(1, 5000, [(0, 500)])
    assert over is not None
    assert (over.ns, over.bytes) == (5000, {0: 1000})


def test_who_lags_catches_up_and_who_is_idle_does_not() -> None:
    window = Window(100)
    window.add(1, 100, [])
    window.add(2, 70, [])
    window.add(3, 10, [])
    assert window.add(1, 100, []) is not None
    assert window.clocks == {1: 100, 2: -30, 3: -90}
    assert window.add(1, 100, []) is not None
    assert window.clocks == {1: 100, 2: -100, 3: -100}
    assert window.add(1, 100, []) is not None
    assert window.clocks == {1: 100}, "two windows without a request: idle, not behind"


# waits


def test_an_idle_machine_has_idle_latencies() -> None:
    client = Client(ByHand(SPEC), 0)
    for nid, read_ns in ((0, 90), (1, 140), (2, 250)):
        cost = client.alloc(nid, 100).cost
        assert (cost.access_ns, cost.queueing_ns) == (100 * read_ns, 0)


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_a_steady_load_settles_on_the_curve(percent: int) -> None:
    load = Load(SPEC, 0)
    for _ in range(400):
        load.spend(0, WINDOW_NS // 4, ((0, FULL // 4 * percent // 100),))
    assert load.memory.utilisation == pytest.approx(percent / 100, rel=0.001)
    assert load.memory.waiting == pytest.approx(queueing_ns(load.memory.curve, percent / 100), rel=0.01)
    assert load.links == {}


def test_cpus_that_never_pause_get_the_bandwidth_and_no_more() -> None:
    """If the demand exceeds the bandwidth, accesses are slowed down until the traffic fits."""
    load, pages = Load(SPEC, 0), 64
    clocks = [0, 0]
    for _ in range(20_000):
        cpu = clocks.index(min(clocks))
        took = pages * (90 + load.memory.wait_ns)
        clocks[cpu] += took
        load.spend(cpu, took, ((0, pages * 4096),))
    assert load.memory.utilisation == pytest.approx(1, rel=0.02)
    # two CPUs share 18,000 MB/s: one access takes 2 × 4096 / 18 ns
    assert 90 + load.memory.wait_ns == pytest.approx(2 * 4096 / 18, rel=0.02)


def test_load_goes_when_its_cause_goes() -> None:
    load = Load(SPEC, 0)
    for _ in range(100):
        load.spend(0, WINDOW_NS, ((0, FULL),))
    assert load.memory.wait_ns > 150
    for _ in range(100):
        load.spend(0, WINDOW_NS, ())
    assert load.memory.wait_ns == 0
    for _ in range(100):
        load.spend(0, WINDOW_NS, ((0, FULL),))
    load.rest()
    assert load.memory.wait_ns == 0


def test_a_long_pause_counts_as_one() -> None:
    load = Load(SPEC, 0)
    for _ in range(100):
        load.spend(0, WINDOW_NS, ((0, FULL),))
    load.spend(0, 1000 * WINDOW_NS, ())
    for _ in range(4):
        load.spend(0, WINDOW_NS, ())
    assert load.memory.wait_ns < 10


def test_without_a_limit_nobody_waits() -> None:
    model = dataclasses.replace(SPEC.latency, memory_mb_per_s=dict.fromkeys(range(3), 0), link_mb_per_s={})
    load = Load(dataclasses.replace(SPEC, latency=model), 0)
    for _ in range(50):
        load.spend(0, WINDOW_NS, ((0, 100 * FULL),))
    assert load.memory.wait_ns == 0
    assert load.traffic == {0: 50 * 100 * FULL}


# reports between nodes


def test_reports_are_totals_so_that_one_too_many_or_too_few_does_no_harm() -> None:
    memory = Load(SPEC, 2)
    half = 3 * WINDOW_NS  # of 6,000 MB/s
    for window in range(1, 200):
        report = Report(0, window * WINDOW_NS, window * half)
        if window % 3:
            memory.hear(report)
            memory.hear(report)
    assert memory.memory.utilisation == pytest.approx(0.5, rel=0.01)
    memory.hear(Report(0, WINDOW_NS, half))  # it has been restarted
    memory.hear(Report(0, 2 * WINDOW_NS, 2 * half))
    assert memory.memory.utilisation == pytest.approx(0.5, rel=0.01)


def test_a_node_that_was_silent_for_long_does_not_outweigh_the_others() -> None:
    memory = Load(SPEC, 2)
    for window in range(1, 200):
        memory.hear(Report(0, window * WINDOW_NS, window * 3 * WINDOW_NS))
    memory.hear(Report(1, 10**6 * WINDOW_NS, 4096))
    for window in range(200, 204):
        memory.hear(Report(0, window * WINDOW_NS, window * 3 * WINDOW_NS))
    assert memory.memory.utilisation == pytest.approx(0.5, rel=0.1)


def test_two_nodes_load_the_memory_of_a_third_and_each_feels_the_other() -> None:
    alone, both = ByHand(SPEC), ByHand(SPEC)
    lonely, first, second = Client(alone, 0), Client(both, 0), Client(both, 1)
    for _ in range(200):
        lonely.touch(2, 64)
        first.touch(2, 64)
        second.touch(2, 64)
    by_itself, shared = lonely.touch(2, 64).cost, first.touch(2, 64).cost
    assert by_itself.access_ns == shared.access_ns == 64 * 250
    assert 0 < by_itself.queueing_ns < shared.queueing_ns
    assert both.nodes[2].load.memory.utilisation == pytest.approx(1, rel=0.1)
    # node 0 reaches its card without a link, node 1 over the link between the sockets
    assert first.node.load.link(2).wait_ns == 0
    assert second.node.load.link(2).utilisation > 0.1


def test_a_link_is_loaded_in_its_own_direction() -> None:
    shell = ByHand(SPEC)
    client, other = Client(shell, 0), Client(shell, 1)
    for _ in range(200):
        client.touch(1, 64)
    assert client.node.load.link(1).utilisation > 0.9
    assert client.node.load.link(1).wait_ns > shell.nodes[1].load.memory.wait_ns
    assert other.node.load.link(0).utilisation == 0
    # node 0's accesses keep its memory busy
    assert other.alloc(1, 10).cost.queueing_ns == 10 * shell.nodes[1].load.memory.wait_ns > 0


def test_clearing_waits_as_well_and_moves_the_pages_again() -> None:
    shell = ByHand(SPEC)
    client = Client(shell, 0)
    client.alloc(0, 100)
    before = client.node.load.traffic[0]
    cost = client.alloc(0, 100, "GFP_KERNEL|__GFP_ZERO").cost
    assert client.node.load.traffic[0] - before == 2 * 100 * 4096
    assert (cost.queueing_ns, cost.zeroing_ns) == (0, 100 * 400)
    for _ in range(300):
        client.touch(0, 64)
    wait_ns = client.node.load.memory.wait_ns
    assert wait_ns > 0
    assert client.alloc(0, 100, "GFP_KERNEL|__GFP_ZERO").cost.queueing_ns == 2 * 100 * wait_ns


def test_writes_have_a_latency_of_their_own() -> None:
    model = dataclasses.replace(SPEC.latency, write_ns={(0, 2): 180})
    client = Client(ByHand(dataclasses.replace(SPEC, latency=model)), 0)
    client.touch(2, 10)
    assert client.touch(2, 10).cost.access_ns == 10 * 250
    assert client.touch(2, 10, write=True).cost.access_ns == 10 * 180


def test_a_failed_request_has_taken_its_time() -> None:
    shell = ByHand(SPEC)
    client = Client(shell, 0)
    seen: list[ops.Spend] = []
    client.node.observer = lambda _, op, __: seen.append(op) if isinstance(op, ops.Spend) else None
    with pytest.raises(AllocFailed):
        client.alloc(0, 65_536, "GFP_NOWAIT")
    (spent,) = seen
    assert spent.ns > 0


def test_the_log_leads_to_the_same_load() -> None:
    shell = ByHand(SPEC)
    clients = Client(shell, 0), Client(shell, 1)
    for _ in range(60):
        for client in clients:
            client.touch(2, 64)
            client.touch(0, 32)
    for nid, node in shell.nodes.items():
        again = Node.replay(SPEC, nid, list(node.log))
        assert again.load.state == node.load.state
        assert again.load.memory.wait_ns == node.load.memory.wait_ns
    loaded = shell.nodes[2]
    assert loaded.load.memory.wait_ns > 0
    before = loaded.digest()
    loaded.apply(ops.Rest())
    assert loaded.digest() != before, "load is state"


# working time of CPUs


def test_cpus_have_worked_what_they_spent() -> None:
    """Windows that end, CPUs that lag and rest() do not change how long each CPU has worked."""
    load, spent = Load(SPEC, 0), {0: 0, 1: 0}
    for step in range(1000):
        cpu, ns = (1, 700) if step % 300 == 0 else (0, 1000 + step)
        load.spend(cpu, ns, ((step % 2, 4096),))
        spent[cpu] += ns
        if step == 500:
            load.rest()
        assert load.cpu_ns == {cpu: ns for cpu, ns in spent.items() if ns}
