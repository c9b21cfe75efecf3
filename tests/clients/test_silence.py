"""The clients when nobody answers: they wait for the machine, and look for a silent node's new address."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from cable import Cable
from numa_client import AsyncMachine, DeadlineExceeded, Machine, NotFound
from reference_peer import ReferenceMachine

#: The machine's service is asked on node 1, so that node 0 can go.
MACHINE, GOES = 1, 0

Steer = Callable[[Coroutine[Any, Any, None]], None]


def steer_from_a_thread() -> Steer:
    loop = asyncio.get_running_loop()
    return lambda step: asyncio.run_coroutine_threadsafe(step, loop).result(60)


async def test_connect_waits_for_a_machine_that_comes_up(peer: ReferenceMachine) -> None:
    """It waits longer than gRPC alone would try."""
    knocks = 0

    def knocked(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocks
        knocks += 1
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as port:
        target = "{}:{}".format(*port.getsockname())
        nobody = await asyncio.start_server(knocked, sock=port)
        connecting = [
            asyncio.create_task(AsyncMachine.connect(target, timeout=60)),
            asyncio.create_task(asyncio.to_thread(Machine.connect, target, timeout=60)),
        ]
        async with asyncio.timeout(60):
            while knocks < 12:
                await asyncio.sleep(0.05)
        assert not any(task.done() for task in connecting)
        nobody.close()
    await peer.take_away(MACHINE)
    await peer.bring_back(MACHINE, target)
    waited, waited_too = await asyncio.gather(*connecting)
    assert waited.info == waited_too.info
    assert waited.info.name == "reference"
    await waited.close()
    waited_too.close()


async def test_a_node_that_gave_no_answer_in_time_is_looked_for(peer: ReferenceMachine) -> None:
    async with await AsyncMachine.connect(peer.addresses[MACHINE], timeout=1) as machine:
        session = machine.session()
        await session.open()
        before = peer.addresses[GOES]
        peer.hanging.add("AllocPages")
        looks = len(peer.calls["GetMachine"])
        with pytest.raises(DeadlineExceeded, match=f"node 0 at {before} did not answer within 1 s"):
            await session.alloc()
        await peer.succeed(GOES)
        with pytest.raises(NotFound, match="the session was lost in the restart of node 0"):
            await session.alloc()
        assert len(peer.calls["GetMachine"]) == looks + 1
        assert len(peer.calls["AllocPages"]) == 1, "a request of an earlier lineage is not for its successor"
        async with machine.session() as successor:
            assert successor.info.lineage == 2


async def test_by_the_blocking_client_too(peer: ReferenceMachine) -> None:
    steer = steer_from_a_thread()

    def use() -> int:
        with Machine.connect(peer.addresses[MACHINE], timeout=1) as machine:
            session = machine.session()
            session.open()
            peer.hanging.add("AllocPages")
            with pytest.raises(DeadlineExceeded, match=r"node 0 at .* did not answer within 1 s"):
                session.alloc()
            steer(peer.succeed(GOES))
            with pytest.raises(NotFound, match="the session was lost in the restart of node 0"):
                session.alloc()
            with machine.session() as successor:
                return successor.info.lineage

    assert await asyncio.to_thread(use) == 2


async def test_a_machine_that_does_not_answer_either_is_no_obstacle(peer: ReferenceMachine) -> None:
    async with (
        await AsyncMachine.connect(peer.addresses[MACHINE], timeout=1) as machine,
        machine.session() as session,
    ):
        peer.hanging |= {"AllocPages", "GetMachine"}
        with pytest.raises(DeadlineExceeded):
            await session.alloc()
        peer.hanging.discard("AllocPages")
        assert (await session.alloc(count=3)).count == 3


async def test_a_connection_that_is_cut_in_silence_is_noticed_within_a_call(peer: ReferenceMachine) -> None:
    """A node is reached over a connection that is cut without a reset, and later at another address."""
    direct = peer.addresses[GOES]
    async with Cable(direct) as cable:
        peer.addresses[GOES] = cable.address
        async with await AsyncMachine.connect(peer.addresses[MACHINE], timeout=60) as machine:
            blocking = await asyncio.to_thread(Machine.connect, peer.addresses[MACHINE], timeout=60)
            session, other = machine.session(), blocking.session()
            await session.open()
            await asyncio.to_thread(other.open)
            assert cable.connections
            cable.cut()
            peer.addresses[GOES] = direct
            first, second = await asyncio.gather(
                session.alloc(count=4), asyncio.to_thread(other.alloc, count=4)
            )
            assert (first.count, second.count) == (4, 4)
            assert machine.info.node(GOES).address == blocking.info.node(GOES).address == direct
            await session.close()
            await asyncio.to_thread(other.close)
            blocking.close()
    assert len(peer.calls["AllocPages"]) == 2
