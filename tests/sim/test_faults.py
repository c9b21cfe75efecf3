"""Requests over a network that repeats and delays messages, and nodes that are down: pages have one owner.

Lost messages are the business of ``test_attack.py``.
"""

from __future__ import annotations

import random

import pytest

from numa_service.machine.source import load
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node import ops
from numa_service.node.errors import PeerUnavailable
from numa_service.node.free_pages import free_pages
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import close_session, map_region, touch_region
from numa_service.node.unserved import AllocFailed
from numa_service.sim.network import Faults
from numa_service.sim.simulation import Simulation, Task

SPEC = load("demo")

POLICIES = (
    Policy(),
    Policy(PolicyMode.BIND, (0, 2)),
    Policy(PolicyMode.PREFERRED, (2,)),
    Policy(PolicyMode.INTERLEAVE, (0, 1, 2)),
    Policy(PolicyMode.PREFERRED_MANY, (1, 2)),
)


@pytest.mark.parametrize("seed", range(4))
def test_many_requests_at_once_conserve_every_page(seed: int) -> None:
    sim = Simulation(SPEC, seed, Faults(duplicate=0.2, jitter=3.0))
    rng = random.Random(seed)
    sessions = {nid: sim.nodes[nid].apply(ops.OpenSession("load", 10**15, 0)) for nid in (0, 1)}
    managed = {n: sum(e.managed for e in node.pgdat.extents) for n, node in sim.nodes.items()}
    for _ in range(12):
        tasks: list[Task[object]] = []
        for nid, session in sessions.items():
            node = sim.nodes[nid]
            cpu = node.pgdat.cpus[0]
            policy = rng.choice(POLICIES)
            request = AllocRequest(session, GFP_KERNEL, rng.randrange(4), rng.randrange(1, 900), cpu, policy)
            tasks.append(sim.spawn(nid, alloc_pages(node, request)))
            kind = rng.choice((LRU_KIND_ANON, LRU_KIND_FILE))
            region = map_region(node, session, kind, 6_000, policy)
            tasks.append(
                sim.spawn(nid, touch_region(node, session, region, 0, 6_000, rng.random() < 0.5, cpu))
            )
        sim.run()
        for task in tasks:
            assert task.error is None or isinstance(task.error, AllocFailed)
        assert sim.check() == []
    for nid, session in sessions.items():
        sim.call(nid, close_session(sim.nodes[nid], session))
    sim.run()
    assert sim.check() == []
    for nid, node in sim.nodes.items():
        assert node.held_pages() == 0
        assert node.swap_used == 0
        free = sum(node.pgdat.free_pages(e.index) for e in node.pgdat.extents)
        assert free + int(node.pgdat.pg.pcp_count.sum()) == managed[nid]


def test_one_seed_is_one_run() -> None:
    def digests(seed: int) -> list[str]:
        sim = Simulation(SPEC, seed, Faults(duplicate=0.3, jitter=2.0))
        node = sim.nodes[0]
        session = node.apply(ops.OpenSession("same", 10**15, 0))
        for _ in range(5):
            request = AllocRequest(session, GFP_KERNEL, 0, 3_000, 0, Policy(PolicyMode.INTERLEAVE, (0, 1, 2)))
            sim.call(0, alloc_pages(node, request))
        sim.run()
        return [n.digest() for n in sim.nodes.values()]

    assert digests(3) == digests(3)


def test_a_repeated_lookup_takes_pages_once() -> None:
    sim = Simulation(SPEC, 1, Faults(duplicate=1.0))
    node = sim.nodes[0]
    session = node.apply(ops.OpenSession("twice", 10**15, 0))
    got = sim.call(
        0, alloc_pages(node, AllocRequest(session, GFP_KERNEL, 0, 100, 0, Policy(PolicyMode.PREFERRED, (2,))))
    )
    sim.run()
    assert [(nid, len(pfns) // 8) for nid, pfns in got.pages] == [(2, 100)]
    assert sim.nodes[2].held_pages() == 100


def test_a_node_that_is_down_is_passed_over() -> None:
    sim = Simulation(SPEC)
    node = sim.nodes[0]
    sim.down.add(2)
    session = node.apply(ops.OpenSession("down", 10**15, 0))
    free = sum(node.pgdat.free_pages(e.index) for e in node.pgdat.extents)
    got = sim.call(0, alloc_pages(node, AllocRequest(session, GFP_KERNEL, 0, free, 0, Policy())))
    assert {nid for nid, _ in got.pages} == {0, 1}
    assert got.remote_lookups >= 2
    with pytest.raises(PeerUnavailable):
        sim.call(0, free_pages(node, session, 0, [(2, b"\0" * 8)], 0))
    sim.call(0, free_pages(node, session, 0, got.pages, 0))
    sim.run()
    assert sim.check() == []
