"""The clients against a peer on real gRPC servers: their requests, and the results they make of answers.

The blocking client runs in a thread beside the servers' event loop.
"""

from __future__ import annotations

import asyncio
import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from numa_client import (
    AsyncMachine,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    Machine,
    NotFound,
    NumaError,
    OutOfMemory,
    Policy,
    Unavailable,
)
from reference_peer import ReferenceMachine


async def test_pages_are_taken_and_given_back(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[0]) as machine, machine.session(cpu=1) as session:
        got = await session.alloc(order=1, count=600)
        assert got.pages_by_node == {0: 1024, 1: 176}
        assert got.pages[1].tolist() == list(range(0, 176, 2))
        assert (got.remote_lookups, got.latency_ns) == (1, 60_000)
        assert [call.cpu for call in peer.calls["AllocPages"]] == [1]

        remote = await session.free(got.on(1))
        first, rest = got.on(0).split(100)
        assert (remote.freed_pages, (await session.free(first)).freed_pages) == (176, 200)
        assert (peer.owner != 0).sum() == rest.nr_pages == 824
    assert not peer.owner.any()
    assert peer.sessions == set()


EXPLAINED = """\
GFP_USER, 6 blocks of order 3, CPU 1 on node 0, policy bind:0
class Normal, Unmovable, linux-6.1
zonelist of node 0, 6 blocks of order 3: 0:Normal
  left out, above the class: 0:Movable
  left out, not in the nodemask: 1:Normal
fast path, WMARK_LOW (70 ns)
  0:Normal   free 500 > low 100 + reserve 0: 6 blocks
    pageset 0 -> 3 pages, 4 from the buddy lists, split 1x3 2x1
    claimed 2 pageblocks: Movable -> Unmovable
    1 block out of Movable pageblocks
    then free 90 - 4 highatomic - 5 CMA <= min 99 + 60 boost - 50 HIGH - 12 HARDER + reserve 7: 24 pages short
  0:DMA      free 900 - 9 - 700 too small <= (low 800) / 4: skipped, no free block of order 3 (largest 0)
  1 fallback to another migratetype on node 0
  1: no answer
kswapd0: woken
kswapd1: no answer
direct reclaim on node 0, 1, priorities 12 to 11: nothing to scan
direct reclaim on node 0, priority 10: scanned 8, reclaimed 6 (9 ns)
pagesets of node 0 drained: 31 pages
got 6 on node 0
1,079 virtual ns: access 1,000, fallback 79"""


async def test_an_explanation_reads_like_the_path(peer: ReferenceMachine) -> None:
    def use() -> tuple[int, str, int]:
        with Machine.connect(peer.addresses[0]) as machine, machine.session(cpu=1) as session:
            got = session.explain(3, 6, "GFP_USER", policy=Policy.bind(0))
            return got.blocks.nr_pages, str(got.explanation), session.free(got.blocks).freed_pages

    async with await AsyncMachine.connect(peer.addresses[0]) as machine, machine.session(cpu=1) as session:
        got = await session.explain(3, 6, "GFP_USER", policy=Policy.bind(0))
        assert str(got.explanation) == EXPLAINED
        assert got.explanation.placement == {0: 6}
    assert await asyncio.to_thread(use) == (48, EXPLAINED, 48)
    assert [call.explain for call in peer.calls["AllocPages"]] == [True, True]


async def test_blocking_client_does_the_same(peer: ReferenceMachine) -> None:
    def use() -> tuple[dict[int, int], int, dict[int, int], int, int]:
        with Machine.connect(peer.addresses[0]) as machine, machine.session(node=0, name="me") as session:
            got = session.alloc(count=1000, policy=Policy.bind(1))
            session.free(got.split(990)[0])
            region = session.map_region("file", 64)
            region.touch(0, 16)
            touch = region.touch(8, 16, write=True)
            return got.pages_by_node, touch.hit_pages, dict(touch.placement), region.unmap(), session.close()

    taken, hits, placement, unmapped, closed = await asyncio.to_thread(use)
    assert taken == {1: 1000}
    assert (hits, placement, unmapped, closed) == (8, {0: 16}, 24, 10)
    assert peer.calls["OpenSession"][0].client_name == "me"
    assert [call.write for call in peer.calls["TouchRegion"]] == [False, True]
    assert len(peer.calls["CloseSession"]) == 1
    assert not peer.owner.any()


async def test_regions(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[0]) as machine, machine.session() as session:
        region = await session.map_region("anon", 2000)
        assert (await region.touch(0, 1500)).placement == {0: 1024, 1: 476}
        with pytest.raises(InvalidRequest, match="beyond the region") as caught:
            await region.touch(1999, 2)
        assert caught.value.field == "count"
        assert await region.unmap() == 1500


