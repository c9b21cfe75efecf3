"""Requests are carried out once: repeats, concurrent duplicates, clients that go away, leases that end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from loopback import Loopback, of
from numa_client import AsyncMachine, NotFound, OutOfMemory, Policy, PolicyMode, SessionInfo
from numa_client._codec import session_info
from numa_client._gen.numa.v1 import memory_service_pb2 as pb2
from numa_client._gen.numa.v1 import memory_service_pb2_grpc, types_pb2
from numa_client._status import from_rpc_error

from numa_service.machine.presets import load_preset
from numa_service.node import first_replies as replies
from numa_service.node import ops
from numa_service.node.first_replies import KEEP_SECONDS
from numa_service.node.node import Node
from numa_service.rpc import requests
from numa_service.rpc.server import NodeServer

SECOND = 1_000_000_000


@pytest.fixture
async def stub(demo: Loopback) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(demo.addresses[0].grpc) as channel:
        yield memory_service_pb2_grpc.MemoryServiceStub(channel)


async def open_session(stub: Any, lease_seconds: float = 30) -> SessionInfo:
    request = pb2.OpenSessionRequest(request_id="open", lease_seconds=lease_seconds)
    return session_info(await stub.OpenSession(request))


async def test_a_repeated_id_gets_the_first_reply(demo: Loopback, stub: Any) -> None:
    session = await open_session(stub)
    assert await open_session(stub) == session
    count = demo.free_pages()[0] + 50  # spills: node 2 is asked
    alloc = pb2.AllocPagesRequest(**of(session), request_id="a", count=count)
    first = await stub.AllocPages(alloc)
    after = demo.digests()
    assert await stub.AllocPages(alloc) == first
    assert demo.digests() == after
    free = pb2.FreePagesRequest(**of(session), request_id="f", pages=first.pages)
    assert (await stub.FreePages(free)).freed_pages == count
    assert (await stub.FreePages(free)).freed_pages == count
    close = pb2.CloseSessionRequest(**of(session), request_id="c")
    assert (await stub.CloseSession(close)).freed_pages == 0
    assert (await stub.CloseSession(close)).freed_pages == 0
    demo.check()


async def test_an_id_belongs_to_one_request(demo: Loopback, stub: Any) -> None:
    session = await open_session(stub)
    await stub.AllocPages(pb2.AllocPagesRequest(**of(session), request_id="a", count=1))
    region = pb2.MapRegionRequest(**of(session), request_id="a", nr_pages=2, kind=pb2.REGION_KIND_ANON)
    for other in (
        stub.AllocPages(pb2.AllocPagesRequest(**of(session), request_id="a", count=2)),
        stub.MapRegion(region),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="different request") as refused:
            await other
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert demo.node(0).held_pages() == 1
    other_session = session_info(await stub.OpenSession(pb2.OpenSessionRequest(request_id="another")))
    await stub.AllocPages(pb2.AllocPagesRequest(**of(other_session), request_id="a", count=2))
    assert demo.node(0).held_pages() == 3


async def test_duplicates_in_flight_share_one_attempt(demo: Loopback, stub: Any) -> None:
    session = await open_session(stub)
    alloc = pb2.AllocPagesRequest(**of(session), request_id="a", count=demo.free_pages()[0] + 50)
    got = await asyncio.gather(*(stub.AllocPages(alloc) for _ in range(5)))
    assert all(reply == got[0] for reply in got)
    assert len(demo.of(2, ops.Alloc)) == 1


async def test_a_failed_attempt_may_be_made_again(demo: Loopback, stub: Any) -> None:
    session = await open_session(stub)
    hog = await stub.AllocPages(
        pb2.AllocPagesRequest(**of(session), request_id="hog", count=65536, partial=True, policy=_bind(0))
    )
    again = pb2.AllocPagesRequest(**of(session), request_id="again", count=5000, policy=_bind(0))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.AllocPages(again)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await stub.FreePages(pb2.FreePagesRequest(**of(session), request_id="free", pages=hog.pages))
    assert len((await stub.AllocPages(again)).pages[0].pfns) == 5000 * 8


async def test_a_busy_neighbour_does_not_make_a_repeat_a_second_request(
    demo: Loopback, client: AsyncMachine, stub: Any
) -> None:
    session = await open_session(stub)
    alloc = pb2.AllocPagesRequest(**of(session), request_id="a", count=100)
    first = await stub.AllocPages(alloc)
    demo.clock.now_ns += (KEEP_SECONDS - 1) * SECOND
    async with client.session(cpu=0) as neighbour, neighbour.stream(window=64) as pages:
        got = await asyncio.gather(*(pages.alloc(count=1) for _ in range(8_700)))
        await asyncio.gather(*(pages.free(page) for page in got))
    assert await stub.AllocPages(alloc) == first
    assert demo.node(0).held_pages() == 100


async def test_who_asks_for_more_than_can_be_kept_is_refused_and_may_give_back(
    demo: Loopback, client: AsyncMachine, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session's first replies that must still be kept take all the room that it has."""
    monkeypatch.setattr(replies, "ASKER_BYTES_LIMIT", 1 << 15)
    monkeypatch.setattr(replies, "CHUNK", 8)
    session = await open_session(stub)
    served: list[Any] = []
    request = pb2.AllocPagesRequest(**of(session), count=1)

    async def ask_for_more() -> None:
        for number in range(1000):
            request.request_id = f"a{number}"
            served.append(await stub.AllocPages(request))

    with pytest.raises(grpc.aio.AioRpcError, match=f"session {session.session}: first replies") as refused:
        await ask_for_more()
    assert 8 < len(served) < 100
    error = from_rpc_error(refused.value)
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    assert error.retry_seconds == 1.0
    assert demo.node(0).held_pages() == len(served)
    # what it has been told it is told again, it may give back, and nobody else is concerned
    assert await stub.AllocPages(pb2.AllocPagesRequest(**of(session), request_id="a0", count=1)) == served[0]
    free = pb2.FreePagesRequest(**of(session), request_id="f", pages=served[0].pages)
    assert (await stub.FreePages(free)).freed_pages == 1
    async with client.session(cpu=0) as neighbour:
        await neighbour.alloc(count=1)
    demo.clock.now_ns += KEEP_SECONDS * SECOND
    monkeypatch.setattr(replies, "REPLIES_BYTES_LIMIT", 0)
    await stub.AllocPages(request)
    await stub.CloseSession(pb2.CloseSessionRequest(**of(session), request_id="c"))
    demo.check()


