"""StreamPages over real servers, with both clients."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from loopback import Loopback, of
from numa_client import Aborted, AsyncMachine, InvalidRequest, Machine, NotFound, OutOfMemory
from numa_client._codec import session_info
from numa_client._gen.numa.v1 import memory_service_pb2 as pb2
from numa_client._gen.numa.v1 import memory_service_pb2_grpc

from numa_service.node.node import Node
from numa_service.node.prepare import AllocRequest
from numa_service.rpc import convert, stream


async def test_calls_overlap_and_keep_their_order(demo: Loopback, client: AsyncMachine) -> None:
    before = demo.free_pages()
    async with client.session(cpu=0) as session, session.stream(window=4) as pages:
        got = await asyncio.gather(*(pages.alloc(0, n) for n in range(1, 40)))
        assert [blocks.count for blocks in got] == list(range(1, 40))
        freed = await asyncio.gather(*(pages.free(blocks) for blocks in got))
        assert sum(one.freed_pages for one in freed) == sum(range(1, 40))
        spilled = await pages.alloc(0, before[0] + 50)  # other nodes are asked
        assert len(spilled.pages) == 2
    assert demo.free_pages() == before
    demo.check()


async def test_a_request_that_fails_fails_alone(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session, session.stream() as pages:
        wrong, right, large = await asyncio.gather(
            pages.alloc(11), pages.alloc(0, 3), pages.alloc(10, 1000), return_exceptions=True
        )
        assert isinstance(wrong, InvalidRequest)
        assert wrong.field == "order"
        assert isinstance(large, OutOfMemory)
        assert large.metadata["order"] == "10"
        await pages.free(right)
        with pytest.raises(NotFound):
            await pages.free(right)
    with pytest.raises(InvalidRequest, match="at least 1"):
        session.stream(window=0)


async def test_a_closed_stream_takes_no_calls(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        async with session.stream() as pages:
            await pages.alloc()
        with pytest.raises(Aborted):
            await pages.alloc()


async def test_the_blocking_client_streams_too(demo: Loopback) -> None:
    def use(address: str) -> list[int]:
        with Machine.connect(address) as machine, machine.session(cpu=0) as session:
            with session.stream(window=3) as pages:
                got = [pages.alloc(0, n) for n in range(1, 20)]
                wrong = pages.alloc(11)
                freed = [pages.free(future.result()) for future in got]
            with pytest.raises(InvalidRequest):
                wrong.result()
            with pytest.raises(Aborted):
                pages.alloc()
            return [future.result().freed_pages for future in freed]

    assert await asyncio.to_thread(use, demo.address) == list(range(1, 20))
    demo.check()


async def test_who_does_not_read_is_cut_off_and_others_go_on(
    demo: Loopback,
    client: AsyncMachine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(stream, "UNREAD_SECONDS", 0.2)
    async with grpc.aio.insecure_channel(demo.addresses[0].grpc) as channel:
        stub: Any = memory_service_pb2_grpc.MemoryServiceStub(channel)
        opened = session_info(
            await stub.OpenSession(pb2.OpenSessionRequest(request_id="open", lease_seconds=60))
        )
        call = stub.StreamPages()

        # one request, again and again: each is answered with the first reply's 64,000 bytes, 32 MB in all
        alloc = pb2.AllocPagesRequest(**of(opened), request_id="again", count=8000)
        for _ in range(500):
            await call.write(pb2.StreamPagesRequest(alloc=alloc))
        async with asyncio.timeout(60):
            while "its answers are unread" not in caplog.text:
                await asyncio.sleep(0.05)
        with pytest.raises(grpc.aio.AioRpcError, match="left unread") as cut:
            await read_on(call)
        assert cut.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with client.session(cpu=1) as session:
            assert (await session.alloc(0, 1)).count == 1
        await stub.CloseSession(pb2.CloseSessionRequest(**of(opened), request_id="close"))
    demo.check()


async def test_a_client_may_think_between_its_requests(
    demo: Loopback, client: AsyncMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "UNREAD_SECONDS", 0.05)
    async with client.session(cpu=0) as session, session.stream() as pages:
        got = await pages.alloc(0, 3)
        await asyncio.sleep(0.5)  # ten times as long as an answer may wait to be read: this one was
        await pages.free(got)


async def test_what_was_answered_before_a_failure_arrives(
    demo: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alloc_request(message: pb2.AllocPagesRequest, node: Node) -> AllocRequest:
        if message.count == 3:
            raise RuntimeError("of no kind that a client is told")
        return original(message, node)

    original = convert.alloc_request
    monkeypatch.setattr(convert, "alloc_request", alloc_request)
    async with grpc.aio.insecure_channel(demo.addresses[0].grpc) as channel:
        stub: Any = memory_service_pb2_grpc.MemoryServiceStub(channel)
        opened = session_info(
            await stub.OpenSession(pb2.OpenSessionRequest(request_id="open", lease_seconds=60))
        )
        call = stub.StreamPages()
        for count in (1, 2, 3, 4):
            request = pb2.AllocPagesRequest(**of(opened), request_id=str(count), count=count)
            await call.write(pb2.StreamPagesRequest(alloc=request))
        for count in (1, 2):
            assert len((await call.read()).alloc.pages[0].pfns) == 8 * count
        with pytest.raises(grpc.aio.AioRpcError, match="internal error"):
            await call.read()
        await stub.CloseSession(pb2.CloseSessionRequest(**of(opened), request_id="close"))
    demo.check()


async def read_on(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
