"""Memory blocks off-line and on-line over gRPC; vmstat ticks of a node that serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest
from loopback import Loopback
from node.page_tables import pfns_of
from numa_client import (
    AsyncMachine,
    AsyncSession,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    OutOfMemory,
    Policy,
)

from numa_service.machine.presets import load_preset
from numa_service.mm.memory_hotplug import MEMORY_BLOCK_PAGES
from numa_service.node import ops

#: Of node 2, wholly RAM.
BLOCK = 5


async def test_a_block_goes_with_its_pages_moved_and_every_node_told(
    demo: Loopback, client: AsyncMachine
) -> None:
    async with client.session(node=0) as session:
        region = await session.map_region("anon", 60_000, policy=Policy.bind(2))
        await region.touch(0, 60_000, write=True)
        nodes = {nid: server.node for nid, server in demo.servers.items()}
        table = next(iter(nodes[0].regions.values()))
        there = pfns_of(nodes, 0, table.id) // MEMORY_BLOCK_PAGES == BLOCK
        assert there.any()
        before = await client.node(2)
        await client.change_memory_block(BLOCK, "offline")
        after = await client.node(2)
        [was], [now] = before.zones, after.zones
        assert now.present_pages == was.present_pages - MEMORY_BLOCK_PAGES
        assert not (pfns_of(nodes, 0, table.id) // MEMORY_BLOCK_PAGES == BLOCK).any()
        assert set(table.nids[there].tolist()) <= {1, 2}
        kbytes = {server.node.machine.sysctls.min_free_kbytes for server in demo.servers.values()}
        assert len(kbytes) == 1
        marks = [server.node.machine.watermarks for server in demo.servers.values()]
        assert marks[0] == marks[1] == marks[2]
        touched = await region.touch(0, 60_000)
        assert (touched.hit_pages, touched.fault_pages) == (60_000, 0)
        demo.check()
        await client.change_memory_block(BLOCK, "online_movable")
        assert {zone.zone for zone in (await client.node(2)).zones} == {"DMA32", "Movable"}
        for server in demo.servers.values():
            assert (2, 3) in [(r.nid, r.zone) for r in server.node.machine.zonelists[0].fallback]
    demo.check()


async def test_what_is_refused(demo: Loopback, client: AsyncMachine) -> None:
    with pytest.raises(NotFound, match="memory99"):
        await client.change_memory_block(99, "offline")
    with pytest.raises(InvalidRequest, match="EINVAL"):
        await client.change_memory_block(BLOCK, "online")
    with pytest.raises(InvalidRequest, match="'away' is not online"):
        await client.change_memory_block(BLOCK, "away")
    with pytest.raises(FailedPrecondition, match=r"EBUSY: page 0x[0-9a-f]+ of node 1 is reserved"):
        await client.change_memory_block(3, "offline")
    demo.check()


@pytest.fixture
async def ticking() -> AsyncIterator[Loopback]:
    """A node server whose vmstat daemon ticks every jiffy."""
    machine = Loopback(replace(load_preset("demo"), sysctls={"vm.stat_interval": "0"}))
    await machine.start()
    yield machine
    await machine.stop()


async def test_a_tick_comes_while_there_is_anything_to_fold(ticking: Loopback) -> None:
    demo, node = ticking, ticking.servers[2].node
    async with await demo.client() as client, client.session(node=0) as session:
        await session.alloc(count=10, policy=Policy.bind(2))
        assert int(node.pgdat.pg.pcp_count.sum())
        # nobody waits for a time here: the test ends when the drain has happened, or never
        while int(node.pgdat.pg.pcp_count.sum()):
            await asyncio.sleep(0.01)
    assert demo.of(2, ops.VmstatTick)
    # what the CPU had is folded; a quiet node has no ticks
    while node.pgdat.vmstat_wanted:
        await asyncio.sleep(0.01)
    before = len(demo.of(2, ops.VmstatTick))
    await asyncio.sleep(0.05)
    assert len(demo.of(2, ops.VmstatTick)) == before
    demo.check()


async def fill(session: AsyncSession, policy: Policy) -> None:
    """Allocate until there is not one page more."""
    with suppress(OutOfMemory):
        while True:
            await session.alloc(count=1 << 16, policy=policy, partial=True)


async def test_an_old_kernel_does_not_ask_a_node_that_is_full() -> None:
    machine = Loopback("demo", profile="linux-3.0")
    await machine.start()
    try:
        async with await machine.client() as client, client.session(node=0) as session:
            for nid in (0, 2):
                await fill(session, Policy.bind(nid))
            await session.alloc(count=10)
            asked = len(machine.of(2, ops.Alloc))
            explained = await session.explain(count=10)
            assert len(machine.of(2, ops.Alloc)) == asked
            assert "zonelist cache says full" in str(explained.explanation)
            assert list(explained.blocks.pages) == [1]
    finally:
        await machine.stop()
