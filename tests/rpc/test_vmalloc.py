"""Kernel virtual addresses over real servers: vmalloc, vmap and kmap, wrong calls, repeats and lost nodes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from loopback import Loopback, of
from numa_client import (
    AsyncMachine,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    NumaError,
    OutOfMemory,
    Policy,
)
from numa_client._gen.numa.v1 import vmalloc_service_pb2 as pb2
from numa_client._gen.numa.v1 import vmalloc_service_pb2_grpc

from numa_service.machine.machinefile import parse_machine
from numa_service.mm.highmem.rules import LAST_PKMAP, PKMAP_BASE
from numa_service.node import ops
from numa_service.procfs import tree
from tests.node.test_highmem import TWO_NODES_32_BIT

KIB = 1 << 10


def vmallocinfo(demo: Loopback) -> list[str]:
    """What the file has of sessions: the node that keeps the addresses is node 0."""
    text = tree.read(demo.node(0).machine.snapshot(), "/proc/vmallocinfo")
    return [line.split(" ", 1)[1].strip() for line in text.splitlines() if "driver" in line]


@pytest.mark.parametrize("cpu", [0, 2])
async def test_areas_come_and_go(demo: Loopback, client: AsyncMachine, cpu: int) -> None:
    async with client.session(cpu=cpu) as session:
        area = await session.vmalloc(40 * KIB, caller="driver_probe+0x10/0x20 [driver]")
        home = session.info.node
        assert (home, area.pages) == (cpu // 2, {home: 10})
        there = await session.vmalloc(KIB, node=2, caller="driver_open")
        mapped = await session.vmap(3, caller="driver_map")
        assert vmallocinfo(demo) == [
            f"45056 driver_probe+0x10/0x20 [driver] pages=10 vmalloc N{home}=10",
            "8192 driver_open pages=1 vmalloc N2=1",
            "16384 driver_map vmap",
        ]
        assert await session.vfree(area.address) == 10
        assert await session.vfree(0) == 0
        await session.vunmap(mapped)
        assert len(vmallocinfo(demo)) == 1
        assert there.pages == {2: 1}
    assert vmallocinfo(demo) == []
    assert await client.check() == {}
    demo.check()


@pytest.mark.parametrize("cpu", [0, 2])
async def test_wrong_addresses_come_with_the_kernels_report(
    demo: Loopback, client: AsyncMachine, cpu: int
) -> None:
    async with client.session(cpu=cpu) as session, client.session(cpu=cpu) as other:
        area = await session.vmalloc(3 * KIB)
        areas = demo.node(0).machine.vmalloc.dump()
        for call, address, report in (
            (session.vfree, area.address + 8, f"Trying to vfree() bad address ({area.address + 8:016x})"),
            (session.vfree, area.address + (1 << 40), "Trying to vfree() nonexistent vm area"),
            (session.vunmap, area.address + (1 << 40), "Trying to vfree() nonexistent vm area"),
        ):
            with pytest.raises(FailedPrecondition, match=re.escape(report)) as refused:
                await call(address)
            assert refused.value.reason == "KERNEL_BUG"
            assert refused.value.metadata["report"].startswith(report)
        with pytest.raises(FailedPrecondition, match="belongs to another session"):
            await other.vfree(area.address)
        assert demo.node(0).machine.vmalloc.dump() == areas
        assert len(demo.of(0, ops.FreeVmArea)) == 0
        with pytest.raises(OutOfMemory) as failed:
            await session.vmalloc(1 << 50)
        assert failed.value.metadata["report"].startswith("vmalloc error: size")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda s: s.vmalloc(0), InvalidRequest, "size"),
        (lambda s: s.vmalloc((256 << 20) + 1), InvalidRequest, "size"),
        (lambda s: s.vmalloc(1, cpu=5), InvalidRequest, "cpu"),
        (lambda s: s.vmalloc(1, node=9), InvalidRequest, "node"),
        (lambda s: s.vmalloc(1, caller="a b c"), InvalidRequest, "caller"),
        (lambda s: s.vmalloc(1 << 64), InvalidRequest, "size"),
        (lambda s: s.vmap(0), InvalidRequest, "count"),
        (lambda s: s.vmap(1 << 17), InvalidRequest, "count"),
        (lambda s: s.kmap(1 << 60), NotFound, "page"),
        (lambda s: s.kmap(7), FailedPrecondition, "not the session's"),
        (lambda s: s.kmap_atomic(1 << 60), InvalidRequest, "pfn"),
        (lambda s: s.kmap_atomic(7, cpu=9), InvalidRequest, "cpu"),
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
        client.session(cpu=2) as session,
        grpc.aio.insecure_channel(demo.addresses[1].grpc) as channel,
    ):
        stub: Any = vmalloc_service_pb2_grpc.VmallocServiceStub(channel)
        mine = of(session.info)
        made = pb2.VmallocRequest(**mine, request_id="a", size_bytes=1, caller="driver", cpu=2)
        first = await stub.Vmalloc(made)
        assert await stub.Vmalloc(made) == first
        assert len(vmallocinfo(demo)) == 1
        free = pb2.VfreeRequest(**mine, request_id="f", address=first.address, cpu=2)
        for _ in range(2):
            assert (await stub.Vfree(free)).freed_pages == 1


async def test_what_the_keeper_of_the_addresses_had_is_lost_with_it(
    demo: Loopback, client: AsyncMachine
) -> None:
    async with client.session(cpu=2) as session:
        area = await session.vmalloc(1, caller="driver")
        await demo.restart(0)
        assert vmallocinfo(demo) == []
        with pytest.raises(NotFound, match="lost in the restart of node 0"):
            await session.vfree(area.address)
        again = await session.vmalloc(1, caller="driver")
        assert len(vmallocinfo(demo)) == 1
        assert await session.vfree(again.address) == 1
    assert await client.check() == {}
    demo.check()


async def test_a_home_that_restarts_leaves_no_areas(demo: Loopback, client: AsyncMachine) -> None:
    session = client.session(cpu=2)
    await session.open()
    await session.vmalloc(1, node=0, caller="driver")
    await demo.restart(1)
    assert vmallocinfo(demo) == []
    assert await client.check() == {}
    demo.check()


@pytest.fixture
async def highmem() -> AsyncIterator[Loopback]:
    machine = Loopback("i386-highmem")
    await machine.start()
    yield machine
    await machine.stop()


async def test_kmap_waits_for_an_entry_and_kunmap_wakes(highmem: Loopback) -> None:
    async with await highmem.client() as client, client.session(cpu=0) as session:
        got = await session.alloc(0, LAST_PKMAP + 1, "GFP_HIGHUSER")
        pfns = [int(pfn) for pages in got.pages.values() for pfn in pages]
        assert await session.kmap(pfns[0]) == PKMAP_BASE + 4096
        for pfn in pfns[1:LAST_PKMAP]:
            await session.kmap(pfn)
        with pytest.raises(FailedPrecondition, match="BUG: scheduling while atomic") as refused:
            await session.kmap(pfns[-1], atomic=True)
        assert refused.value.reason == "KERNEL_BUG"
        assert re.fullmatch(
            rf"BUG: scheduling while atomic: .*/{session.info.session}/0x00000002",
            refused.value.metadata["report"],
        )
        waits = asyncio.create_task(session.kmap(pfns[-1]))
        while not len(highmem.node(0).pkmap_wait):
            await asyncio.sleep(0)
        await session.kunmap(pfns[3])
        assert await waits == PKMAP_BASE + 4 * 4096
        with pytest.raises(FailedPrecondition, match="not mapped") as refused:
            await session.kunmap(pfns[3])
        assert refused.value.metadata["report"].startswith("kernel BUG at mm/highmem.c")


async def test_kmap_atomic_takes_slots_in_turn(highmem: Loopback) -> None:
    async with await highmem.client() as client, client.session(cpu=0) as session:
        got = await session.alloc(0, 2, "GFP_HIGHUSER")
        low = await session.alloc(0, 1)
        first, second, below = (
            int(pfn) for blocks in (got, low) for pfns in blocks.pages.values() for pfn in pfns
        )
        slots = [await session.kmap_atomic(first), await session.kmap_atomic(second)]
        assert [slot.address for slot in slots] == [0, 0]
        assert None not in {slot.slot for slot in slots}
        assert len({slot.slot for slot in slots}) == 2
        assert (await session.kmap_atomic(below)).slot is None
        assert (await session.kmap_atomic(below)).address == await session.kmap(below)
        with pytest.raises(FailedPrecondition) as refused:
            await session.kunmap_atomic(first)
        assert refused.value.reason == "KERNEL_BUG"
        await session.kunmap_atomic(second)
        await session.kunmap_atomic(first)


@pytest.fixture
async def two_nodes() -> AsyncIterator[Loopback]:
    machine = Loopback(parse_machine(TWO_NODES_32_BIT, source="two", default_name="two"))
    await machine.start()
    yield machine
    await machine.stop()


async def test_pages_of_all_nodes_are_mapped_in_one_pool_whoever_waits(two_nodes: Loopback) -> None:
    async with (
        await two_nodes.client() as client,
        client.session(cpu=0) as near,
        client.session(cpu=2) as far,
    ):
        mine = await near.alloc(0, LAST_PKMAP, "GFP_HIGHUSER", policy=Policy.bind(1))
        theirs = await far.alloc(0, 2, "GFP_HIGHUSER", policy=Policy.bind(0))
        for pfn in (pfns := [int(pfn) for pages in mine.pages.values() for pfn in pages])[1:]:
            await near.kmap(pfn)
        first, second = (int(pfn) for pages in theirs.pages.values() for pfn in pages)
        assert await far.kmap(first) == PKMAP_BASE  # entry 0, after one search has gone round
        with pytest.raises(FailedPrecondition, match="scheduling while atomic") as refused:
            await far.kmap(second, atomic=True)
        assert refused.value.reason == "KERNEL_BUG"
        with pytest.raises(FailedPrecondition, match="not the session's"):
            await far.kmap(pfns[0])
        waits = asyncio.create_task(far.kmap(second))
        while not len(two_nodes.node(1).pkmap_wait):
            await asyncio.sleep(0)
        await near.kunmap(pfns[5])
        assert await waits >= PKMAP_BASE
        with pytest.raises(FailedPrecondition, match="not mapped") as refused:
            await far.kunmap(pfns[7])
        assert refused.value.metadata["report"].startswith("kernel BUG at mm/highmem.c")
        assert (await far.kmap_atomic(first)).slot == 2 * 16
        assert await client.check() == {}
    two_nodes.check()


async def test_objects_of_a_32_bit_machine_have_32_bits(two_nodes: Loopback) -> None:
    async with await two_nodes.client() as client, client.session(cpu=2) as far:
        got = np.concatenate([await far.kmem_cache_alloc("dentry", 100), await far.kmalloc(3000, 5)])
        assert got.min() >= 0xC000_0000
        assert got.max() < 0xF800_0000
        with pytest.raises(FailedPrecondition) as refused:
            await far.kfree(got[-1:] + np.uint64(8))
        assert f"0x{int(got[-1]) + 8:08x}" in refused.value.metadata["report"]
        await far.kfree(got)
    assert not two_nodes.node(1).kmem.slab_pages()
    two_nodes.check()


async def test_a_page_of_low_memory_needs_no_entry(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=2) as session:
        got = await session.alloc(0, 1)
        [pfn] = [int(pfn) for pfns in got.pages.values() for pfn in np.atleast_1d(pfns)]
        assert await session.kmap(pfn) == 0xFFFF_8880_0000_0000 + (pfn << 12)
        await session.kunmap(pfn)
