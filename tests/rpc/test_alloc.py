"""Allocations, fallback to other nodes and frees over real servers."""

from __future__ import annotations

import numpy as np
import pytest
from loopback import Loopback
from numa_client import AsyncMachine, OutOfMemory, Policy, PolicyMode

from numa_service.node import ops


async def test_local_pages_and_their_cost(demo: Loopback, client: AsyncMachine) -> None:
    before = demo.free_pages()
    async with client.session(cpu=0) as session:
        got = await session.alloc(count=1000)
        assert list(got.pages) == [0]
        assert len(np.unique(got.pages[0])) == 1000
        assert got.remote_lookups == 0
        # 90 ns a first access, and the pageset's share of each
        assert got.cost.access_ns == 1000 * 90
        assert got.latency_ns == got.cost.access_ns + got.cost.pageset_ns + got.cost.buddy_ns
        state = await client.node(0)
        assert state.held_pages == 1000
        assert state.sessions == 1
        assert state.numa_stat.numa_hit == state.numa_stat.local_node == 1000
        assert state.vm_events["pgalloc_dma32"] == 1000
        freed = await session.free(got)
        assert freed.freed_pages == 1000
    assert demo.free_pages() == before
    demo.check()


async def test_spill_asks_each_node_once(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        all_of_node_0 = demo.free_pages()[0]
        got = await session.alloc(count=all_of_node_0 + 100)
        here, there = len(got.pages[0]), len(got.pages[2])
        assert here + there == all_of_node_0 + 100
        assert list(got.pages) == [0, 2], "node 2 is nearer than node 1"
        assert got.remote_lookups == 1
        assert len(demo.of(2, ops.Alloc)) == 1
        assert demo.of(1, ops.Alloc) == []
        assert got.cost.access_ns == here * 90 + there * 250
        home, cxl = await client.node(0), await client.node(2)
        assert (home.numa_stat.numa_hit, home.numa_stat.numa_foreign) == (here, there)
        assert (cxl.numa_stat.numa_miss, cxl.numa_stat.other_node) == (there, there)
        assert cxl.numa_stat.local_node == 0
        assert cxl.held_pages == there
        assert (await session.free(got)).freed_pages == here + there
        assert (await client.node(2)).held_pages == 0
    demo.check()


async def test_policies_reach_the_nodes_that_they_name(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=2) as session:
        bound = await session.alloc(count=10, policy=Policy(PolicyMode.BIND, (0,)))
        assert {nid: len(pfns) for nid, pfns in bound.pages.items()} == {0: 10}
        spread = await session.alloc(count=30, policy=Policy(PolicyMode.INTERLEAVE, (0, 1, 2)))
        assert {nid: len(pfns) for nid, pfns in spread.pages.items()} == {0: 10, 1: 10, 2: 10}
        assert (await client.node(0)).numa_stat.interleave_hit == 10
    assert {nid: server.node.held_pages() for nid, server in demo.servers.items()} == {0: 0, 1: 0, 2: 0}
    demo.check()


async def test_closing_a_session_frees_everywhere(demo: Loopback, client: AsyncMachine) -> None:
    before = demo.free_pages()
    async with client.session(cpu=0) as session:
        await session.alloc(order=3, count=7, policy=Policy(PolicyMode.INTERLEAVE, (0, 1, 2)))
        region = await session.map_region("file", 500, Policy(PolicyMode.PREFERRED, (1,)))
        touched = await region.touch(0, 500)
        assert (touched.fault_pages, dict(touched.placement)) == (500, {1: 500})
        assert demo.node(1).held_pages() == 500 + 16
    assert demo.free_pages() == before
    demo.check()


async def test_all_or_nothing_and_partial(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        fits = Policy(PolicyMode.BIND, (0,))
        everything = await session.alloc(count=65536, policy=fits, partial=True)
        assert 49_000 < everything.count < 65536
        held = demo.node(0).held_pages()
        with pytest.raises(OutOfMemory) as refused:
            await session.alloc(count=5000, policy=fits)
        assert refused.value.reason == "OUT_OF_MEMORY"
        assert refused.value.metadata["wanted"] == "5000"
        assert demo.node(0).held_pages() == held
    demo.check()
