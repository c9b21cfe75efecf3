"""Memory hotplug and CMA while sessions fault, allocate and free: no page is lost or held twice."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from node.page_tables import pfns_of

from numa_service.machine.source import load
from numa_service.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL
from numa_service.mm.memory_hotplug import MEMORY_BLOCK_PAGES
from numa_service.mm.page_alloc import LRU_KIND_ANON, LRU_KIND_FILE
from numa_service.node import ops
from numa_service.node.cma import cma_alloc
from numa_service.node.errors import Busy, InvalidRequest, NotFound
from numa_service.node.memory_hotplug import memory_blocks
from numa_service.node.mempolicy import Policy, PolicyMode
from numa_service.node.node import Node
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.node.region import close_session, map_region, touch_region, unmap_region
from numa_service.node.unserved import AllocFailed
from numa_service.sim.network import Faults
from numa_service.sim.simulation import Simulation, Task

POLICIES = (Policy(), *(Policy(PolicyMode.BIND, (nid,)) for nid in (0, 1, 2)))
PAGES = 20_000


def in_use(sim: Simulation, rng: random.Random, regions: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the nid and the memory block of some page of a region, None if it has no page."""
    nid, region = rng.choice(regions)
    table = sim.nodes[nid].regions[region]
    at = rng.randrange(PAGES)
    if not table.nids[at]:
        return 2, 5
    pfn = int(pfns_of(sim.nodes, nid, region)[at])
    return (int(table.nids[at]) - 1, pfn // MEMORY_BLOCK_PAGES) if pfn >= 0 else (2, 5)


@pytest.mark.parametrize("profile", ["linux-6.1", "linux-6.12", "linux-3.0"])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_meanwhile(seed: int, profile: str) -> None:
    cmdline = "" if profile == "linux-3.0" else "cma=16M@1"
    spec = dataclasses.replace(load("demo"), profile=profile, cmdline=cmdline, counter_drift=bool(seed % 2))
    sim = Simulation(spec, seed, Faults(jitter=3.0, duplicate=0.1))
    rng = random.Random(seed)
    types = ("online",) if profile == "linux-3.0" else ("online_movable", "online_kernel")
    sessions = {nid: sim.nodes[nid].apply(ops.OpenSession("moves", 10**15, 0)) for nid in (0, 1)}
    regions: list[tuple[int, int]] = []
    refused: list[Any] = []
    for _ in range(10):
        tasks: list[Task[Any]] = []
        for nid, session in sessions.items():
            node = sim.nodes[nid]
            cpu, policy = node.pgdat.cpus[0], rng.choice(POLICIES)
            kind = rng.choice((LRU_KIND_ANON, LRU_KIND_FILE))
            region = map_region(node, session, kind, PAGES, policy)
            regions.append((nid, region))
            tasks.append(sim.spawn(nid, touch_region(node, session, region, 0, PAGES, True, cpu)))
            at, again = rng.choice(regions)
            steps = touch_region(
                sim.nodes[at], sessions[at], again, 0, PAGES, False, sim.nodes[at].pgdat.cpus[0]
            )
            tasks.append(sim.spawn(at, steps))
            gfp = rng.choice((GFP_KERNEL, GFP_HIGHUSER_MOVABLE))
            # held pages only on node 0: they cannot be moved, and keep their block on-line
            request = AllocRequest(session, int(gfp), rng.randrange(3), 200, cpu, POLICIES[1])
            tasks.append(sim.spawn(nid, alloc_pages(node, request)))
        for _ in range(3):
            nid, block = in_use(sim, rng, regions)
            tasks.append(sim.spawn(nid, sim.memory_block(nid, block, "offline")))
            nid = rng.choice((1, 2))
            block = rng.choice(memory_blocks(sim.nodes[nid]))
            tasks.append(sim.spawn(nid, sim.memory_block(nid, block, rng.choice(types))))
        if cmdline:
            count = rng.randrange(1, 2000)
            tasks.append(sim.spawn(1, cma_alloc(sim.nodes[1], sessions[1], 0, count)))
        sim.run()
        sim.advance(rng.randrange(5) * 1_000_000_000)
        for task in tasks:
            assert task.error is None or isinstance(
                task.error, AllocFailed | Busy | InvalidRequest | NotFound
            ), task.error
            refused += [task.error] if isinstance(task.error, InvalidRequest) else []
        assert sim.check() == []
        while len(regions) > 6:
            nid, region = regions.pop(rng.randrange(len(regions)))
            sim.call(nid, unmap_region(sim.nodes[nid], sessions[nid], region))
    assert all("EINVAL" in str(error) for error in refused)
    # the run did have moves of every kind
    log = [op for node in sim.nodes.values() for op in node.log]
    done = [ops.OfflinePages, ops.OnlinePages]
    if profile != "linux-3.0":  # whose bootmem keeps pages at the bottom of nodes, where regions begin
        done += [ops.Remap, ops.ReleaseMigrated]
    for kind in done:
        assert any(isinstance(op, kind) for op in log), kind
    assert any(isinstance(op, ops.CmaTake) for op in log) == bool(cmdline)
    told = [node.machine for node in sim.nodes.values()]
    assert all(machine.managed == told[0].managed for machine in told)
    assert all(machine.watermarks == told[0].watermarks for machine in told)
    for nid, session in sessions.items():
        sim.call(nid, close_session(sim.nodes[nid], session))
    sim.run()
    assert sim.check() == []
    for nid, node in sim.nodes.items():
        assert node.held_pages() == 0
        assert node.swap_used == 0
        assert Node.replay(spec, nid, list(node.log)).digest() == node.digest()