async def test_so_are_other_nodes(demo: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """When node 0 has asked node 2 for too much, its client is told to wait, and gets no OutOfMemory."""
    monkeypatch.setattr(replies, "ASKER_BYTES_LIMIT", 1 << 15)
    monkeypatch.setattr(replies, "CHUNK", 8)
    async with await demo.client(timeout=0.9) as client, client.session(cpu=0) as session:
        # the replies of node 0 itself are kept elsewhere
        monkeypatch.setattr(demo.node(0).replies, "_look", lambda now_ns: None)

        async def ask_for_more() -> None:
            for _ in range(1000):
                await session.alloc(count=1, policy=Policy.bind(2))

        with pytest.raises(OutOfMemory, match="node 0: first replies") as refused:
            await ask_for_more()
        assert (refused.value.reason, refused.value.retry_seconds) == ("LIMIT_EXCEEDED", 1.0)
        async with client.session(cpu=2) as other:
            await other.alloc(count=1, policy=Policy.bind(2))
    assert demo.node(2).held_pages() == 0


async def test_long_replies_are_kept_short(
    demo: Loopback, client: AsyncMachine, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeat gets the same pages, consecutive or not, when the session's first replies are compressed."""
    monkeypatch.setattr(requests, "FOLD_FROM_BYTES", 0)
    session = await open_session(stub)
    for number, (count, policy) in enumerate(((20_000, _bind(2)), (30_000, _bind(0)), (40_000, None))):
        alloc = pb2.AllocPagesRequest(**of(session), request_id=f"a{number}", count=count, policy=policy)
        first = await stub.AllocPages(alloc)
        assert await stub.AllocPages(alloc) == first
        kept = demo.node(0).replies[session.session, f"a{number}"].reply
        assert len(kept) < len(bytes(kept)) / 10
        assert bytes(kept) == first.SerializeToString()
        every_third = [types_pb2.NodePages(node=p.node, pfns=_thirds(p.pfns)) for p in first.pages]
        free = pb2.FreePagesRequest(**of(session), request_id=f"f{number}", pages=every_third)
        await stub.FreePages(free)


def _thirds(pfns: bytes) -> bytes:
    return np.frombuffer(pfns, "<u8")[::3].tobytes()


def _bind(nid: int) -> Any:
    return types_pb2.Policy(mode=types_pb2.POLICY_MODE_BIND, nodes=[nid])


async def test_a_client_that_goes_away_leaves_nothing_half_done(demo: Loopback, stub: Any) -> None:
    session = await open_session(stub)
    count = demo.free_pages()[0] + 50
    alloc = pb2.AllocPagesRequest(**of(session), request_id="a", count=count)
    call = stub.AllocPages(alloc)
    # the local part is done and node 2 has been asked: now the client hangs up
    task = asyncio.ensure_future(call)
    await demo.until(lambda: demo.of(0, ops.Alloc))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    reply = await stub.AllocPages(alloc)
    assert sum(len(pages.pfns) // 8 for pages in reply.pages) == count
    assert sum(demo.node(nid).held_pages() for nid in (0, 1, 2)) == count
    assert len(demo.of(0, ops.Alloc)) == 1
    demo.check()


async def test_a_lease_that_runs_out_frees_on_every_node(
    demo: Loopback, client: AsyncMachine, stub: Any
) -> None:
    before = demo.free_pages()
    doomed = await open_session(stub, lease_seconds=10)
    living = client.session(cpu=1, lease_seconds=60)
    await living.open()
    kept = await living.alloc(count=5)
    spread = pb2.AllocPagesRequest(**of(doomed), request_id="a", count=30)
    spread.policy.mode = 3
    spread.policy.nodes.extend([0, 1, 2])
    await stub.AllocPages(spread)
    assert {nid: demo.node(nid).held_pages() for nid in (0, 1, 2)} == {0: 15, 1: 10, 2: 10}
    demo.clock.now_ns += 9 * SECOND
    await stub.RenewSession(pb2.RenewSessionRequest(**of(doomed)))
    demo.clock.now_ns += 9 * SECOND
    demo.servers[0].check_leases()
    await stub.RenewSession(pb2.RenewSessionRequest(**of(doomed)))
    demo.clock.now_ns += 11 * SECOND
    demo.servers[0].check_leases()
    await demo.until(lambda: doomed.session not in demo.node(0).sessions)
    assert {nid: demo.node(nid).held_pages() for nid in (0, 1, 2)} == {0: 5, 1: 0, 2: 0}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.RenewSession(pb2.RenewSessionRequest(**of(doomed)))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    await living.free(kept)
    await living.close()
    assert demo.free_pages() == before
    demo.check()


async def test_a_lease_ends_by_itself_in_real_time() -> None:
    """The server notices it by its real clock, which no test moves here."""
    node = Node.boot(load_preset("uma"), 0)
    ended = asyncio.Event()
    node.observer = lambda _, op, __: ended.set() if isinstance(op, ops.EndSession) else None
    server = NodeServer(node)
    addresses = await server.start()
    async with grpc.aio.insecure_channel(addresses.grpc) as channel:
        await open_session(memory_service_pb2_grpc.MemoryServiceStub(channel), lease_seconds=1)
        async with asyncio.timeout(30):
            await ended.wait()
    await server.stop(0)
    assert node.sessions == {}


async def test_the_end_of_a_session_waits_for_its_requests(demo: Loopback, client: AsyncMachine) -> None:
    """Whatever comes first of concurrent alloc, touch and close, no page is left."""
    before = demo.free_pages()
    spill = demo.free_pages()[0] // 2
    for _ in range(3):
        session = client.session(cpu=0)
        await session.open()
        region = await session.map_region("anon", 2000, Policy(PolicyMode.INTERLEAVE, (1, 2)))
        results = await asyncio.gather(
            session.alloc(count=spill),
            session.alloc(count=spill),
            session.alloc(count=spill),
            region.touch(0, 2000),
            region.touch(0, 2000),
            session.close(),
            return_exceptions=True,
        )
        assert all(not isinstance(r, Exception) or isinstance(r, NotFound) for r in results), results
        assert {nid: demo.node(nid).held_pages() for nid in (0, 1, 2)} == {0: 0, 1: 0, 2: 0}
    assert demo.free_pages() == before
    demo.check()


async def test_touches_of_one_region_do_not_fault_a_page_twice(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        region = await session.map_region("anon", 1000, Policy(PolicyMode.PREFERRED, (1,)))
        touches = await asyncio.gather(*(region.touch(0, 1000) for _ in range(4)))
        assert sorted(t.fault_pages for t in touches) == [0, 0, 0, 1000]
        assert demo.node(1).held_pages() == 1000
        assert await region.unmap() == 1000
    demo.check()
