"""Requests that need a node which is away: they are UNAVAILABLE, never out of memory."""

from __future__ import annotations

from collections.abc import Awaitable

import grpc
import pytest
from loopback import Loopback, of
from numa_client import (
    AsyncMachine,
    AsyncSession,
    Mix,
    NotFound,
    NumaError,
    OutOfMemory,
    Phase,
    Policy,
    Program,
    Unavailable,
)
from numa_client._gen.numa.v1 import memory_service_pb2 as pb2
from numa_client._gen.numa.v1 import node_service_pb2
from numa_client._gen.numa.v1.memory_service_pb2_grpc import MemoryServiceStub
from numa_client._gen.numa.v1.node_service_pb2_grpc import NodeServiceStub
from numa_client._gen.numa.v1.types_pb2 import NodePages
from numa_client._status import from_rpc_error

from numa_service.node import ops
from numa_service.node.ops.protocol import MAX_REQUEST_ID


@pytest.fixture
async def client(demo: Loopback) -> AsyncMachine:
    """A client that tries once: its timeout is shorter than the time to wait that the service names."""
    return await demo.client(timeout=0.9)


async def refused(call: Awaitable[object]) -> NumaError:
    with pytest.raises(NumaError) as raised:
        await call
    return raised.value


def assert_away(error: NumaError, nodes: str, got: str, wanted: str) -> None:
    assert isinstance(error, Unavailable), error
    assert (error.reason, error.retry_seconds) == ("NODE_UNAVAILABLE", 1.0)
    assert error.metadata == {"node": nodes, "order": "0", "got": got, "wanted": wanted}
    assert all(f"node {nid} does not answer" in error.message for nid in nodes.split(","))


async def run(session: AsyncSession, program: Program) -> None:
    async for _ in session.run_program(program):
        pass


async def test_pages_of_a_node_that_is_away(demo: Loopback, client: AsyncMachine) -> None:
    """Requests for such pages: by a session, of a region, over a stream, by a program, and explained."""
    async with client, client.session(cpu=0) as session:
        region = await session.map_region("anon", 100, Policy.bind(2))
        await demo.kill(2)
        assert_away(await refused(session.alloc(count=64, policy=Policy.bind(2))), "2", "0", "64")
        assert_away(await refused(region.touch(0, 7)), "2", "0", "7")
        async with session.stream() as pages:
            assert_away(await refused(pages.alloc(count=3, policy=Policy.bind(2))), "2", "0", "3")
        phase = Phase(events=10, batch=10, mixes=(Mix(policy=Policy.bind(2)),))
        stopped = await refused(run(session, Program((phase,), stop_on_failure=True)))
        assert_away(stopped, "2", "0", "10")
        explanation = (await session.explain(count=64, policy=Policy.bind(2))).explanation
        assert explanation is not None
        assert "0 of 64 blocks found, not all nodes were asked: node 2 does not answer" in explanation.failure
    assert demo.node(0).held_pages() == 0
    assert demo.node(0).alloc_failures == {}  # nothing that an alert on short memory would see


async def test_a_walk_that_could_not_ask_a_node_does_not_say_that_memory_is_short(
    demo: Loopback, client: AsyncMachine
) -> None:
    async with client, client.session(cpu=0) as session:
        await demo.kill(2)
        free = demo.free_pages()
        several = Policy.bind(0, 2)
        count = str(free[0] + 1000)
        short = await refused(session.alloc(count=free[0] + 1000, policy=several))
        assert_away(short, "2", short.metadata["got"], count)
        assert int(short.metadata["got"]) > free[0] // 2
        assert demo.free_pages()[0] == free[0]  # nothing was kept
        await demo.kill(1)
        # what was there is a success, if that is enough
        some = await session.alloc(count=free[0] + 1000, policy=several, partial=True)
        assert list(some.pages_by_node) == [0]
        none = await refused(session.alloc(count=9, policy=Policy.bind(1, 2), partial=True))
        assert_away(none, "1,2", "0", "9")


async def test_a_walk_that_needs_no_node_that_is_away_says_that_memory_is_short(
    demo: Loopback, client: AsyncMachine
) -> None:
    async with client, client.session(cpu=0) as session:
        await demo.kill(2)
        for policy in (Policy.bind(0), Policy.bind(0, 1)):
            short = await refused(session.alloc(order=10, count=1024, policy=policy))
            assert isinstance(short, OutOfMemory)
            assert short.reason == "OUT_OF_MEMORY"


