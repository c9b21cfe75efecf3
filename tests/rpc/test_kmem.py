"""Objects of slab caches over real servers: allocation, frees, wrong frees, repeats and lost nodes."""

from __future__ import annotations

import re
from typing import Any

import grpc
import numpy as np
import pytest
from loopback import Loopback, of
from numa_client import AsyncMachine, FailedPrecondition, InvalidRequest, NotFound, NumaError
from numa_client._gen.numa.v1 import kmem_service_pb2 as pb2
from numa_client._gen.numa.v1 import kmem_service_pb2_grpc

from numa_service.node import ops


async def slabs(client: AsyncMachine, cache: str, node: int | None = None) -> int:
    return next(info.slabs for info in await client.slabinfo(node) if info.name == cache)


async def test_objects_come_and_go(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        got = await session.kmem_cache_alloc("dentry", 100)
        assert len(np.unique(got)) == 100
        (info,) = [info for info in await client.slabinfo(0) if info.name == "dentry"]
        assert info.objects == info.slabs * info.objects_per_slab
        assert info.active_objects >= 100
        assert await slabs(client, "dentry") == info.slabs
        kmalloced = await session.kmalloc(97, 3)
        assert await slabs(client, "kmalloc-128", 0) == 1
        await session.kmem_cache_free("dentry", got[:50])
        await session.kfree(np.concatenate([got[50:], kmalloced]))
        assert demo.node(0).kmem.held == 0
        assert await client.kmem_cache_shrink("dentry") == 0
    demo.check()


async def test_objects_of_another_node_are_asked_for(demo: Loopback, client: AsyncMachine) -> None:
    """Slabs, objects and frees pass between nodes; a CPU of node 0 never had slabs of node 1 before."""
    async with client.session(cpu=0) as session:
        got = await session.kmem_cache_alloc("filp", 200, node=1)
        assert set(demo.node(1).kmem.taken) >= set(got.tolist())
        assert await slabs(client, "filp", 1) > 1
        assert await slabs(client, "filp", 0) == 0
        assert len([op for op in demo.of(1, ops.Alloc) if op.slab == "filp"]) == await slabs(
            client, "filp", 1
        )
        await session.kmem_cache_free("filp", got)
        assert {op.call for op in demo.of(1, ops.KmemCall)} >= {"get_partial", "get_freelist", "free"}
    await client.kmem_cache_shrink("filp")
    assert await client.kmem_cache_shrink("filp") == 0
    assert demo.node(1).kmem.taken == {}
    demo.check()


async def test_the_end_of_a_session_frees_its_objects(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        for node in (0, 1, 2):
            await session.kmem_cache_alloc("filp", 100, node=node)
    assert demo.node(0).kmem.held == 0
    demo.check()


async def test_wrong_frees_come_with_the_kernels_report(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session, client.session(cpu=2) as other:
        kept, gone = await session.kmem_cache_alloc("filp", 2, node=1)
        (foreign,) = await other.kmem_cache_alloc("filp")
        (dentry,) = await session.kmem_cache_alloc("dentry")
        await session.kmem_cache_free("filp", np.array([gone]))
        for address, text in (
            (gone, "BUG filp (Not tainted): Object already free"),
            (kept + 8, "BUG filp (Not tainted): Invalid object pointer"),
            (dentry, "Wrong slab cache. filp but object is from dentry"),
        ):
            before = [demo.node(nid).kmem.dump() for nid in (0, 1, 2)]
            with pytest.raises(FailedPrecondition, match=re.escape(text)) as refused:
                await session.kmem_cache_free("filp", np.array([kept, address], "<u8"))
            assert refused.value.reason == "SLAB_BUG"
            assert text in refused.value.metadata["report"].splitlines()[0]
            assert [demo.node(nid).kmem.dump() for nid in (0, 1, 2)] == before
        with pytest.raises(FailedPrecondition, match="not the session's"):
            await session.kfree(np.array([foreign], "<u8"))
        await session.kmem_cache_free("filp", np.array([kept], "<u8"))
    demo.check()


async def test_what_a_restarted_node_had_is_lost(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        lost = await session.kmem_cache_alloc("filp", 10, node=1)
        kept = await session.kmem_cache_alloc("filp", 10, node=0)
        await demo.restart(1)
        with pytest.raises(NotFound, match="lost in the restart of node 1"):
            await session.kmem_cache_free("filp", lost)
        await session.kmem_cache_free("filp", kept)
        assert len(await session.kmem_cache_alloc("filp", 10, node=1)) == 10
    demo.check()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda s: s.kmem_cache_alloc("no such"), NotFound, "cache no such"),
        (lambda s: s.kmem_cache_alloc("filp", 0), InvalidRequest, "count"),
        (lambda s: s.kmem_cache_alloc("filp", 4097), InvalidRequest, "count"),
        (lambda s: s.kmem_cache_alloc("filp", cpu=2), InvalidRequest, "cpu"),
        (lambda s: s.kmem_cache_alloc("filp", node=7), InvalidRequest, "node"),
        (lambda s: s.kmem_cache_alloc("filp", gfp="GFP_WRONG"), InvalidRequest, "gfp_flags"),
        (lambda s: s.kmalloc(0), InvalidRequest, "size"),
        (lambda s: s.kmalloc((4 << 20) + 1), InvalidRequest, "size"),
        (lambda s: s.kfree(np.array([], "<u8")), InvalidRequest, "objects"),
        (lambda s: s.kfree(np.zeros(4097, "<u8")), InvalidRequest, "objects"),
        (lambda s: s.kmem_cache_free("no such", np.zeros(1, "<u8")), NotFound, "cache no such"),
    ],
)
async def test_bad_requests_name_the_field(
    demo: Loopback, client: AsyncMachine, call: Any, error: type[NumaError], text: str
) -> None:
    async with client.session(cpu=0) as session:
        before = demo.digests()
        with pytest.raises(error, match=text):
            await call(session)
        assert demo.digests() == before


async def test_a_repeated_id_gets_the_first_reply(demo: Loopback, client: AsyncMachine) -> None:
    async with (
        client.session(cpu=0) as session,
        grpc.aio.insecure_channel(demo.addresses[0].grpc) as channel,
    ):
        stub: Any = kmem_service_pb2_grpc.KmemServiceStub(channel)
        mine = of(session.info)
        alloc = pb2.AllocObjectsRequest(**mine, request_id="a", cache="filp", count=50, node=1)
        first = await stub.AllocObjects(alloc)
        assert await stub.AllocObjects(alloc) == first
        assert demo.node(0).kmem.held == 50
        free = pb2.FreeObjectsRequest(**mine, request_id="f", objects=first.objects)
        for _ in range(2):
            assert (await stub.FreeObjects(free)).freed_objects == 50
        assert demo.node(0).kmem.held == 0
        with pytest.raises(grpc.aio.AioRpcError, match=f"session {session.info.session}"):
            await stub.AllocObjects(
                pb2.AllocObjectsRequest(session=session.info.session, request_id="b", cache="filp", count=1)
            )
        with pytest.raises(grpc.aio.AioRpcError, match="64-bit"):
            await stub.FreeObjects(pb2.FreeObjectsRequest(**mine, request_id="o", objects=bytes(9)))
        with pytest.raises(grpc.aio.AioRpcError, match="cache no such"):
            await stub.ShrinkCache(pb2.ShrinkCacheRequest(request_id="s", cache="no such"))
    demo.check()
