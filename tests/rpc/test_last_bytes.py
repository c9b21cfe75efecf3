"""Requests and replies that pass as the bytes they came as, or were kept as."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from loopback import Loopback, of
from numa_client import AsyncMachine
from numa_client._channel import async_channel
from numa_client._gen.numa.v1 import memory_service_pb2 as pb2
from numa_client._gen.numa.v1 import memory_service_pb2_grpc as pb2_grpc

from numa_service.rpc import requests
from numa_service.rpc.last_bytes import PACKED, RECEIVED, LastBytes


def test_bytes_are_those_of_the_message_alone() -> None:
    last, one, other = LastBytes(), pb2.FreePagesRequest(cpu=1), pb2.FreePagesRequest(cpu=2)
    last.note(one, b"one's")
    assert last.of(one) == b"one's"
    assert last.of(other) == other.SerializeToString() != last.of(one)


def test_no_request_has_a_map() -> None:
    """The same fields would have other bytes then, and a repeat be taken for another request."""
    seen: set[str] = set()

    def look(of: Descriptor) -> None:
        if of.full_name not in seen:
            seen.add(of.full_name)
            assert not of.GetOptions().map_entry, of.full_name
            for field in of.fields:
                if field.message_type is not None:
                    look(field.message_type)

    for service in requests._SERVICES:
        for method in service.methods:
            if "request_id" in method.input_type.fields_by_name:
                look(method.input_type)
    assert len(seen) > 30


async def test_a_unary_call_is_serialised_once_each_way(
    demo: Loopback, client: AsyncMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its first reply is that reply; a repeat gets it, another request under its id is refused."""
    known: list[bool] = []
    call_of = requests.call_of

    def noted(asker: int, request: Any) -> Any:
        known.append(RECEIVED._last[0] is request)
        return call_of(asker, request)

    monkeypatch.setattr(requests, "call_of", noted)
    async with client.session(cpu=0) as session, async_channel(client.info.node(0).address) as channel:
        stub = pb2_grpc.MemoryServiceStub(channel)
        wanted = pb2.AllocPagesRequest(**of(session.info), request_id="one", count=4)
        got = await stub.AllocPages(wanted)
        kept = demo.node(0).replies[session.info.session, "one"]
        assert bytes(kept.reply) == got.SerializeToString() == PACKED._last[1]
        assert await stub.AllocPages(wanted) == got
        wanted.count = 5
        with pytest.raises(Exception, match="different request"):
            await stub.AllocPages(wanted)
    assert set(known) == {True}
