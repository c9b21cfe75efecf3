"""Events over the network: those that match the filter come, and a slow reader slows down nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from loopback import Loopback
from numa_client import AsyncMachine
from numa_client._gen.numa.v1 import trace_service_pb2 as pb2
from numa_client._gen.numa.v1 import trace_service_pb2_grpc as pb2_grpc

from numa_service.mm import tracepoints as tp
from numa_service.node.trace_ring import RING_EVENTS
from numa_service.rpc.tracepoints import MAX_GLOBS, MAX_LISTENERS, events_of
from numa_service.trace.tracepoint_formats import NAMES, NR_FIELDS, TRACEPOINTS, Event


@pytest.fixture
async def stub(demo: Loopback) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(demo.addresses[0].grpc) as channel:
        yield pb2_grpc.TraceServiceStub(channel)


async def begun(stub: Any, **request: Any) -> Any:
    """Start a stream, and wait until its node records events."""
    call = stub.StreamEvents(pb2.StreamEventsRequest(**request))
    first = await call.read()
    assert not first.kinds
    return call


async def collect(call: Any, count: int) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(20):
        while len(events) < count:
            events += events_of(0, await call.read())
    return events


def test_the_wire_knows_every_tracepoint() -> None:
    names = [name.removeprefix("TRACEPOINT_KIND_").lower() for name, _ in pb2.TracepointKind.items()]
    assert names == ["unspecified", *NAMES]


def test_the_contract_names_the_fields_in_order() -> None:
    """The comments of the enum in the .proto do: a client in another language has nothing else."""
    proto = (Path(__file__).resolve().parents[2] / "proto/numa/v1/trace_service.proto").read_text()
    body = proto[proto.index("enum TracepointKind {") : proto.index("// Events by column")]
    comment = ""
    for line in body.splitlines():
        if line.strip().startswith("//"):
            comment += " " + line.strip().removeprefix("//").strip()
        elif "TRACEPOINT_KIND_MM" in line:
            kind = NAMES.index(line.split()[0].removeprefix("TRACEPOINT_KIND_").lower())
            told = comment.partition(": ")[2] if comment.split()[0].endswith(":") else comment
            assert told.partition(";")[0].strip() == ", ".join(TRACEPOINTS[kind][2])
            comment = ""


async def test_events_of_requests_arrive(demo: Loopback, client: AsyncMachine, stub: Any) -> None:
    call = await begun(stub, events=["mm_page_alloc", "kmem:mm_page_free"])
    async with client.session(cpu=0) as session:
        held = await session.alloc(count=50, gfp="GFP_KERNEL|__GFP_ZERO")
        await session.free(held)
    told = await collect(call, 100)
    assert [e.name for e in told] == ["mm_page_alloc"] * 50 + ["mm_page_free"] * 50
    assert [e.fields["pfn"] for e in told[:50]] == [e.fields["pfn"] for e in told[50:]]
    assert {e.fields["gfp_flags"] for e in told[:50]} == {0xDC0}
    assert {(e.comm, e.cpu, e.zone >= 0) for e in told} == {("node0", 0, True)}
    assert sorted(e.time_ns for e in told) == [e.time_ns for e in told]
    call.cancel()
    async with asyncio.timeout(20):
        while demo.servers[0].node.tracepoints.tracer:
            await asyncio.sleep(0.01)


async def test_a_stream_ends_when_it_has_enough(client: AsyncMachine, stub: Any) -> None:
    call = await begun(stub, events=["mm_page_alloc"], max_events=7, orders=[2], zones=["DMA32"])
    async with client.session(cpu=0) as session:
        await session.alloc(count=5)
        await session.alloc(2, count=10)
    told = await collect(call, 7)
    assert [(e.kind, e.fields["order"]) for e in told] == [(tp.MM_PAGE_ALLOC, 2)] * 7
    assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"events": ["mm_compaction_*"]}, "events"),
        ({"events": ["*"] * (MAX_GLOBS + 1)}, "events"),
        ({"events": ["m" * 200]}, "events"),
        ({"zones": ["Highmem"]}, "zones"),
        ({"orders": [11]}, "orders"),
    ],
)
async def test_what_does_not_exist_is_refused(stub: Any, request_: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.StreamEvents(pb2.StreamEventsRequest(**request_)).read()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith(f"{field}: ")


async def test_listeners_are_counted(demo: Loopback, stub: Any) -> None:
    calls = [await begun(stub) for _ in range(MAX_LISTENERS)]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.StreamEvents(pb2.StreamEventsRequest()).read()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert demo.servers[0].node.tracepoints.listeners == MAX_LISTENERS
    for call in calls:
        call.cancel()


async def test_who_does_not_read_slows_nobody_and_is_told(
    demo: Loopback, client: AsyncMachine, stub: Any
) -> None:
    """While the client sleeps, far more events happen than messages and ring buffer can hold."""
    call = await begun(stub)
    node = demo.servers[0].node
    tracer = node.tracepoints.tracer
    assert tracer
    async with client.session(cpu=0) as session:
        while tracer.written < 16 * RING_EVENTS:
            await session.free(await session.alloc(count=16_384))
    read = dropped = 0
    async with asyncio.timeout(30):
        while read + dropped < tracer.written:
            message = await call.read()
            assert len(message.values) == sum(NR_FIELDS[kind - 1] for kind in message.kinds)
            read += len(message.kinds)
            dropped = message.dropped_events
    assert dropped > 0
    assert read + dropped == tracer.written
    call.cancel()


async def test_objects_are_streamed_with_the_names_of_their_caches(
    demo: Loopback, client: AsyncMachine, stub: Any
) -> None:
    call = await begun(stub, events=["kmem_cache_*"], max_events=6)
    async with client.session(cpu=0) as session:
        got = []
        for cache in ("filp", "dentry"):
            objects = await session.kmem_cache_alloc(cache, 2 if cache == "filp" else 1)
            await session.kmem_cache_free(cache, objects)
            got += objects.tolist()
        told: list[Event] = []
        while len(told) < 6:
            told += events_of(0, await call.read())
    frees = [event for event in told if event.name == "kmem_cache_free"]
    assert sorted(event.fields["ptr"] for event in frees) == sorted(got)
    assert [event.fields["name"] for event in frees] == ["filp", "filp", "dentry"]
    assert {event.fields["node"] for event in told if event.name == "kmem_cache_alloc"} == {-1}
