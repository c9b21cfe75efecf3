"""Only requests with the session's token can act for a session."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_status import rpc_status
from loopback import Loopback, of, pack
from numa_client import AsyncMachine, Phase, Policy, Program, SessionInfo
from numa_client._codec import session_info
from numa_client._gen.numa.v1 import memory_service_pb2 as pb2
from numa_client._gen.numa.v1 import (
    memory_service_pb2_grpc,
    types_pb2,
    workload_service_pb2,
    workload_service_pb2_grpc,
)
from numa_client._program import Mix
from numa_client._program_codec import run_request

from numa_service.node.node import Node
from numa_service.node.session_state import TOKEN_BYTES
from numa_service.node.transcript import Transcript

PROGRAM = Program((Phase(events=10, mixes=(Mix(),)),))


class Door:
    """The stubs of node 0, called without the client library."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.memory: Any = memory_service_pb2_grpc.MemoryServiceStub(channel)
        self.workload: Any = workload_service_pb2_grpc.WorkloadServiceStub(channel)

    async def open(self, request_id: str) -> SessionInfo:
        return session_info(await self.memory.OpenSession(pb2.OpenSessionRequest(request_id=request_id)))

    async def ask(self, request: Any) -> Any:
        """Call the method for a request; returns the last answer."""
        name = type(request).__name__.removesuffix("Request")
        if name == "RunProgram":
            return [report async for report in self.workload.RunProgram(request)][-1]
        return await getattr(self.memory, name)(request)

    async def ask_in_stream(self, request: Any) -> Any:
        """Send a request in a stream; returns the answer."""
        field = "alloc" if isinstance(request, pb2.AllocPagesRequest) else "free"
        call = self.memory.StreamPages()
        await call.write(pb2.StreamPagesRequest(**{field: request}))
        answer = await call.read()
        await call.done_writing()
        return answer


@pytest.fixture
async def door(demo: Loopback) -> AsyncIterator[Door]:
    async with grpc.aio.insecure_channel(demo.addresses[0].grpc) as channel:
        yield Door(channel)


def requests_of(session: SessionInfo, pfn: int, region: int) -> list[Any]:
    """A request of each kind that names a session; with the token all of them would succeed."""
    mine = of(session)
    page = [types_pb2.NodePages(node=0, pfns=pack([pfn]))]
    return [
        pb2.RenewSessionRequest(**mine),
        pb2.AllocPagesRequest(**mine, request_id="alloc", count=1),
        pb2.MapRegionRequest(**mine, request_id="map", kind=pb2.REGION_KIND_ANON, nr_pages=4),
        pb2.TouchRegionRequest(**mine, request_id="touch", region=region, count=1),
        pb2.BindRegionRequest(**mine, request_id="bind", region=region, nr_pages=4),
        pb2.MovePagesRequest(**mine, request_id="move", region=region, pages=[0]),
        pb2.MigratePagesRequest(**mine, request_id="migrate", old_nodes=[0], new_nodes=[1]),
        pb2.FreePagesRequest(**mine, request_id="free", pages=page),
        run_request(session, "run", PROGRAM, 0),
        pb2.UnmapRegionRequest(**mine, request_id="unmap", region=region),
        pb2.CloseSessionRequest(**mine, request_id="close"),
    ]


async def scene(door: Door) -> tuple[SessionInfo, list[Any]]:
    """A session that holds a page and has a region, and requests for it."""
    session = await door.open("mine")
    got = await door.ask(pb2.AllocPagesRequest(**of(session), request_id="a", count=1))
    mapped = pb2.MapRegionRequest(**of(session), request_id="m", kind=pb2.REGION_KIND_ANON, nr_pages=4)
    region = (await door.ask(mapped)).region
    await door.ask(pb2.TouchRegionRequest(**of(session), request_id="t", region=region, count=2))
    return session, requests_of(session, int.from_bytes(got.pages[0].pfns, "little"), region)


def wrong_tokens(session: SessionInfo, other: SessionInfo) -> list[bytes]:
    flipped = bytes([session.token[0] ^ 1]) + session.token[1:]
    return [b"", bytes(16), flipped, session.token[:15], session.token + b"\0", other.token]


