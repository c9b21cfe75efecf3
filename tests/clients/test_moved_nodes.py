"""The clients find a node that has moved, and know when a session ended with its node."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from numa_client import AsyncMachine, Machine, NotFound, OutOfMemory, Unavailable
from numa_client._search import LOOK_AGAIN_SECONDS, SAME_PLACE_LOOKS, Search
from numa_client._status import from_status
from numa_client._types import NodeInfo
from reference_node import Refused
from reference_peer import ReferenceMachine

#: The machine's service is asked on node 1, so that node 0 can go.
MACHINE, MOVES = 1, 0


async def test_a_session_goes_on_where_its_node_is_now(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[MACHINE]) as machine, machine.session() as session:
        first = await session.alloc(count=10)
        before = peer.addresses[MOVES]
        await peer.take_away(MOVES)
        await peer.bring_back(MOVES)
        assert peer.addresses[MOVES] != before
        second = await session.alloc(count=5)
        assert machine.info.node(MOVES).address == peer.addresses[MOVES]
        assert (await session.free(first)).freed_pages == 10
        assert (await session.free(second)).freed_pages == 5
        assert (await machine.node(MOVES)).node == MOVES
    assert peer.sessions == set()
    assert len(peer.calls["OpenSession"]) == 1


async def test_a_call_waits_for_a_node_that_is_away(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[MACHINE]) as machine:
        await peer.take_away(MOVES)
        opening = asyncio.create_task(machine.session().open())
        looks = len(peer.calls["GetMachine"])
        await peer.wait_for_calls("GetMachine", looks + 2)
        assert not opening.done()
        await peer.bring_back(MOVES)
        await opening
    assert len(peer.calls["OpenSession"]) == 1


async def test_a_lost_reply_and_a_move_still_allocate_once(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[MACHINE]) as machine, machine.session() as session:
        peer.lost_replies["AllocPages"] = 1
        asking = asyncio.create_task(session.alloc(count=7))
        await peer.wait_for_calls("AllocPages", 1)
        await peer.take_away(MOVES)
        await peer.bring_back(MOVES)
        await asking
    assert len({call.request_id for call in peer.calls["AllocPages"]}) == 1
    assert len(peer.calls["AllocPages"]) > 1


async def test_a_session_ends_with_the_lineage_of_its_node(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[MACHINE]) as machine:
        session = machine.session()
        await session.open()
        await peer.take_away(MOVES)
        peer.lineages[MOVES] = 2
        await peer.bring_back(MOVES)
        asked = len(peer.calls["AllocPages"])
        for _ in range(2):
            with pytest.raises(NotFound, match="the session was lost in the restart of node 0") as lost:
                await session.alloc()
            assert lost.value.code is grpc.StatusCode.NOT_FOUND
            assert lost.value.metadata == {"node": "0", "lineage": "2"}
        assert len(peer.calls["AllocPages"]) == asked  # it was not asked of the wrong lineage
        assert await session.close() == 0
        async with machine.session() as another:
            assert (await another.alloc()).nr_pages == 1


async def test_the_blocking_client_follows_too(peer: ReferenceMachine) -> None:
    loop = asyncio.get_running_loop()

    def steer(move: object) -> None:
        asyncio.run_coroutine_threadsafe(move, loop).result(30)  # type: ignore[arg-type]

    def use() -> None:
        with Machine.connect(peer.addresses[MACHINE]) as machine, machine.session() as session:
            first = session.alloc(count=10)
            steer(peer.take_away(MOVES))
            steer(peer.bring_back(MOVES))
            assert session.free(first).freed_pages == 10
            steer(peer.take_away(MOVES))
            peer.lineages[MOVES] = 2
            steer(peer.bring_back(MOVES))
            with pytest.raises(NotFound, match="open another one"):
                session.alloc()

    await asyncio.to_thread(use)


def full(retry_ms: int | None) -> Refused:
    return Refused(code_pb2.RESOURCE_EXHAUSTED, "too many", reason="LIMIT_EXCEEDED", retry_ms=retry_ms)


async def test_a_refusal_that_names_a_time_is_waited_for(peer: ReferenceMachine) -> None:
    peer.refusals["OpenSession"] = [full(retry_ms=10), full(retry_ms=10)]
    async with await AsyncMachine.connect(peer.addresses[MACHINE]) as machine, machine.session() as session:
        assert len({call.request_id for call in peer.calls["OpenSession"]}) == 1
        assert len(peer.calls["OpenSession"]) == 3
        peer.refusals["AllocPages"] = [full(retry_ms=None)]
        with pytest.raises(OutOfMemory):
            await session.alloc()
        peer.refusals["AllocPages"] = [full(retry_ms=3_600_000)]  # beyond the deadline
        with pytest.raises(OutOfMemory) as raised:
            await session.alloc()
        assert raised.value.retry_seconds == 3600
        assert len(peer.calls["AllocPages"]) == 2


async def test_by_the_blocking_client_too(peer: ReferenceMachine) -> None:
    def use() -> int:
        with Machine.connect(peer.addresses[MACHINE]) as machine, machine.session() as session:
            return session.alloc(count=3).nr_pages

    peer.refusals["AllocPages"] = [full(retry_ms=10)]
    assert await asyncio.to_thread(use) == 3
    assert len(peer.calls["AllocPages"]) == 2


async def test_a_node_that_is_given_up_has_a_name(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[MACHINE]) as machine:
        address = peer.addresses[MOVES]
        await peer.take_away(MOVES)
        peer.addresses[MOVES] = address
        with pytest.raises(Unavailable, match=f"node 0 at {address} cannot be reached: .*refused"):
            await machine.node(MOVES)


# when to look again, and when to give up

HERE, THERE, AWAY = (NodeInfo(0, (0,), 1, address, "", 1, ()) for address in ("here", "there", ""))


def unavailable(retry_seconds: float | None = None) -> Unavailable:
    details = []
    if retry_seconds is not None:
        hint = error_details_pb2.RetryInfo()
        hint.retry_delay.FromMilliseconds(round(1000 * retry_seconds))
        packed = any_pb2.Any()
        packed.Pack(hint)
        details.append(packed)
    status = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="busy", details=details)
    error = from_status(status.SerializeToString())
    assert isinstance(error, Unavailable)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    return error


def test_the_service_says_how_long_to_wait() -> None:
    assert unavailable().retry_seconds is None
    assert unavailable(1.5).retry_seconds == 1.5
    soon = time.monotonic() + 60
    assert Search(unavailable(), "here", soon).wait(AWAY) == LOOK_AGAIN_SECONDS
    assert Search(unavailable(1.5), "here", soon).wait(AWAY) == 1.5
    assert Search(unavailable(1.5), "here", soon).wait(THERE) is None
    search = Search(unavailable(1.5), "here", soon)
    assert [search.wait(HERE), search.wait(HERE)] == [1.5, None]  # then it is asked again where it is


def test_a_node_that_stays_where_it_was_is_given_up() -> None:
    error = unavailable()
    search = Search(error, "here", time.monotonic() + 60)
    for _ in range(SAME_PLACE_LOOKS):
        assert search.wait(HERE) == LOOK_AGAIN_SECONDS
    with pytest.raises(Unavailable) as raised:
        search.wait(HERE)
    assert raised.value is error


def test_a_machine_that_does_not_answer_is_asked_as_long_as_there_is_time() -> None:
    search = Search(unavailable(), "here", time.monotonic() + 60)
    for _ in range(3 * SAME_PLACE_LOOKS):
        assert search.wait(None) == LOOK_AGAIN_SECONDS
    assert search.wait(THERE) is None


def test_nothing_is_waited_for_beyond_the_deadline() -> None:
    for late in (
        Search(unavailable(), "", time.monotonic()),
        Search(unavailable(9), "", time.monotonic() + 8),
    ):
        with pytest.raises(Unavailable):
            late.wait(AWAY)
