"""Explanations over real servers."""

from __future__ import annotations

import pytest
from loopback import Loopback, of
from node.asking import Asking
from numa_client import AsyncMachine, FreelistPass, InvalidRequest, Policy
from numa_client._gen.numa.v1 import memory_service_pb2, memory_service_pb2_grpc


async def test_a_client_gets_what_a_node_in_process_tells(demo: Loopback, client: AsyncMachine) -> None:
    asking = Asking()
    async with client.session(cpu=0) as session:
        for count, order, gfp in ((100, 0, "GFP_KERNEL"), (60_000, 0, "GFP_USER"), (4, 9, "GFP_KERNEL")):
            got = await session.explain(order, count, gfp)
            assert got.explanation == asking.ask(count, order, gfp)
            assert got.blocks.count == count
            assert {nid: len(pfns) for nid, pfns in got.blocks.pages.items()} == got.explanation.placement
    demo.check()


async def test_a_request_that_fails_is_explained_and_leaves_nothing(
    demo: Loopback, client: AsyncMachine
) -> None:
    before = demo.free_pages()
    async with client.session(cpu=0) as session:
        got = await session.explain(count=60_000, policy=Policy.bind(0))
        assert "page allocation failure" in got.explanation.failure
        assert got.blocks.count == 0
        assert sum(got.explanation.placement.values()) > 40_000
        assert demo.free_pages() == before
        with pytest.raises(InvalidRequest):
            await session.explain(order=11)
    demo.check()


async def test_a_repeated_request_is_explained_once(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        stub = memory_service_pb2_grpc.MemoryServiceStub(client._nodes[demo.addresses[0].grpc])
        request = memory_service_pb2.AllocPagesRequest(
            **of(session.info), request_id="again", count=7, explain=True
        )
        first = await stub.AllocPages(request)
        assert first.explanation.steps
        assert await stub.AllocPages(request) == first
        assert (await client.node(0)).held_pages == 7


async def test_a_node_that_is_gone_is_named(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        await session.alloc(count=demo.free_pages()[0] - 4000, policy=Policy.bind(0))
        await demo.kill(2)
        got = await session.explain(count=5000)
        fast = next(step for step in got.explanation.steps if isinstance(step, FreelistPass))
        assert [(visit.node, bool(visit.away)) for visit in fast.nodes] == [(0, False), (2, True), (1, False)]
        assert f"  2: {fast.nodes[1].away}" in str(got.explanation)
        await session.free(got.blocks)
    demo.check()
