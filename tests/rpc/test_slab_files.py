"""Writes to files of slab caches, /proc/slabinfo and shrink: answers as captured, and every node follows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest
from loopback import Loopback, of
from numa_client import AsyncMachine, FailedPrecondition, InvalidRequest
from numa_client._gen.numa.v1 import kmem_service_pb2 as pb2
from numa_client._gen.numa.v1 import kmem_service_pb2_grpc

from numa_service.machine.presets import load_preset
from numa_service.machine.record import MachineRecord, SlabTunables
from numa_service.node.kmem_slab import SlabKmem

PATH = "/proc/slabinfo"


@pytest.fixture
async def slab() -> AsyncIterator[Loopback]:
    machine = Loopback(replace(load_preset("demo"), slab="slab"))
    await machine.start()
    yield machine
    await machine.stop()


@pytest.fixture
async def client(slab: Loopback) -> AsyncIterator[AsyncMachine]:
    async with await slab.client() as machine:
        yield machine


async def tunables(client: AsyncMachine, cache: str) -> list[str]:
    (line,) = [line for line in (await client.read_file(PATH)).splitlines() if line.startswith(f"{cache} ")]
    words = line.split()
    return words[words.index("tunables") + 1 :][:3]


async def test_what_is_written_every_node_has(slab: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        objects = await session.kmem_cache_alloc("dentry", 40)
        await session.kmem_cache_free("dentry", objects)
        assert await tunables(client, "dentry") == ["120", "60", "8"]
        await client.write_file(PATH, "dentry 20 5 2\n")
        assert await tunables(client, "dentry") == ["20", "5", "2"]
        for nid in (0, 1, 2):
            kmem = slab.node(nid).kmem
            assert isinstance(kmem, SlabKmem)
            here = kmem.at("dentry")
            assert not any(array.entry for array in here.cpus.values())
            assert {array.limit for array in here.cpus.values()} <= {20}
            assert here.node.shared is not None
            assert here.node.shared.limit == 10
        await slab.restart(1)
        await client.write_file(PATH, "kmalloc-1k 1 1 0")
        assert slab.node(1).kmem.count("dentry").tunables == (20, 5, 2)
        await session.kmem_cache_alloc("kmalloc-1k", 3, node=1)
    slab.check()


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("filp 16 8 16", "no cache is called 'filp'"),  # it is merged
        ("no_such_cache 60 30 4", "no cache is called"),
        ("kmalloc-256 60 30", "not a cache and three numbers"),
        ("kmalloc-256 60 30 " + "4" * 128, "more than 128 bytes"),
        ("kmalloc-256 60 30 99999999999", "too large"),
        ("kmalloc-128 30 60 4", ""),
        ("kmalloc-128 0 0 0", ""),
        ("kmalloc-128 60 30 -1", ""),
    ],
)
async def test_what_makes_no_sense_changes_nothing(
    slab: Loopback, client: AsyncMachine, text: str, refused: str
) -> None:
    """As captured: some numbers are EINVAL, others are taken and without effect."""
    before = slab.digests()
    if refused:
        with pytest.raises(InvalidRequest, match=f"EINVAL.*{refused}"):
            await client.write_file(PATH, text)
    else:
        await client.write_file(PATH, text)
    assert slab.digests() == before


async def test_with_slub_nobody_may_write(demo: Loopback) -> None:
    async with await demo.client() as client:
        with pytest.raises(FailedPrecondition, match="EACCES"):
            await client.write_file(PATH, "dentry 20 5 2")


async def test_a_cache_of_slub_is_shrunk_on_all_nodes(demo: Loopback) -> None:
    path = "/sys/kernel/slab/filp/shrink"
    async with await demo.client() as client, client.session(cpu=0) as near, client.session(cpu=2) as far:
        for session, node in ((near, 0), (near, 1), (far, 0), (far, 1)):
            got = await session.kmem_cache_alloc("filp", 100, node=node)
            await session.kmem_cache_free("filp", got)
        assert sum(demo.node(nid).kmem.count("filp").slabs for nid in (0, 1, 2))
        for text in ("0", ""):
            with pytest.raises(InvalidRequest, match="EINVAL"):
                await client.write_file(path, text)
        with pytest.raises(FailedPrecondition, match="EACCES"):
            await client.write_file("/sys/kernel/slab/filp/order", "1")
        assert await client.read_file(path) == ""
        await client.write_file(path, "1\n")
        assert not sum(demo.node(nid).kmem.count("filp").slabs for nid in (0, 1, 2))
    demo.check()


async def test_replies_carry_what_pages_and_questions_took(slab: Loopback, client: AsyncMachine) -> None:
    async with (
        client.session(cpu=0) as session,
        grpc.aio.insecure_channel(slab.addresses[0].grpc) as channel,
    ):
        stub: Any = kmem_service_pb2_grpc.KmemServiceStub(channel)
        mine = of(session.info)
        size = {"size": 20_000, "count": 1, "node": 1}
        large = await stub.Kmalloc(pb2.KmallocRequest(**mine, request_id="a", **size))
        latency = slab.spec.latency
        assert large.cost.latency_ns >= latency.remote_lookup_ns
        ask = pb2.AllocObjectsRequest(**mine, cache="dentry", count=1)
        ask.request_id = "b"
        assert (await stub.AllocObjects(ask)).cost.latency_ns > 0
        ask.request_id = "c"
        assert (await stub.AllocObjects(ask)).cost.latency_ns == 0
        free = pb2.FreeObjectsRequest(**mine, request_id="f", objects=large.objects)
        assert (await stub.FreeObjects(free)).cost.latency_ns >= latency.remote_lookup_ns
    slab.check()


def test_a_record_keeps_the_last_write_of_each_cache() -> None:
    record = MachineRecord().with_tunables(SlabTunables("dentry", 20, 5, 2)).with_sysctl("vm.swappiness", "7")
    record = record.with_tunables(SlabTunables("dentry", 30, 10, 0)).with_tunables(
        SlabTunables("inode", 1, 1, 0)
    )
    assert MachineRecord.unpack(record.pack()) == record
    assert [version for version, _ in record.news()] == [2, 3, 4]
    for broken in (b"x", b"\x92\x01\x91\x93\x01\x09\x90"):
        with pytest.raises(ValueError, match="not a machine's record"):
            MachineRecord.unpack(broken)
