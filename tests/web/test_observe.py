"""ObserveService and the feed on top of it, over real servers."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from consoled import Consoled
from numa_client._gen.numa.v1 import observe_service_pb2 as pb2
from numa_client._gen.numa.v1 import observe_service_pb2_grpc as pb2_grpc

from numa_service.rpc.observe import MAX_OBSERVERS, observe


async def until(condition) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_frames_say_what_the_node_is(consoled: Consoled) -> None:
    address = consoled.addresses[0].grpc
    frames = observe(address, 50)
    first = await anext(frames)
    assert (first.node, first.sequence) == (0, 1)
    assert "pgfree" in first.vm_event_names
    assert len(first.vm_event_names) == len(first.vm_events)
    client = await consoled.client()
    async with client, client.session(cpu=0) as session:
        got = await session.alloc(count=1000)
        async with asyncio.timeout(30):
            async for frame in frames:
                if frame.held_pages:
                    break
        assert frame.held_pages == got.nr_pages
        assert frame.sessions == 1
        assert not frame.vm_event_names
        node = consoled.node(0)
        state = await client.node(0)
        for zone, summary in zip(frame.zones, state.zones, strict=True):
            index = next(e.index for e in node.pgdat.extents if e.name == zone.zone)
            assert zone.free_pages == summary.free_pages
            assert (zone.min_pages, zone.low_pages, zone.high_pages) == (
                summary.min_pages,
                summary.low_pages,
                summary.high_pages,
            )
            assert list(zone.free_blocks) == node.pgdat.pg.nr_free[index].tolist()
            assert sum(n << order for order, n in enumerate(zone.free_blocks)) == zone.free_pages
    await frames.aclose()  # type: ignore[attr-defined]


async def test_a_reader_that_is_slow_misses_frames_and_gets_no_old_ones(consoled: Consoled) -> None:
    servicer = consoled.servers[0]._observe
    written: list[pb2.ObserveResponse] = []
    ready = asyncio.Event()

    class SlowContext:
        async def write(self, message: pb2.ObserveResponse) -> None:
            written.append(message)
            if len(written) == 2:
                ready.clear()
                await ready.wait()

    task = asyncio.create_task(servicer.Observe(pb2.ObserveRequest(interval_ms=50), SlowContext()))  # type: ignore[arg-type]
    await until(lambda: len(written) == 2)
    await asyncio.sleep(0.3)
    client = await consoled.client()
    async with client, client.session(cpu=0) as session:
        await session.alloc(count=10)
        ready.set()
        await until(lambda: len(written) > 2)
        assert written[2].sequence > written[1].sequence + 3
        assert written[2].held_pages == 10
    servicer.close()
    await task


async def test_limits(consoled: Consoled) -> None:
    address = consoled.addresses[0].grpc
    for interval_ms in (1, 49, 60_001):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anext(observe(address, interval_ms))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "interval_ms" in (refused.value.details() or "")
    async with grpc.aio.insecure_channel(address) as channel:
        stub = pb2_grpc.ObserveServiceStub(channel)
        calls = [stub.Observe(pb2.ObserveRequest()) for _ in range(MAX_OBSERVERS)]
        for call in calls:
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Observe(pb2.ObserveRequest()).read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in calls:
            call.cancel()
        await until(lambda: consoled.servers[0]._observe.observers == 0)
        assert (await stub.Observe(pb2.ObserveRequest()).read()).node == 0


async def test_the_feed_samples_only_while_somebody_looks(consoled: Consoled) -> None:
    feed = consoled.console.feed

    def observers() -> int:
        return sum(server._observe.observers for server in consoled.servers.values())

    assert observers() == 0
    async with feed.watched():
        async with feed.watched():
            await until(lambda: all(seen.frame for seen in feed.nodes.values()) and len(feed.nodes) == 3)
            assert observers() == 3
        assert observers() == 3
        version = feed.version
        # nothing happens: nothing is new
        assert not await feed.wait(version, 0.5)
    await until(lambda: observers() == 0)


async def test_a_node_that_goes_and_comes_back_is_told(consoled: Consoled) -> None:
    feed = consoled.console.feed
    async with feed.watched():
        await until(lambda: all(seen.frame for seen in feed.nodes.values()) and len(feed.nodes) == 3)
        await consoled.kill(1)
        await until(lambda: feed.nodes[1].frame is None)
        await consoled.revive(1)
        await until(lambda: feed.nodes[1].frame is not None)
    told = [(event.nid, event.kind, event.text) for event in feed.events.since(0)]
    assert (1, "node", "does not answer") in told
    assert (1, "node", "answers again") in told


async def test_pressure_is_told_as_events(consoled: Consoled) -> None:
    feed = consoled.console.feed
    client = await consoled.client()

    def kinds() -> set[str]:
        return {event.kind for event in feed.events.since(0)}

    async with feed.watched(), client:
        await until(lambda: all(seen.frame for seen in feed.nodes.values()) and len(feed.nodes) == 3)
        async with client.session(cpu=0) as session:
            while not consoled.servers[0]._instruments.fallback_pages:
                await session.alloc(count=4096, partial=True)
            await until(lambda: {"watermark", "fallback", "session"} <= kinds())
    told = [e.text for e in feed.events.since(0) if e.kind == "fallback"]
    assert any(text.endswith(" pages from node 2: fallback") for text in told)
    ids = [event.id for event in feed.events.since(0)]
    assert ids == list(range(1, len(ids) + 1))