async def test_topology_and_nodes(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[0]) as machine:
        assert machine.info.cpus == (0, 1)
        assert machine.info.nodes[1].cpus == ()
        assert machine.info.distances == ((10, 20), (21, 10))
        assert machine.info.node(1).fallback_order == (1, 0)
        state = await machine.node(1)
        assert (state.node, state.free_pages) == (1, 1024)
        assert list(state.vm_events.items()) == [("pgalloc_normal", 1), ("pgfault", 2)]
        peer.lost_replies["WriteFile"] = 1  # what is written is a state: it may be written again
        for key in ("vm.min_free_kbytes", "vm/min_free_kbytes"):
            assert await machine.write_sysctl(key, "4096") == "4096 it is"
        assert len(peer.calls["WriteFile"]) == 3
        with pytest.raises(NotFound, match="ENOENT"):
            await machine.write_sysctl("vm.x", "1")
        await machine.change_memory_block(9, "offline")
        first, second = peer.calls["ChangeMemoryBlock"]
        assert first.request_id == second.request_id != ""
        with pytest.raises(FailedPrecondition, match="EBUSY"):
            await machine.change_memory_block(8, "offline")
        with pytest.raises(NotFound, match="memory99"):
            await machine.change_memory_block(99, "offline")
        assert await machine.check() == {}
        peer.violations.append("zone Normal: 3 pages lost")
        assert await machine.check() == {1: ("zone Normal: 3 pages lost",)}

    def use() -> tuple[int, dict[int, tuple[str, ...]]]:
        with Machine.connect(peer.addresses[0]) as machine:
            machine.write_sysctl("vm.min_free_kbytes", "8192")
            machine.change_memory_block(9, "online_movable")
            return machine.node(0).free_pages, machine.check()

    assert await asyncio.to_thread(use) == (1024, {1: ("zone Normal: 3 pages lost",)})


async def test_a_lost_reply_is_asked_for_again_with_the_same_id(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[0]) as machine, machine.session() as session:
        peer.lost_replies["AllocPages"] = 2
        got = await session.alloc(count=10)
        assert got.pages[0].tolist() == list(range(10))
        assert len({call.request_id for call in peer.calls["AllocPages"]}) == 1
        assert len(peer.calls["AllocPages"]) == 3
        assert (peer.owner != 0).sum() == 10
        await session.alloc(count=1)
        assert len({call.request_id for call in peer.calls["AllocPages"]}) == 2


async def test_a_free_larger_than_the_default_retry_buffer_is_retried(peer: ReferenceMachine) -> None:
    await peer.stop()
    big = ReferenceMachine(pages_per_node=65536)
    await big.start()
    async with await AsyncMachine.connect(big.addresses[0]) as machine, machine.session() as session:
        got = await session.alloc(count=65536)
        big.lost_replies["FreePages"] = 1
        assert (await session.free(got)).freed_pages == 65536
        assert len(big.calls["FreePages"]) == 2
    await big.stop()


async def test_blocking_client_retries_too(peer: ReferenceMachine) -> None:
    peer.lost_replies["OpenSession"] = 1

    def use() -> None:
        with Machine.connect(peer.addresses[0]) as machine, machine.session():
            pass

    await asyncio.to_thread(use)
    assert len(peer.calls["OpenSession"]) == 2
    assert len({call.request_id for call in peer.calls["OpenSession"]}) == 1
    assert peer.sessions == set()


async def test_every_call_has_a_deadline(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[0], timeout=7) as machine:
        async with machine.session() as session:
            await session.free(await session.alloc())
            region = await session.map_region("anon", 4)
            await region.touch(0)
            await region.unmap()
        await machine.node(0)
        await machine.check()
    assert len(peer.deadlines) == 11
    assert all(left is not None and left < 8 for left in peer.deadlines)


async def test_no_answer_is_deadline_exceeded(peer: ReferenceMachine) -> None:
    peer.hanging.add("GetNode")
    async with await AsyncMachine.connect(peer.addresses[0], timeout=0.2) as machine:
        with pytest.raises(DeadlineExceeded):
            await machine.node(0)

    def use() -> None:
        with Machine.connect(peer.addresses[0], timeout=0.2) as machine, pytest.raises(DeadlineExceeded):
            machine.node(0)

    await asyncio.to_thread(use)


async def test_nobody_there_is_unavailable(peer: ReferenceMachine) -> None:
    await peer.stop()
    told = rf"no machine answers at {peer.addresses[0]}: waited \d\.\d s; .*refused"
    with pytest.raises(Unavailable, match=told):
        await AsyncMachine.connect(peer.addresses[0], timeout=0.5)

    def use() -> None:
        with pytest.raises(Unavailable, match=told):
            Machine.connect(peer.addresses[0], timeout=0.5)

    await asyncio.to_thread(use)


def test_every_class_of_error_has_the_code_that_the_docs_say() -> None:
    docs = (Path(__file__).parents[2] / "docs/client.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([A-Z_]+) \|", docs, re.M))
    assert rows == {kind.__name__: kind("it").code.name for kind in NumaError.__subclasses__()}
    assert len(rows) == 7


