"""Requests that need other nodes which do not answer."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from cable import Cable
from loopback import Loopback, of
from numa_client import AsyncMachine, Policy, PolicyMode, Unavailable
from numa_client._gen.numa.v1.memory_service_pb2 import FreePagesRequest
from numa_client._gen.numa.v1.memory_service_pb2_grpc import MemoryServiceStub
from numa_client._gen.numa.v1.types_pb2 import NodePages
from numa_client._status import from_rpc_error

from numa_service.node import ops
from numa_service.node.ask import Ask, Steps, owe, through_outbox
from numa_service.node.errors import InvalidRequest, NodeError, NotFound, PeerUnavailable, Precondition
from numa_service.node.owners import Owner
from numa_service.rpc.peers import Peers


async def test_fallback_goes_on_past_a_dead_node(demo: Loopback, client: AsyncMachine) -> None:
    await demo.kill(2)
    async with client.session(cpu=0) as session:
        count = demo.free_pages()[0] + 100
        got = await session.alloc(count=count)
        assert list(got.pages) == [0, 1]
        assert len(got.pages[0]) + len(got.pages[1]) == count
        assert (await session.free(got)).freed_pages == count
    demo.check()


async def test_a_free_goes_on_where_it_stopped(demo: Loopback, client: AsyncMachine) -> None:
    """If node 2 is away after node 1 has freed its pages, a retry frees the rest, and nothing twice."""
    async with (
        client.session(cpu=0) as session,
        grpc.aio.insecure_channel(demo.addresses[0].grpc) as channel,
    ):
        got = await session.alloc(count=30, policy=Policy(PolicyMode.INTERLEAVE, (0, 1, 2)))
        await demo.kill(2)
        pages = [NodePages(node=nid, pfns=pfns.tobytes()) for nid, pfns in got.pages.items()]
        request = FreePagesRequest(**of(session.info), request_id="f", pages=pages)
        stub = MemoryServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as away:
            await stub.FreePages(request)
        assert away.value.code() is grpc.StatusCode.UNAVAILABLE
        assert [demo.node(nid).held_pages() for nid in (0, 1, 2)] == [10, 0, 10]
        await demo.revive(2)
        assert (await stub.FreePages(request)).freed_pages == 30
        assert len(demo.of(1, ops.Free)) == len(demo.of(2, ops.Free)) == 1
        assert [demo.node(nid).held_pages() for nid in (0, 1, 2)] == [0, 0, 0]
    demo.check()


async def test_a_session_that_ends_while_a_node_is_away_is_freed_there_later(
    demo: Loopback, client: AsyncMachine
) -> None:
    async with client.session(cpu=0) as session:
        await session.alloc(count=30, policy=Policy(PolicyMode.INTERLEAVE, (0, 1, 2)))
        await demo.kill(2)
    assert [demo.node(nid).held_pages() for nid in (0, 1, 2)] == [0, 0, 10]
    await demo.revive(2)
    await demo.until(lambda: demo.node(2).held_pages() == 0)
    demo.check()


async def test_a_lookup_whose_answer_was_lost_is_given_back(demo: Loopback) -> None:
    """The peer has carried it out: the pages must not stay with an owner that does not know them."""
    peers = Peers(demo.node(0))
    ask = Ask(2, ops.Alloc(Owner(0, 1, 7), (1,), 0, 3, 4, 0, 1, 0x41, 2), "0.1.1")
    peers.connect({2: demo.addresses[2].peers})
    await peers.ask(ask, 5)
    assert demo.node(2).held_pages() == 4 << 3
    owe(demo.node(0), ask)
    assert demo.servers[0].owed() == {2: 1}
    await demo.until(lambda: not demo.servers[0].owed())
    assert len(demo.of(2, ops.Alloc)) == 1
    assert demo.node(2).held_pages() == 0
    await peers.close()
    demo.check()


async def test_a_hung_node_costs_a_request_its_patience_once(demo: Loopback) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    peers = Peers(demo.node(0))
    peers.connect({1: f"127.0.0.1:{server.sockets[0].getsockname()[1]}"})
    reasons: list[str] = []

    def steps() -> Steps[None]:
        for number in range(50):
            try:
                yield Ask(1, ops.DrainPagesets(), f"0.1.{number}")
            except PeerUnavailable as away:
                reasons.append(str(away))

    await peers.run(through_outbox(demo.node(0), steps()), timeout=0.5)
    assert len(reasons) == 50
    assert "DEADLINE_EXCEEDED" in reasons[0]
    assert all("earlier questions" in reason for reason in reasons[1:])
    await peers.close()
    server.close()


async def test_a_connection_between_nodes_that_died_in_silence_is_made_anew(
    demo: Loopback, client: AsyncMachine
) -> None:
    async with Cable(demo.addresses[2].peers) as cable:
        demo.servers[0].connect({1: demo.addresses[1].peers, 2: cable.address})
        async with client.session(cpu=0) as session:
            far = await session.alloc(count=30, policy=Policy.bind(2))
            cable.cut()
            cable.mend()
            assert (await session.free(far)).freed_pages == 30
            assert cable.connections > 1
        demo.connect()


async def test_a_peers_refusal_is_the_same_error_here(demo: Loopback) -> None:
    peers = Peers(demo.node(0))
    peers.connect({2: demo.addresses[2].peers})
    node = demo.node(2)
    mine, other = Owner(0, 1, 1), Owner(1, 1, 1)
    start = node.pgdat.extents[1].start_pfn
    pfn = (start + 3).to_bytes(8, "little")
    cases: list[tuple[ops.Op[object], type[NodeError], str]] = [
        (ops.Free(mine, 0, 0, pfn), NotFound, ""),
        (ops.Free(mine, 0, 0, b"123"), InvalidRequest, "pfns"),
    ]
    taken = await peers.ask(Ask(2, ops.Alloc(other, (1,), 0, 0, 1, 0, 1, 0x41, 2), "0.1.take"), 5)
    cases.append((ops.Free(mine, 0, 0, taken.pfns), Precondition, "somebody else"))
    for number, (op, kind, text) in enumerate(cases):
        with pytest.raises(kind) as here:
            await peers.ask(Ask(2, op, f"0.1.{number}"), 5)
        with pytest.raises(kind) as there:
            node.apply(op)
        assert str(here.value) == str(there.value)
        assert text in str(here.value)
    await peers.close()


async def test_a_node_without_an_address_is_away_and_its_return_is_waited_for(
    demo: Loopback, client: AsyncMachine
) -> None:
    async with (
        client.session(cpu=0) as session,
        grpc.aio.insecure_channel(demo.addresses[0].grpc) as channel,
    ):
        far = await session.alloc(count=30, policy=Policy.bind(2))
        demo.servers[0].connect({1: demo.addresses[1].peers})
        got = await session.alloc(count=demo.free_pages()[0] + 10)
        assert list(got.pages) == [0, 1]
        pages = [NodePages(node=2, pfns=far.pages[2].tobytes())]
        request = FreePagesRequest(**of(session.info), request_id="f", pages=pages)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await MemoryServiceStub(channel).FreePages(request)
        told = from_rpc_error(raised.value)
        assert isinstance(told, Unavailable)
        assert "node 2" in told.message
        assert told.retry_seconds == PeerUnavailable.retry_seconds

        before = client.info
        freeing = asyncio.create_task(session.free(far))
        while client.info is before:  # it looks where its node is when gRPC's own attempts have failed
            await asyncio.sleep(0.02)
        assert not freeing.done()
        demo.connect()
        assert (await freeing).freed_pages == 30
