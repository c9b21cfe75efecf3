"""vmstat ticks by the simulation's clock fold counters and drain pagesets of other nodes."""

from __future__ import annotations

import dataclasses

import pytest

from numa_service.machine.source import load
from numa_service.machine.sysctl import Sysctls
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.pgdata import DRIFT_MARK, STAT_THRESHOLD
from numa_service.mm.vmstat import NR_FREE_PAGES
from numa_service.node import ops
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.sim.simulation import Simulation

DEMO = load("demo")
SECOND = 1_000_000_000
FAR = Policy(PolicyMode.BIND, (2,))
DMA32 = 1


def take(sim: Simulation, count: int, policy: Policy = FAR, order: int = 0) -> None:
    node = sim.nodes[0]
    session = node.apply(ops.OpenSession("test", 10**15, 0))
    sim.call(0, alloc_pages(node, AllocRequest(session, GFP_KERNEL, order, count, 0, policy)))


def ticks(node: Node) -> int:
    return sum(isinstance(op, ops.VmstatTick) for op in node.log)


def on_pagesets(node: Node) -> int:
    return int(node.pgdat.pg.pcp_count.sum())


def replays(sim: Simulation) -> bool:
    return all(
        Node.replay(sim.spec, nid, list(node.log)).digest() == node.digest()
        for nid, node in sim.nodes.items()
    )


def test_a_pageset_of_another_node_is_drained_on_the_third_quiet_second() -> None:
    sim = Simulation(DEMO)
    take(sim, 100)
    node = sim.nodes[2]
    left = on_pagesets(node)
    assert left
    sim.advance(2 * SECOND)
    assert (on_pagesets(node), ticks(node)) == (left, 2)
    sim.advance(SECOND)
    assert on_pagesets(node) < left
    sim.advance(60 * SECOND)
    assert on_pagesets(node) == 0
    # after that there is nothing to do, and there is no tick
    quiet = ticks(node)
    sim.advance(3600 * SECOND)
    assert ticks(node) == quiet
    assert sim.now_ns >= 3663 * SECOND
    assert sim.check() == []
    assert replays(sim)


def test_the_pagesets_of_its_own_node_stay() -> None:
    sim = Simulation(DEMO)
    take(sim, 100, Policy())
    left = on_pagesets(sim.nodes[0])
    sim.advance(60 * SECOND)
    assert on_pagesets(sim.nodes[0]) == left > 0


def test_a_tick_comes_between_two_events_at_its_time() -> None:
    sim = Simulation(DEMO)
    take(sim, 100)
    assert ticks(sim.nodes[2]) == 0
    sim.advance(SECOND)
    take(sim, 1)
    assert ticks(sim.nodes[2]) == 1
    sim.run()
    assert ticks(sim.nodes[2]) == 1


@pytest.mark.parametrize(("seconds", "expected"), [("10", 1), ("1", 3)])
def test_stat_interval_is_the_time_between_ticks(seconds: str, expected: int) -> None:
    sim = Simulation(dataclasses.replace(DEMO, sysctls={"vm.stat_interval": seconds}))
    take(sim, 100)
    sim.advance(int(seconds) * expected * SECOND)
    assert ticks(sim.nodes[2]) == expected


def test_stat_interval_is_a_second_unless_told() -> None:
    assert Sysctls("x86_64", "linux-6.1").stat_interval == 1


def test_without_vmstat_there_are_none() -> None:
    sim = Simulation(DEMO, vmstat=False)
    take(sim, 100)
    sim.advance(60 * SECOND)
    assert ticks(sim.nodes[2]) == 0


# drift


def drifting(**sysctls: str) -> Simulation:
    return Simulation(dataclasses.replace(DEMO, counter_drift=True, sysctls=sysctls))


def test_drift_is_off_unless_the_machine_has_it() -> None:
    sim = Simulation(DEMO)
    take(sim, 10)
    pg = sim.nodes[2].pgdat.pg
    assert pg.drift[DMA32, STAT_THRESHOLD] == 0
    assert not pg.free_delta.any()


def test_what_a_cpu_keeps_to_itself_is_folded_by_its_tick() -> None:
    sim = drifting()
    exact = Simulation(DEMO)
    for one in (sim, exact):
        take(one, 1, order=4)
    pgdat = sim.nodes[2].pgdat
    kept = int(pgdat.pg.free_delta.sum())
    assert kept
    assert pgdat.free_pages(DMA32) + kept == exact.nodes[2].pgdat.free_pages(DMA32)
    sim.advance(SECOND)
    assert not pgdat.pg.free_delta.any()
    assert pgdat.free_pages(DMA32) == exact.nodes[2].pgdat.free_pages(DMA32)
    assert sim.check() == []
    assert replays(sim)


def test_kswapd_is_not_fooled_by_drift_near_the_marks() -> None:
    """A zone is above HIGH by NR_FREE_PAGES, but below with the CPUs' deltas, which kswapd adds up."""
    close = {"vm.min_free_kbytes": "512", "vm.watermark_scale_factor": "1"}
    pgdat = drifting(**close).nodes[2].pgdat
    pg = pgdat.pg
    assert pgdat.balanced(0, 2)
    mark = int(pg.watermark[DMA32, 2])
    assert pg.drift[DMA32, DRIFT_MARK] > mark
    pg.vm_stat[DMA32, NR_FREE_PAGES] = mark + 1
    assert pgdat.balanced(0, 2)
    pg.free_delta[0, DMA32] = -1
    assert not pgdat.balanced(0, 2)
    # far above the mark the deltas are not added up
    pg.vm_stat[DMA32, NR_FREE_PAGES] = pg.drift[DMA32, DRIFT_MARK]
    pg.free_delta[0, DMA32] = -(10**9)
    assert pgdat.balanced(0, 2)