async def test_a_closed_machine_refuses_calls_and_its_heartbeats_end(peer: ReferenceMachine) -> None:
    peer.lease_seconds = 0.15
    async with await AsyncMachine.connect(peer.addresses[0]) as machine:
        session = machine.session()
        await session.open()
    (beating,) = [task for task in asyncio.all_tasks() if task.get_name() == "numa-heartbeat"]
    await asyncio.wait([beating], timeout=30)
    assert beating.cancelled() or beating.exception() is None
    with pytest.raises(FailedPrecondition, match="is closed: connect another one"):
        await session.alloc()
    with pytest.raises(FailedPrecondition, match="is closed: connect another one"):
        await machine.refresh()

    def use() -> None:
        with Machine.connect(peer.addresses[0]) as machine:
            session = machine.session(name="left-open")
            session.open()
        for call in (session.alloc, machine.refresh):
            with pytest.raises(FailedPrecondition, match="is closed: connect another one"):
                call()
        for thread in threading.enumerate():
            if "left-open" in thread.name:
                thread.join(30)

    with warnings.catch_warnings():
        warnings.simplefilter("error", pytest.PytestUnhandledThreadExceptionWarning)
        await asyncio.to_thread(use)
    assert [thread for thread in threading.enumerate() if "left-open" in thread.name] == []


async def test_errors_carry_code_reason_and_field(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[0]) as machine:
        async with machine.session() as session:
            with pytest.raises(InvalidRequest, match="order 11: at most 10") as invalid:
                await session.alloc(order=11)
            assert invalid.value.field == "order"
            with pytest.raises(OutOfMemory) as exhausted:
                await session.alloc(count=2049)
            assert exhausted.value.reason == "OUT_OF_MEMORY"
            assert exhausted.value.metadata == {"node": "0"}
            assert exhausted.value.code.name == "RESOURCE_EXHAUSTED"
            got = await session.alloc()
            await session.free(got)
            with pytest.raises(NotFound, match="pfn 0 is not yours"):
                await session.free(got)
        with pytest.raises(FailedPrecondition, match="node 1 has no CPUs"):
            async with machine.session(node=1):
                pass


async def test_pages_of_another_session_cannot_be_freed(peer: ReferenceMachine) -> None:
    async with (
        await AsyncMachine.connect(peer.addresses[0]) as machine,
        machine.session() as mine,
        machine.session() as theirs,
    ):
        got = await mine.alloc(count=3)
        before = peer.owner.copy()
        with pytest.raises(NotFound):
            await theirs.free(got)
        assert np.array_equal(peer.owner, before)


async def test_heartbeats_renew_at_a_third_of_the_lease_until_close(peer: ReferenceMachine) -> None:
    peer.lease_seconds = 0.15
    async with await AsyncMachine.connect(peer.addresses[0]) as machine, machine.session() as session:
        await peer.wait_for_calls("RenewSession", 3)
        number = session.info.session
    assert {call.session for call in peer.calls["RenewSession"]} == {number}
    assert [task for task in asyncio.all_tasks() if task.get_name() == "numa-heartbeat"] == []


async def test_blocking_heartbeats_end_with_the_session(peer: ReferenceMachine) -> None:
    peer.lease_seconds = 0.15
    enough = threading.Event()

    def use() -> None:
        with Machine.connect(peer.addresses[0]) as machine, machine.session(name="beating"):
            assert enough.wait(30)

    using = asyncio.create_task(asyncio.to_thread(use))
    await peer.wait_for_calls("RenewSession", 3)
    enough.set()
    await using
    assert [thread for thread in threading.enumerate() if "beating" in thread.name] == []


async def test_heartbeats_survive_a_failure_and_stop_when_the_session_is_gone(peer: ReferenceMachine) -> None:
    peer.lease_seconds = 0.15
    async with await AsyncMachine.connect(peer.addresses[0]) as machine, machine.session() as session:
        peer.hanging.add("RenewSession")
        await peer.wait_for_calls("RenewSession", 2)
        peer.hanging.clear()
        await peer.wait_for_calls("RenewSession", 4)
        await session.alloc(count=5)
        (beating,) = [task for task in asyncio.all_tasks() if task.get_name() == "numa-heartbeat"]
        peer.end_session(session.info.session)
        await asyncio.wait_for(beating, 30)
        with pytest.raises(NotFound, match="no session") as caught:
            await session.alloc()
        assert caught.value.reason == "SESSION_EXPIRED"
        assert await session.close() == 0


async def test_an_error_in_the_block_is_not_hidden_by_the_close(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[0], timeout=0.2) as machine:
        peer.hanging.add("CloseSession")
        with pytest.raises(LookupError):
            async with machine.session():
                raise LookupError
    assert len(peer.calls["CloseSession"]) == 1


async def test_a_session_is_opened_once_and_first(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[0]) as machine:
        session = machine.session()
        with pytest.raises(RuntimeError, match="not open"):
            await session.alloc()
        assert await session.close() == 0
        async with session:
            with pytest.raises(RuntimeError, match="opened once"):
                await session.open()


async def test_a_node_that_restarts_has_no_address(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[0], timeout=0.5) as machine:
        address, peer.addresses[1] = peer.addresses[1], ""
        await machine.refresh()
        with pytest.raises(Unavailable, match="node 1 restarts"):
            await machine.node(1)
        peer.addresses[1] = address
        await machine.refresh()
        assert (await machine.node(1)).node == 1
