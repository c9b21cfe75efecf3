"""Slab caches that clients make, share, write to and destroy: over real servers, for all nodes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc.aio
import numpy as np
import pytest
from loopback import Loopback
from numa_client import (
    AsyncMachine,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    NumaError,
    Unavailable,
)
from numa_client._gen.numa.v1 import machine_service_pb2 as pb2
from numa_client._gen.numa.v1 import machine_service_pb2_grpc

from numa_service.machine.presets import load_preset
from numa_service.machine.record import MachineRecord

SLAB = "/sys/kernel/slab"


@pytest.fixture(params=["slub", "slab", "slob"])
async def any_machine(request: pytest.FixtureRequest) -> AsyncIterator[Loopback]:
    machine = Loopback(replace(load_preset("demo"), slab=request.param))
    await machine.start()
    yield machine
    await machine.stop()


async def line(client: AsyncMachine, cache: str) -> list[str]:
    text = await client.read_file("/proc/slabinfo")
    return next((line.split() for line in text.splitlines() if line.startswith(f"{cache} ")), [])


async def test_a_cache_comes_and_goes_on_all_nodes(any_machine: Loopback) -> None:
    async with await any_machine.client() as client:
        assert await client.kmem_cache_create("mine", 1000, flags="SLAB_NO_MERGE") == "mine"
        async with client.session(cpu=0) as near, client.session(cpu=2) as far:
            some = [await s.kmem_cache_alloc("mine", 30, node=n) for s in (near, far) for n in (0, 1)]
            told = r"have objects of it|still has objects|Objects remaining in mine"
            with pytest.raises(FailedPrecondition, match=told):
                await client.kmem_cache_destroy("mine")
            again = await near.kmem_cache_alloc("mine", 5)  # it is as it was
            await near.kmem_cache_free("mine", np.concatenate([some[0], some[1], again]))
            await far.kmem_cache_free("mine", np.concatenate(some[2:]))
            assert await client.kmem_cache_destroy("mine")
            with pytest.raises(NotFound, match="cache mine"):
                await near.kmem_cache_alloc("mine")
            with pytest.raises(NotFound, match="cache mine"):
                await client.kmem_cache_destroy("mine")
            assert "mine" not in [info.name for info in await client.slabinfo()]
            # the name is free again, for another kind of objects
            await client.kmem_cache_create("mine", 64, flags="SLAB_NO_MERGE")
            await far.kmem_cache_alloc("mine", 100)
    any_machine.check()


async def test_what_is_shown_of_a_new_cache(demo: Loopback, client: AsyncMachine) -> None:
    own = await client.kmem_cache_create(
        "foo_cache", 100, align=64, flags="SLAB_RECLAIM_ACCOUNT", ctor="foo_init+0x0/0x20 [foo]"
    )
    assert own == "foo_cache"
    read = lambda file: client.read_file(f"{SLAB}/foo_cache/{file}")  # noqa: E731
    assert await read("ctor") == "foo_init+0x0/0x20 [foo]\n"
    assert await client.read_file(f"{SLAB}/dentry/ctor") == ""
    assert [await read(file) for file in ("object_size", "slab_size", "align", "reclaim_account")] == [
        "100\n",
        "128\n",
        "64\n",
        "1\n",
    ]
    assert (await line(client, "foo_cache"))[1:5] == ["0", "0", "128", "32"]
    async with client.session(cpu=0) as session:
        await session.kmem_cache_alloc("foo_cache", 40, node=1)
        assert await read("slabs") == "2 N1=2\n"
        assert (await line(client, "foo_cache"))[1:3] == ["64", "64"]
    assert [info.name for info in await client.slabinfo()][-1] == "foo_cache"
    demo.check()


async def test_caches_that_fit_are_shared(demo: Loopback, client: AsyncMachine) -> None:
    assert await client.kmem_cache_create("first", 240) == "first"
    assert await client.kmem_cache_create("second", 236) == "first"
    shared = await client.kmem_cache_create("third", 48)
    assert shared == "shared_policy_node"
    assert await client.read_file(f"{SLAB}/second/aliases") == "1\n"
    assert [e.target for e in await client.list_dir(SLAB) if e.name in ("first", "second")] == [
        ":0000240"
    ] * 2
    async with client.session(cpu=0) as session:
        objects = await session.kmem_cache_alloc("second", 3)
        assert not await client.kmem_cache_destroy("first")  # which asks nobody: second needs it
        with pytest.raises(NotFound, match="cache first"):
            await session.kmem_cache_alloc("first")
        with pytest.raises(InvalidRequest, match="there is a cache first"):
            await client.kmem_cache_create("first", 240)
        with pytest.raises(FailedPrecondition, match="first: Slab cache still has objects"):
            await client.kmem_cache_destroy("second")
        await session.kmem_cache_free("second", objects)
    assert await client.kmem_cache_destroy("second")
    assert not await client.kmem_cache_destroy("third")
    assert await line(client, "first") == []
    assert await line(client, shared)
    with pytest.raises(FailedPrecondition, match="who made it still needs it"):
        await client.kmem_cache_destroy("dentry")
    demo.check()


async def test_slab_nomerge_keeps_them_apart() -> None:
    machine = Loopback(replace(load_preset("demo"), cmdline="slab_nomerge"))
    await machine.start()
    try:
        async with await machine.client() as client:
            assert await client.kmem_cache_create("first", 240) == "first"
            assert await client.kmem_cache_create("second", 240) == "second"
    finally:
        await machine.stop()


async def test_the_report_of_a_cache_with_objects(demo: Loopback, client: AsyncMachine) -> None:
    """As printed: what is in partial slabs of the first node that has any, with addresses and offsets."""
    await client.kmem_cache_create("mine", 2000)
    async with client.session(cpu=0) as session:
        objects = await session.kmem_cache_alloc("mine", 20, node=1)
        await session.kmem_cache_free("mine", objects[3:])
        before = [demo.node(nid).kmem.known_objects() for nid in (0, 1, 2)]
        with pytest.raises(FailedPrecondition) as refused:
            await client.kmem_cache_destroy("mine")
        assert refused.value.reason == "SLAB_BUG"
        report = refused.value.metadata["report"].splitlines()
        assert report[0] == ("BUG mine (Not tainted): Objects remaining in mine on __kmem_cache_shutdown()")
        assert report[1:4] == [
            f"Object 0x{at:016x} @offset={at - min(objects)}" for at in sorted(objects[:3].tolist())
        ]
        assert report[-1] == "kmem_cache_destroy mine: Slab cache still has objects"
        held = [demo.node(nid).kmem.known_objects() for nid in (0, 1, 2)]
        assert {at for known in held for at in known} == set(objects[:3].tolist())
        assert {at for known in held for at in known} <= {at for known in before for at in known}
    demo.check()


async def test_a_node_that_was_away_learns_of_caches(demo: Loopback, client: AsyncMachine) -> None:
    await client.kmem_cache_create("old", 500, flags="SLAB_NO_MERGE")
    await demo.kill(1)
    creating = asyncio.create_task(client.kmem_cache_create("new", 700, flags="SLAB_NO_MERGE"))
    assert await creating == "new"
    with pytest.raises(Unavailable, match="node 1"):
        await AsyncMachine.kmem_cache_destroy(await demo.client(timeout=3), "old")
    assert demo.node(0).kmem.knows("old")
    await demo.revive(1)
    await demo.until(lambda: demo.node(1).kmem.knows("new"))
    async with client.session(cpu=0) as session:
        await session.kmem_cache_alloc("old", 5, node=1)  # it lives again
        await session.kmem_cache_alloc("new", 5, node=1)
    await demo.restart(1)
    async with client.session(cpu=2) as session:
        await session.kmem_cache_alloc("new", 5)
    assert await client.kmem_cache_destroy("old")
    assert not any(demo.node(nid).kmem.knows("old") for nid in (0, 1, 2))
    demo.check()


@pytest.mark.parametrize(
    ("args", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": ":0000064"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "kmalloc-large-1"}, "name"),
        ({"name": "dentry"}, "name: there is a cache dentry"),
        ({"name": "fs_cache"}, "name: there is a cache fs_cache"),
        ({"size": 0}, "size"),
        ({"size": (4 << 20) + 1}, "size"),
        ({"align": 3}, "align"),
        ({"align": 8192}, "align"),
        ({"flags": "SLAB_NO_SUCH"}, "flags"),
        ({"flags": "SLAB_KMALLOC"}, "flags"),
        ({"ctor": "a\nb"}, "ctor"),
        ({"usersize": 101}, "usersize"),
    ],
)
async def test_bad_requests_name_the_field(
    demo: Loopback, client: AsyncMachine, args: dict[str, Any], field: str
) -> None:
    before = demo.digests(), demo.keeper.record
    with pytest.raises(InvalidRequest, match=f"^{re.escape(field)}"):
        await client.kmem_cache_create(**{"name": "mine", "size": 100} | args)
    assert (demo.digests(), demo.keeper.record) == before


async def test_there_are_not_too_many(demo: Loopback, client: AsyncMachine) -> None:
    for number in range(256):
        await client.kmem_cache_create(f"mine-{number}", 8 * number + 8)
    with pytest.raises(NumaError, match="256 slab caches"):
        await AsyncMachine.kmem_cache_create(await demo.client(timeout=2), "another", 100)


async def test_a_repeated_id_gets_the_first_reply(demo: Loopback) -> None:
    async with grpc.aio.insecure_channel(demo.address) as channel:
        stub: Any = machine_service_pb2_grpc.MachineServiceStub(channel)
        create = pb2.CreateCacheRequest(request_id="a", name="mine", size=100)
        assert await stub.CreateCache(create) == await stub.CreateCache(create)
        destroy = pb2.DestroyCacheRequest(request_id="b", name="mine")
        assert await stub.DestroyCache(destroy) == await stub.DestroyCache(destroy)
        with pytest.raises(grpc.aio.AioRpcError, match="request_id"):
            await stub.CreateCache(pb2.CreateCacheRequest(name="mine", size=100))


async def test_limits_that_are_written_are_every_nodes(demo: Loopback, client: AsyncMachine) -> None:
    folder = f"{SLAB}/filp"
    for file, text, shown in (
        ("min_partial", "0\n", "0"),
        ("min_partial", "18446744073709551615", "18446744073709551615"),
        ("min_partial", "+7", "7"),
        ("cpu_partial", "4", "4"),
        ("cpu_partial", "0", "0"),
    ):
        assert await client.write_file(f"{folder}/{file}", text) == ""
        assert await client.read_file(f"{folder}/{file}") == f"{shown}\n"
    note = await client.write_file(f"{folder}/remote_node_defrag_ratio", "30")
    assert "changes nothing" in note
    assert await client.read_file(f"{folder}/remote_node_defrag_ratio") == "30\n"
    async with client.session(cpu=0) as session:
        objects = await session.kmem_cache_alloc("filp", 200, node=1)
        await session.kmem_cache_free("filp", objects)
        # no CPU keeps partial slabs, and the node seven empty ones
        assert (await client.read_file(f"{folder}/slabs_cpu_partial")).startswith("0(0)")
        assert (await client.read_file(f"{folder}/partial")) == "7 N1=7\n"
    await demo.restart(1)
    assert MachineRecord.unpack(demo.keeper.record.pack()) == demo.keeper.record
    async with client.session(cpu=2) as session:
        objects = await session.kmem_cache_alloc("filp", 200)
        await session.kmem_cache_free("filp", objects)
    assert (await client.read_file(f"{folder}/partial")) == "7 N1=7\n"
    demo.check()


async def test_partial_slabs_of_cpus_go_back_when_the_limit_is_written(
    demo: Loopback, client: AsyncMachine
) -> None:
    async with client.session(cpu=0) as session:
        objects = await session.kmem_cache_alloc("filp", 200)
        await session.kmem_cache_free("filp", objects)
        assert not (await client.read_file(f"{SLAB}/filp/slabs_cpu_partial")).startswith("0(0)")
        await client.write_file(f"{SLAB}/filp/cpu_partial", "100")
        assert await client.read_file(f"{SLAB}/filp/slabs_cpu_partial") == "0(0)\n"
        assert await client.read_file(f"{SLAB}/filp/cpu_slabs") == "0\n"
    demo.check()


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("min_partial", "-1", "EINVAL"),
        ("min_partial", "five", "EINVAL"),
        ("min_partial", "18446744073709551616", "ERANGE"),
        ("cpu_partial", "4294967296", "ERANGE"),
        ("cpu_partial", "", "EINVAL"),
        ("remote_node_defrag_ratio", "101", "ERANGE"),
        ("validate", "0", "EINVAL"),
        ("validate", "1", "EINVAL"),  # without debugging nothing is checked
    ],
)
async def test_what_a_kernel_refuses_changes_nothing(
    demo: Loopback, client: AsyncMachine, file: str, text: str, error: str
) -> None:
    before = demo.digests(), demo.keeper.record
    with pytest.raises(InvalidRequest, match=error):
        await client.write_file(f"{SLAB}/filp/{file}", text)
    with pytest.raises(FailedPrecondition, match="EACCES"):
        await client.write_file(f"{SLAB}/filp/order", "1")
    assert (demo.digests(), demo.keeper.record) == before


async def test_a_cache_with_debugging_has_no_slabs_of_cpus(client: AsyncMachine) -> None:
    await client.kmem_cache_create("checked", 100, flags="SLAB_RED_ZONE")
    await client.write_file(f"{SLAB}/checked/cpu_partial", "0")
    with pytest.raises(InvalidRequest, match="EINVAL"):
        await client.write_file(f"{SLAB}/checked/cpu_partial", "1")
