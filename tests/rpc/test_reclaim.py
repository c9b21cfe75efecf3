"""Regions under memory pressure: kswapd is woken, reclaims in steps, and pages are read back from swap."""

from __future__ import annotations

import asyncio

from loopback import Loopback
from numa_client import AsyncMachine, Policy, PolicyMode

from numa_service.node import ops

HERE = Policy(PolicyMode.BIND, (0,))


async def test_kswapd_recovers_a_node_that_was_filled(demo: Loopback, client: AsyncMachine) -> None:
    assert not await demo.servers[0].kswapd_wait(0)
    waiting = asyncio.create_task(demo.servers[0].kswapd_wait(30))
    async with client.session(cpu=0) as session:
        region = await session.map_region("file", 60_000, HERE)
        touched = await region.touch(0, 55_000)
        assert touched.fault_pages == touched.major_fault_pages == 55_000
        assert await waiting, "the allocation went below low: kswapd is woken"
        assert await demo.servers[0].kswapd_wait(0), "and wanted until it sleeps"
        before = await client.node(0)
        assert before.kswapd.wakeups == 0
        reclaimed = await demo.kswapd(0)
        after = await client.node(0)
        assert after.kswapd.reclaimed_pages == reclaimed > 0
        assert after.vm_events["pgsteal_kswapd"] == reclaimed
        assert after.free_pages == before.free_pages + reclaimed
        assert any(zone.free_pages >= zone.high_pages for zone in after.zones)
        assert not await demo.servers[0].kswapd_wait(0)
    demo.check()


async def test_anonymous_pages_go_to_swap_and_come_back(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        region = await session.map_region("anon", 55_000, HERE)
        first = await region.touch(0, 55_000, write=True)
        assert first.fault_pages == 55_000
        await demo.kswapd(0)
        state = await client.node(0)
        swapped = state.swap_used_pages
        assert swapped == state.vm_events["pswpout"] > 0
        again = await region.touch(0, 20_000)
        assert again.hit_pages + again.fault_pages == 20_000
        assert again.major_fault_pages > 0
        assert again.cost.reclaim_ns >= again.major_fault_pages * 80_000
        assert (await client.node(0)).vm_events["pswpin"] == again.major_fault_pages
    state = await client.node(0)
    assert (state.held_pages, state.swap_used_pages) == (0, 0)
    demo.check()


async def test_a_peer_is_woken_over_the_network(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        await session.alloc(count=1, policy=Policy(PolicyMode.PREFERRED, (2,)))
        waiting = asyncio.create_task(demo.servers[2].kswapd_wait(30))
        for _ in range(5):
            await session.alloc(count=50_000, partial=True)
        assert await waiting
        assert demo.of(2, ops.WakeKswapd)
    demo.check()