async def refusal(call: Any) -> tuple[str, list[bytes]]:
    """The text and the details of a refusal, as the client gets them."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    status = rpc_status.from_call(refused.value)
    return refused.value.details() or "", [detail.SerializeToString() for detail in status.details]


def with_fields(request: Message, **fields: Any) -> Any:
    copy = type(request)()
    copy.CopyFrom(request)
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


async def test_without_its_token_a_session_is_as_unknown_as_one_that_never_was(
    demo: Loopback, door: Door
) -> None:
    session, requests = await scene(door)
    other = await door.open("other")
    for request in requests:
        # as long as the living session's, so that whole statuses can be compared
        unknown = await refusal(door.ask(with_fields(request, session=session.session + 7)))
        before = demo.digests()
        for token in wrong_tokens(session, other):
            said = await refusal(door.ask(with_fields(request, session_token=token)))
            assert renumbered(said, session.session) == renumbered(unknown, session.session + 7)
        assert demo.digests() == before
    for request in requests:
        await door.ask(request)
    assert session.session not in demo.node(0).sessions
    demo.check()


def renumbered(said: tuple[str, list[bytes]], session: int) -> list[bytes]:
    text, details = said
    number = re.compile(rb"\b%d\b" % session)
    return [number.sub(b"N", part) for part in (text.encode(), *details)]


async def test_every_request_of_a_session_has_a_token(door: Door) -> None:
    """Every message with a field for a session has one for its token."""
    _, requests = await scene(door)
    files = pb2.DESCRIPTOR, workload_service_pb2.DESCRIPTOR
    kinds = [kind for file in files for kind in file.message_types_by_name.values()]
    named = [k for k in kinds if k.name.endswith("Request") and "session" in k.fields_by_name]
    assert {kind.name for kind in named} == {type(request).__name__ for request in requests}
    assert all("session_token" in kind.fields_by_name for kind in named)


async def test_in_a_stream_too(demo: Loopback, door: Door) -> None:
    _, requests = await scene(door)
    before = demo.digests()
    for request in requests:
        if isinstance(request, pb2.AllocPagesRequest | pb2.FreePagesRequest):
            answer = await door.ask_in_stream(with_fields(request, session_token=bytes(16)))
            assert b"unknown, closed, or its lease ran out" in answer.error
    assert demo.digests() == before


async def test_nobody_is_told_anothers_first_reply(demo: Loopback, door: Door) -> None:
    """Neither while the session lives, nor after its end."""
    session = await door.open("mine")
    alloc = pb2.AllocPagesRequest(**of(session), request_id="a", count=3)
    close = pb2.CloseSessionRequest(**of(session), request_id="c")
    first = await door.ask(alloc)
    await refusal(door.ask(with_fields(alloc, session_token=bytes(16))))
    assert await door.ask(alloc) == first
    closed = await door.ask(close)
    for request in (alloc, close):
        with pytest.raises(grpc.aio.AioRpcError):
            await door.ask(with_fields(request, session_token=bytes(16)))
    # who has it may repeat what ended the session, as an answer may be lost
    assert await door.ask(close) == closed
    assert closed.freed_pages == 3


async def test_tokens_are_long_and_each_is_another(door: Door) -> None:
    tokens = [(await door.open(f"session {n}")).token for n in range(50)]
    assert {len(token) for token in tokens} == {TOKEN_BYTES}
    assert len(set(tokens)) == 50
    # each bit comes up both ways, but once in 2^42 runs
    numbers = [int.from_bytes(token, "big") for token in tokens]
    ones = [sum(number >> bit & 1 for number in numbers) for bit in range(8 * TOKEN_BYTES)]
    assert 0 < min(ones) <= max(ones) < 50
    # an opening that is repeated is the same session
    assert (await door.open("session 0")).token == tokens[0]


async def test_a_token_is_in_the_state_and_in_the_log_and_nowhere_to_be_read(
    demo: Loopback, client: AsyncMachine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    transcript = Transcript()
    demo.node(0).observer = transcript.observe
    async with client.session(cpu=0) as session:
        token = session.info.token
        await session.alloc(count=3, policy=Policy.bind(2))
        node = demo.node(0)
        assert node.sessions[session.info.session].token == token
        replayed = Node.replay(demo.spec, 0, list(node.log))
        assert replayed.digest() == node.digest()
        assert replayed.sessions[session.info.session].token == token
        node.sessions[session.info.session].token = bytes(16)
        assert replayed.digest() != node.digest()
        node.sessions[session.info.session].token = token
        shown = [repr(session.info), repr(node.sessions), repr(list(node.log)), transcript.text, caplog.text]
        shown += [str(await client.inspect(0)), str(await client.node(0))]
    for text in shown:
        for form in (token.hex(), repr(token), repr(token)[2:-1]):
            assert form not in text