async def test_what_a_node_gave_without_being_heard_goes_with_the_session(
    demo: Loopback, client: AsyncMachine
) -> None:
    """The node is told that the session ended, although the home node knows of no pages there."""
    async with client:
        session = client.session(cpu=0)
        await session.open()
        region = await session.map_region("anon", 10, Policy.bind(2))
        await demo.kill(2)
        await refused(session.alloc(count=5, policy=Policy.bind(2)))
        await refused(region.touch(0, 10))
        owners = {session.info.session, *demo.node(0).regions}
        await session.close()
        await demo.revive(2)
        await demo.until(lambda: {op.owner.id for op in demo.of(2, ops.FreeOwner)} >= owners)
        assert demo.node(2).held_pages() == 0


async def test_memory_cannot_go_while_the_nodes_that_would_take_its_pages_are_away(
    demo: Loopback, client: AsyncMachine
) -> None:
    async with client, client.session(cpu=0) as session:
        region = await session.map_region("anon", 60_000, policy=Policy.bind(2))
        await region.touch(0, 60_000, write=True)
        await demo.kill(1)
        demo.servers[2].connect({})
        change = node_service_pb2.ChangeMemoryBlockRequest(request_id="off", block=5, state="offline")
        async with grpc.aio.insecure_channel(demo.addresses[2].grpc) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await NodeServiceStub(channel).ChangeMemoryBlock(change)
        error = from_rpc_error(raised.value)
        assert (error.code, error.retry_seconds) == (grpc.StatusCode.UNAVAILABLE, 1.0)
        demo.connect()


async def test_pages_that_were_lost_in_a_restart_say_so(demo: Loopback) -> None:
    async with await demo.client() as client, client.session(cpu=0) as session:
        lost = await session.alloc(count=30, policy=Policy.bind(2))
        also_lost = await session.alloc(count=30, policy=Policy.bind(2))
        region = await session.map_region("file", 10, Policy.bind(2))
        await region.touch(0, 10)
        await demo.restart(2)
        gone = await refused(session.free(lost))
        assert isinstance(gone, NotFound)
        assert gone.code is grpc.StatusCode.NOT_FOUND
        pfn = int(lost.pages[2][0])
        assert gone.message.startswith(f"page {pfn:#x} on node 2: lost in the restart of node 2")
        assert gone.reason == "PAGE_NOT_FOUND"
        # they may be somebody else's by now
        async with client.session(cpu=2) as other:
            await other.alloc(count=demo.free_pages()[2] // 2, policy=Policy.bind(2))
            assert isinstance(await refused(session.free(also_lost)), NotFound)
        touched = await region.touch(0, 10)
        assert (touched.hit_pages, touched.fault_pages) == (0, 10)
        kept = await session.alloc(count=30, policy=Policy.bind(2))
        assert (await session.free(kept)).freed_pages == 30
        # who has lost nothing there is told what is wrong, as ever
        async with client.session(cpu=2) as newcomer:
            assert "page is free" in (await refused(newcomer.free(lost))).message
    demo.check()


async def test_a_session_that_was_lost_in_a_restart_says_so(demo: Loopback) -> None:
    async with await demo.client() as client:
        session = client.session(cpu=0)
        await session.open()
        await demo.restart(0)
        async with grpc.aio.insecure_channel(demo.addresses[0].grpc) as channel:
            stub = MemoryServiceStub(channel)
            for number, text in (
                (session.info.session, "lost in the restart of node 0: open another one"),
                ((1 << 32) + 1, "unknown, closed, or its lease ran out"),
            ):
                with pytest.raises(grpc.aio.AioRpcError, match=text) as gone:
                    await stub.RenewSession(pb2.RenewSessionRequest(session=number))
                assert gone.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_longest_request_id_frees_on_several_nodes(demo: Loopback) -> None:
    async with (
        await demo.client() as client,
        client.session(cpu=0) as session,
        grpc.aio.insecure_channel(demo.addresses[0].grpc) as channel,
    ):
        got = await session.alloc(count=30, policy=Policy.interleave(0, 1, 2))
        request = pb2.FreePagesRequest(
            **of(session.info),
            request_id="x" * MAX_REQUEST_ID,
            pages=[NodePages(node=nid, pfns=pfns.tobytes()) for nid, pfns in got.pages.items()],
        )
        assert (await MemoryServiceStub(channel).FreePages(request)).freed_pages == 30
