"""Writes past an object, and to one that is free: found when it is freed, allocated or validated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
from loopback import Loopback
from numa_client import AsyncMachine, AsyncSession, FailedPrecondition, InvalidRequest

from numa_service.machine.presets import load_preset
from numa_service.node.node import Node

VALIDATE = "/sys/kernel/slab/filp/validate"
SIZE = 232  # of a filp of 6.1


@pytest.fixture
async def debugged() -> AsyncIterator[Loopback]:
    machine = Loopback(replace(load_preset("demo"), cmdline="slub_debug=FZP,filp"))
    await machine.start()
    yield machine
    await machine.stop()


@pytest.fixture
async def session(debugged: Loopback) -> AsyncIterator[AsyncSession]:
    async with await debugged.client() as client, client.session(cpu=0) as session:
        yield session


@pytest.fixture
async def machine(debugged: Loopback) -> AsyncIterator[AsyncMachine]:
    async with await debugged.client() as client:
        yield client


async def refused(session: AsyncSession, objects: np.ndarray) -> list[str]:
    with pytest.raises(FailedPrecondition) as error:
        await session.kmem_cache_free("filp", objects)
    assert error.value.reason == "SLAB_BUG"
    return error.value.metadata["report"].splitlines()


@pytest.mark.parametrize("node", [0, 1])
async def test_past_the_end_is_found_when_it_is_freed(
    debugged: Loopback, session: AsyncSession, node: int
) -> None:
    objects = await session.kmem_cache_alloc("filp", 5, node=node)
    before = debugged.node(0).kmem.known_objects(), debugged.node(node).kmem.known_objects()
    await session.write_object(objects[2], SIZE, b"overrun")
    report = await refused(session, objects)
    assert report[0] == "BUG filp (Not tainted): Right Redzone overwritten"
    assert "First byte 0x6f instead of 0xcc" in report[1]
    assert report[-1] == f"FIX filp: Object at 0x{objects[2]:016x} not freed"
    assert (debugged.node(0).kmem.known_objects(), debugged.node(node).kmem.known_objects()) == before
    await session.kmem_cache_free("filp", objects)  # the red zone was restored
    debugged.check()


async def test_in_front_of_the_start(debugged: Loopback, session: AsyncSession) -> None:
    objects = await session.kmem_cache_alloc("filp", 2)
    await session.write_object(objects[0], -1, b"\0")
    assert (await refused(session, objects[:1]))[0].endswith("Left Redzone overwritten")


async def test_who_writes_what_was_there_is_not_found(debugged: Loopback, session: AsyncSession) -> None:
    objects = await session.kmem_cache_alloc("filp", 2)
    await session.write_object(objects[0], 10, b"its own")
    await session.write_object(objects[1], SIZE, b"\0\0")
    await session.write_object(objects[1], SIZE, b"\xcc\xcc")
    await session.kmem_cache_free("filp", objects)
    assert debugged.node(0).kmem.dump()[-1][-1] == [[], []]


@pytest.mark.parametrize("node", [0, 1])
async def test_a_free_object_is_found_when_it_is_allocated(
    debugged: Loopback, session: AsyncSession, node: int
) -> None:
    kept, freed = await session.kmem_cache_alloc("filp", 2, node=node)
    await session.kmem_cache_free("filp", np.array([freed]))
    await session.write_object(freed, 16, b"used after free")
    got = await session.kmem_cache_alloc("filp", 3, node=node)
    assert got.report[0] == "BUG filp (Not tainted): Poison overwritten"
    assert "First byte 0x75 instead of 0x6b" in got.report[1]
    assert got.report[-1] == "FIX filp: Marking all objects used"
    assert freed not in got  # they are of another slab
    assert not set(np.asarray(got) >> 12) & {int(kept) >> 12}
    assert (await session.kmem_cache_alloc("filp", 1, node=node)).report == ()
    await session.kmem_cache_free("filp", np.concatenate([[kept], got]).astype("<u8"))
    debugged.check()
    there = debugged.node(node)
    again = Node.boot(debugged.spec, node)
    again.restore(there.snapshot())
    assert again.digest() == there.digest()


async def test_validate_finds_both(debugged: Loopback, session: AsyncSession, machine: AsyncMachine) -> None:
    near = await session.kmem_cache_alloc("filp", 3)
    far = await session.kmem_cache_alloc("filp", 3, node=1)
    await session.kmem_cache_free("filp", far[2:])
    assert await machine.write_file(VALIDATE, "1") == ""
    await session.write_object(near[0], SIZE, b"a")
    await session.write_object(far[0], SIZE, b"b")
    await session.write_object(far[2], 0, b"c")
    report = await machine.write_file(VALIDATE, "1")
    found = [line.partition(": ")[2] for line in report.splitlines() if line.startswith("BUG")]
    assert sorted(found) == ["Poison overwritten", *["Right Redzone overwritten"] * 2]
    assert await machine.write_file(VALIDATE, "1") == ""  # it was restored
    await session.kmem_cache_free("filp", np.concatenate([near, far[:2]]))
    debugged.check()


async def test_without_debugging_nobody_looks(debugged: Loopback, session: AsyncSession) -> None:
    before = debugged.node(0).kmem.dump()
    (dentry,) = await session.kmem_cache_alloc("dentry")
    await session.write_object(dentry, 0, b"anything")
    await session.kmem_cache_free("dentry", np.array([dentry]))
    assert debugged.node(0).kmem.dump()[-1][-1] == before[-1][-1]


async def test_bad_writes_name_the_field(
    debugged: Loopback, session: AsyncSession, machine: AsyncMachine
) -> None:
    (mine,) = await session.kmem_cache_alloc("filp")
    async with machine.session(cpu=2) as other:
        (theirs,) = await other.kmem_cache_alloc("filp")
        before = debugged.digests()
        for address, offset, data, field in (
            (mine, 4096, b"x", "offset"),
            (mine, -4096, b"x", "offset"),
            (mine, 0, b"", "data"),
            (mine, 0, bytes(4097), "data"),
            (1 << 63, 0, b"x", "object"),
        ):
            with pytest.raises(InvalidRequest, match=f"^{field}"):
                await session.write_object(address, offset, data)
        for address in (theirs, mine + 8):
            with pytest.raises(FailedPrecondition, match="not free"):
                await session.write_object(address, SIZE, b"x")
        assert {nid: d for nid, d in debugged.digests().items() if nid} == {
            nid: d for nid, d in before.items() if nid
        }
    debugged.check()


async def test_a_session_that_ends_takes_its_writes_along(debugged: Loopback) -> None:
    async with await debugged.client() as client:
        async with client.session(cpu=0) as session:
            objects = await session.kmem_cache_alloc("filp", 5, node=1)
            await session.write_object(objects[0], SIZE, b"x")
        assert debugged.node(0).kmem.dump()[-1][-1] == [[], []]
    debugged.check()
