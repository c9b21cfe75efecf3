"""Load over real servers: nodes report traffic to each other, replies show it, and may be delayed by it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from loopback import Loopback
from numa_client import AsyncMachine, InvalidRequest, Policy, PolicyMode
from numa_client._gen.numa.v1 import zonelist_service_pb2 as pb2

from numa_service.machine.presets import load_preset
from numa_service.node import errors, ops
from numa_service.node.ask import check_asked
from numa_service.node.load import Report
from numa_service.node.owners import Owner
from numa_service.rpc import peers
from numa_service.rpc.memory import INJECT_SECONDS_MAX
from numa_service.rpc.questions import WIRE, op_of

CARD = Policy(PolicyMode.BIND, (2,))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy host all nodes of this process may stand still for longer than a node waits for an answer.

    Pages of a node that counts as away are faulted in anew, and then the waits are others.
    """
    monkeypatch.setattr(peers, "ASK_SECONDS", 60.0)


async def test_each_node_feels_what_the_other_does_to_a_memory(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as first, client.session(cpu=2) as second:
        mine = await first.map_region("anon", 1024, CARD)
        theirs = await second.map_region("anon", 1024, CARD)
        assert (await mine.touch(0, 1024)).cost.queueing_ns == 0
        for _ in range(60):
            await theirs.touch(0, 1024)
        felt = (await mine.touch(0, 1024)).cost
        wait_ns = demo.node(2).load.memory.wait_ns
        assert wait_ns > 100
        # node 0 did next to nothing: what it waits for is node 1's traffic
        assert felt.queueing_ns == 1024 * wait_ns
        assert felt.access_ns == 1024 * 250
        assert felt.latency_ns == felt.access_ns + felt.queueing_ns + felt.fallback_ns
    reports = [op.report for op in demo.of(2, ops.Touch)]
    assert {report.nid for report in reports} == {0, 1}
    assert reports[-1].bytes <= demo.node(0).load.traffic[2]
    demo.check()


async def test_a_lookup_carries_the_report_and_brings_the_wait(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        for _ in range(60):
            await session.free(await session.alloc(count=1024, policy=CARD))
        cost = (await session.alloc(count=100, policy=CARD)).cost
        assert cost.queueing_ns == 100 * demo.node(2).load.memory.wait_ns > 0
    lookups = demo.of(2, ops.Alloc)
    totals = [lookup.report.bytes for lookup in lookups]
    assert totals == sorted(totals)
    assert 0 == totals[0] < totals[-1] <= demo.node(0).load.traffic[2]
    demo.check()


@pytest.mark.parametrize("report", [None, Report(1, 2**40, 2**50)])
def test_a_report_on_the_wire(report: Report | None) -> None:
    op = ops.Touch(Owner(0, 1, 2), bytes(4), False, report)
    question = WIRE[ops.Touch].request(op, "r")
    assert op_of(type(question).FromString(question.SerializeToString())) == op
    answer = WIRE[ops.Touch].response(ops.TouchResult(b"\0", 0, (), 77))
    assert WIRE[ops.Touch].result(pb2.TouchResponse.FromString(answer.SerializeToString())).wait_ns == 77


@pytest.mark.parametrize(("nid", "reason"), [(2, "2 is this node"), (9, "there is no node 9")])
def test_a_report_is_of_another_node(demo: Loopback, nid: int, reason: str) -> None:
    op = ops.Touch(Owner(0, 1, 2), b"", False, Report(nid, 1, 1))
    with pytest.raises(errors.InvalidRequest, match=reason):
        check_asked(demo.node(2), op)


class Slept:
    """Stands in for asyncio.sleep: it returns at once, and records the seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


async def test_injected_latency_is_that_of_the_reply() -> None:
    spec = load_preset("demo")
    slept = Slept()
    model = replace(spec.latency, mode="inject", time_dilation=50.0)
    machine = Loopback(replace(spec, latency=model), sleep=slept)
    await machine.start()
    try:
        async with await machine.client() as client, client.session(cpu=0) as session:
            assert slept.seconds == [], "what has no modelled time is not held back"
            got = await session.alloc(count=1000)
            await session.free(got)
            region = await session.map_region("file", 16)
            read = await region.touch(0, 16)
            model = spec.latency
            late = [got.latency_ns, 1000 * model.pageset_hit_ns, read.latency_ns]
            assert slept.seconds == pytest.approx([ns * 50 / 1e9 for ns in late])
            with pytest.raises(InvalidRequest):
                await session.alloc(count=0)
            assert len(slept.seconds) == 3
            big = await session.map_region("file", 4096)
            assert (await big.touch(0, 4096)).latency_ns * 50 / 1e9 > INJECT_SECONDS_MAX
            assert slept.seconds[3:] == [INJECT_SECONDS_MAX]
    finally:
        await machine.stop()


async def test_accounted_latency_is_not_slept() -> None:
    slept = Slept()
    machine = Loopback("demo", sleep=slept)
    await machine.start()
    try:
        async with await machine.client() as client, client.session(cpu=0) as session:
            assert (await session.alloc(count=1000)).latency_ns > 0
        assert slept.seconds == []
    finally:
        await machine.stop()
