"""Checks that each owner of a page lives, or that its pages are about to be freed: nodes ask each other."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from loopback import Loopback
from numa_client import AsyncMachine, Policy
from numa_client._gen.numa.v1 import zonelist_service_pb2 as pb2
from numa_client._gen.numa.v1.zonelist_service_pb2_grpc import ZonelistServiceStub

from numa_service.node import ops
from numa_service.node.owners import Owner


async def take(demo: Loopback, nid: int, owner: Owner, count: int = 1000) -> Any:
    """Take pages for an owner by a Lookup, without its home node."""
    async with grpc.aio.insecure_channel(demo.addresses[nid].peers) as channel:
        request = pb2.LookupRequest(
            request_id=f"1.1.ghost-{owner}",
            owner=pb2.Owner(node=owner.nid, lineage=owner.lineage, id=owner.id),
            count=count,
            zones=range(len(demo.node(nid).pgdat.zone_names)),
            highest_zoneidx=2,
        )
        return await ZonelistServiceStub(channel).Lookup(request)


@pytest.mark.parametrize(
    ("nid", "owner", "why"),
    [
        (2, Owner(0, 1, 10**6), "is unknown at its home"),
        (2, Owner(0, 77, 1), "is unknown at its home"),
        (0, Owner(0, 1, 10**6), "is unknown here, at its home"),
        (0, Owner(0, 77, 1), "is unknown here, at its home"),
    ],
)
async def test_pages_of_an_owner_that_nobody_knows(
    demo: Loopback, client: AsyncMachine, nid: int, owner: Owner, why: str
) -> None:
    async with client.session(cpu=0) as session:
        region = await session.map_region("anon", 100, Policy.interleave(0, 1, 2))
        await region.touch(0, 100)
        await session.alloc(count=100, policy=Policy.interleave(0, 1, 2))
        assert await client.check() == {}
        assert len((await take(demo, nid, owner)).pfns) == 8000
        said = f"owner {owner.id} of node 0, lineage {owner.lineage}, has 1000 pages and {why}"
        assert await client.check() == {nid: (f"node {nid}: {said}",)}
    assert list(await client.check()) == [nid]


async def test_what_is_being_settled_is_no_violation(demo: Loopback, client: AsyncMachine) -> None:
    """The session has ended, and node 2, which was away, has not been told yet."""
    async with client.session(cpu=0) as session:
        await session.alloc(count=10, policy=Policy.bind(2))
        demo.servers[0].connect({1: demo.addresses[1].peers})
    assert demo.node(0).sessions == {}
    assert demo.node(2).held_pages() == 10
    assert demo.servers[0].owed() == {2: 1}
    assert await client.check() == {}
    demo.connect()
    await demo.until(lambda: demo.node(2).held_pages() == 0)
    assert await client.check() == {}


async def test_a_home_that_is_away_is_not_judged(demo: Loopback, client: AsyncMachine) -> None:
    await take(demo, 2, Owner(0, 1, 10**6))
    demo.servers[2].connect({1: demo.addresses[1].peers})
    assert await client.check() == {}


async def test_checks_while_sessions_come_and_go(demo: Loopback, client: AsyncMachine) -> None:
    """An owner that ends between two reads of the check is no violation."""
    running = True

    async def come_and_go(cpu: int) -> None:
        while running:
            async with client.session(cpu=cpu) as session:
                await session.alloc(count=5, policy=Policy.bind(2))
                region = await session.map_region("anon", 5, Policy.bind(2))
                await region.touch(0, 5)

    loads = [asyncio.create_task(come_and_go(cpu)) for cpu in (0, 1, 2, 3)]
    for _ in range(8):
        assert await client.check() == {}
    running = False
    await asyncio.gather(*loads)
    assert [demo.node(nid).held_pages() for nid in (0, 1, 2)] == [0, 0, 0]


async def test_a_question_from_before_a_restart_is_too_late(demo: Loopback, client: AsyncMachine) -> None:
    """It is refused where the restart is known: nobody would ever free the pages of that lineage."""
    await demo.restart(0)
    with pytest.raises(grpc.aio.AioRpcError, match="lineage 1 of node 0 is no more") as refused:
        await take(demo, 2, Owner(0, 1, 1))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert demo.node(2).held_pages() == 0
    await client.refresh()
    assert await client.check() == {}


async def test_only_its_own_owners_does_a_node_know(demo: Loopback) -> None:
    request = pb2.CheckOwnersRequest(node=1, owners=[pb2.Owner(node=2, lineage=1, id=1)])
    async with grpc.aio.insecure_channel(demo.addresses[0].peers) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=r"owners\.node: 2 is not this node, 0") as refused:
            await ZonelistServiceStub(channel).CheckOwners(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not demo.of(0, ops.Op)
