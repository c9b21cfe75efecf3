"""Programs over the network: their streams, how they are stopped, and the node's other clients meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from loopback import Loopback, of
from numa_client import (
    AsyncMachine,
    AsyncSession,
    Distribution,
    InvalidRequest,
    Mix,
    NotFound,
    NumaError,
    OutOfMemory,
    Phase,
    Policy,
    Program,
    ProgramLimits,
    ProgramProgress,
    ProgramResult,
    TaskMix,
    Unavailable,
)
from numa_client._gen.numa.v1 import workload_service_pb2 as pb2
from numa_client._gen.numa.v1 import workload_service_pb2_grpc as pb2_grpc
from numa_client._program_codec import run_request

from numa_service.node import ops
from numa_service.node.errors import InvalidRequest as Refused
from numa_service.node.errors import TooMany
from numa_service.rpc.program_messages import MAX_PROGRAM_BYTES, program
from numa_service.rpc.workload import MAX_PROGRAMS, Pace

SHORT = Distribution("exponential", mean=1e-4)


def pages(**phase: Any) -> Program:
    return Program((Phase(**{"events": 10_000, "batch": 500, "mixes": (Mix(lifetime=SHORT),)} | phase),))


#: Ends only when it is cut, for all that a test knows.
ENDLESS = pages(events=1 << 32)


@pytest.fixture
async def demo() -> AsyncIterator[Loopback]:
    """A machine that reports progress after every slice, and waits only briefly for a client to read."""
    machine = Loopback("demo", pace=Pace(slice=0.001, progress=0.0001, read=0.3))
    await machine.start()
    yield machine
    await machine.stop()


async def finished(session: AsyncSession, program: Program) -> ProgramResult:
    reports = [report async for report in session.run_program(program)]
    assert isinstance(reports[-1], ProgramResult)
    assert all(isinstance(report, ProgramProgress) for report in reports[:-1])
    return reports[-1]


async def started(session: AsyncSession, program: Program = ENDLESS) -> Any:
    """Start a program, and wait for its first progress."""
    reports = session.run_program(program)
    assert isinstance(await anext(reports), ProgramProgress)
    return reports


async def ended(demo: Loopback) -> None:
    """Wait until no program runs, and check that what they held is free."""
    await demo.until(lambda: not demo.servers[0]._requests.inbox.running)  # looked at after every op
    assert demo.node(0).held_pages() == 0


async def test_progress_and_then_the_result(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        reports = [report async for report in session.run_program(pages(events=100_000))]
        *progress, result = reports
        assert isinstance(result, ProgramResult)
        assert progress
        assert [p.events for p in progress] == sorted(p.events for p in progress)
        assert all(p.phase_name == "phase 0" and 0 <= p.fraction <= 1 for p in progress)
        (mix,) = result.phases[0].mixes
        assert (mix.events, mix.pages, mix.failures, mix.placement) == (100_000, 100_000, 0, {0: 100_000})
        assert result.freed_pages == result.allocated_pages == 100_000
        assert 0 < mix.latency.p50_ns <= mix.latency.p99_ns <= mix.latency.max_ns
        assert result.pages_per_second > 0
    demo.node(0).observer = None
    assert demo.node(0).check() == []


async def test_other_nodes_are_asked_over_the_network(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        mix = Mix(policy=Policy.interleave(0, 1, 2), lifetime=SHORT)
        result = await finished(session, pages(events=3000, mixes=(mix,)))
        assert result.phases[0].mixes[0].placement == {0: 1000, 1: 1000, 2: 1000}
        assert demo.of(1, ops.Alloc)
        assert result.unfreed_pages == 0
    demo.check()


async def test_others_are_served_while_a_program_runs(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as busy, client.session(cpu=1) as other:
        reports = await started(busy)
        for _ in range(5):
            await other.free(await other.alloc(count=100))
        assert isinstance(await anext(reports), ProgramProgress), "it still runs"
        await reports.aclose()
        await ended(demo)


async def test_a_program_ends_with_its_call(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        reports = await started(session)
        await reports.aclose()
        await ended(demo)
        await session.alloc(count=10)  # the session lives on
    demo.node(0).observer = None
    assert demo.node(0).check() == []


async def test_a_deadline_ends_it(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        with pytest.raises(Exception, match=r"(?i)deadline"):
            async for _ in session.run_program(ENDLESS, timeout=0.2):
                pass
        await ended(demo)


async def test_a_client_that_does_not_read_is_cut(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session, client.session(cpu=1) as other:
        # the smallest window there is, so that little can be sent that nobody reads
        options = (("grpc.http2.lookahead_bytes", 0), ("grpc.http2.bdp_probe", 0))
        async with grpc.aio.insecure_channel(demo.addresses[0].grpc, options=options) as channel:
            stub = pb2_grpc.WorkloadServiceStub(channel)
            call = stub.RunProgram(run_request(session.info, "unread", ENDLESS, 0))
            await demo.until(lambda: demo.servers[0]._requests.inbox.running)
            await ended(demo)
            await other.free(await other.alloc(count=100))
            with pytest.raises(grpc.aio.AioRpcError) as cut:
                async for _ in call:
                    pass
        assert cut.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "has not read its stream for 0.3 s" in (cut.value.details() or "")


async def test_limits_have_a_status(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        program = Program(pages(events=10**6).phases, limits=ProgramLimits(max_events=5000))
        with pytest.raises(InvalidRequest) as beforehand:
            await finished(session, program)
        assert beforehand.value.field == "phases[0].events"
        program = Program(pages(events=0, seconds=5).phases, limits=ProgramLimits(max_events=5000))
        with pytest.raises(OutOfMemory, match="max_events") as cut:
            await finished(session, program)
        assert (cut.value.code, cut.value.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "LIMIT_EXCEEDED",
        )
        assert demo.node(0).held_pages() == 0
        failing = pages(mixes=(Mix(order=10, gfp="GFP_NOWAIT"),))
        with pytest.raises(OutOfMemory, match="page allocation failure") as failed:
            await finished(session, Program(failing.phases, stop_on_failure=True))
        assert failed.value.reason == "OUT_OF_MEMORY"
        assert demo.node(0).held_pages() == 0


@pytest.mark.parametrize(
    ("program", "field"),
    [
        (pages(events=0), "phases[0].seconds"),
        (pages(mixes=(Mix(lifetime=Distribution("exponential")),)), "phases[0].mixes[0].lifetime.mean"),
        (pages(mixes=(Mix(policy=Policy.bind(7)),)), "phases[0].mixes[0].policy.nodes"),
        (Program(tuple(Phase(name="x" * 60, events=1, mixes=(Mix(),) * 30) for _ in range(64))), "program"),
        (Program(()), "phases"),
    ],
)
async def test_what_is_wrong_is_named(
    demo: Loopback, client: AsyncMachine, program: Program, field: str
) -> None:
    async with client.session(cpu=0) as session:
        before = demo.digests()
        if field == "program":
            big = Mix(name="y" * 60, gfp="GFP_HIGHUSER_MOVABLE|__GFP_ZERO|__GFP_NOWARN|__GFP_NORETRY")
            program = Program(tuple(Phase(events=1, mixes=(big,) * 30) for _ in range(64)))
            assert run_request(session.info, "x", program, 0).program.ByteSize() > MAX_PROGRAM_BYTES
        with pytest.raises(InvalidRequest) as refused:
            await finished(session, program)
        assert refused.value.field == field
        assert demo.digests() == before


async def test_numbers_that_name_nothing_are_refused(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        message = run_request(session.info, "odd", pages(), 0)
        message.program.phases[0].mixes[0].lifetime.kind = 77  # type: ignore[assignment]
        async with grpc.aio.insecure_channel(demo.addresses[0].grpc) as channel:
            stub = pb2_grpc.WorkloadServiceStub(channel)
            for request, text in (
                (message, r"phases\[0\].mixes\[0\].lifetime.kind"),
                (pb2.RunProgramRequest(request_id="x"), "session"),
                (pb2.RunProgramRequest(**of(session.info)), "request_id"),
                (run_request(session.info, "c", pages(), 99), "cpu"),
            ):
                with pytest.raises(grpc.aio.AioRpcError, match=text) as refused:
                    await stub.RunProgram(request).read()
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("lifetime", "kind", 0),
        ("lifetime", "kind", 77),
        ("lifetime", "unit", 7),
        ("access", "pattern", 0),
        ("access", "pattern", 99),
        ("region", "kind", 0),
        ("region", "kind", 3),
        ("policy", "mode", 99),
    ],
)
def test_words_that_are_unset_or_unknown_are_refused(path: str, field: str, value: int) -> None:
    sent = pb2.Program()
    phase = sent.phases.add()
    lifetime, access, region = phase.mixes.add().lifetime, phase.accesses.add(), sent.regions.add()
    lifetime.kind, access.pattern, region.kind = 1, 1, 1  # type: ignore[assignment]  # as a stranger sends them
    program(sent)
    parts = {
        "lifetime": (lifetime, "phases[0].mixes[0].lifetime"),
        "access": (access, "phases[0].accesses[0]"),
        "region": (region, "regions[0]"),
        "policy": (region.policy, "regions[0].policy"),
    }
    setattr(parts[path][0], field, value)
    with pytest.raises(Refused) as refused:
        program(sent)
    assert refused.value.field == f"{parts[path][1]}.{field}"


async def test_a_repeated_request_gets_the_first_result(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        request = run_request(session.info, "once", pages(), 0)
        async with grpc.aio.insecure_channel(demo.addresses[0].grpc) as channel:
            stub = pb2_grpc.WorkloadServiceStub(channel)
            first = [message async for message in stub.RunProgram(request)]
            before = demo.digests()
            again = [message async for message in stub.RunProgram(request)]
        assert again == first[-1:]
        assert demo.digests() == before


async def test_closing_the_session_ends_its_programs(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        reports = await started(session)
        await session.close()
        with pytest.raises(NotFound):
            async for _ in reports:
                pass
    assert demo.node(0).held_pages() == 0
    assert demo.node(0).sessions == {}


async def test_so_does_the_end_of_its_lease(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0, lease_seconds=3600) as session:
        reports = await started(session)
        demo.clock.now_ns += 3601 * 10**9
        demo.servers[0].check_leases()
        with pytest.raises(NotFound):
            async for _ in reports:
                pass
    assert demo.node(0).held_pages() == 0


async def test_a_node_runs_so_many_programs_at_a_time(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        running = [await started(session) for _ in range(MAX_PROGRAMS)]
        with pytest.raises(OutOfMemory, match=f"runs {MAX_PROGRAMS} programs") as raised:
            async for _ in session.run_program(pages(), timeout=TooMany.retry_seconds):
                pass
        assert (raised.value.reason, raised.value.retry_seconds) == ("LIMIT_EXCEEDED", TooMany.retry_seconds)
        waits = asyncio.create_task(finished(session, pages()))
        await asyncio.sleep(0.1)
        assert not waits.done()
        await asyncio.gather(*(reports.aclose() for reports in running))
        await ended(demo)
        assert (await waits).allocated_pages == 10_000


async def test_a_server_that_stops_ends_its_programs(client: AsyncMachine, demo: Loopback) -> None:
    session = client.session(cpu=0)
    await session.open()
    reports = await started(session)
    await demo.kill(0)
    with pytest.raises(NumaError):
        async for _ in reports:
            pass
    with pytest.raises(Unavailable):
        await session.close()
    before = demo.node(0).digest()
    await asyncio.sleep(0.01)
    assert demo.node(0).digest() == before, "nothing runs any more"
    # without grace it had no time to free what it held: that is the session's, and ends with it
    demo.node(0).apply(ops.EndSession(session.info.session))
    assert demo.node(0).held_pages() == 0


async def test_calls_are_counted(demo: Loopback, client: AsyncMachine) -> None:
    async with client.session(cpu=0) as session:
        await finished(session, pages())
        with pytest.raises(InvalidRequest):
            await finished(session, pages(events=0))
    metrics = demo.servers[0].registry
    labels = {
        "grpc_service": "numa.v1.WorkloadService",
        "grpc_method": "RunProgram",
        "grpc_type": "server_stream",
    }
    assert metrics.get_sample_value("grpc_server_started_total", labels) == 2
    for code in ("OK", "INVALID_ARGUMENT"):
        found = metrics.get_sample_value("grpc_server_handled_total", labels | {"grpc_code": code})
        assert found == 1


async def test_tasks_of_a_program_are_the_sessions(demo: Loopback, client: AsyncMachine) -> None:
    mix = TaskMix(64, "worker", policy=Policy.bind(1), children=1, child_accesses=8)
    async with client.session(cpu=0) as session:
        program = Program(phases=(Phase(events=6, batch=2, tasks=(mix,)),), keep=True)
        reports = [report async for report in session.run_program(program)]
        result = reports[-1]
        assert isinstance(result, ProgramResult)
        (tasks,) = result.phases[0].tasks
        assert (tasks.events, tasks.failures, tasks.placement[1]) == (6, 0, 6 * 72)
        assert len(demo.node(0).tasks) == 12
        pid = min(demo.node(0).tasks)
        assert await client.read_file(f"/proc/{pid}/comm") == "worker\n"
        with pytest.raises(InvalidRequest) as refused:
            async for _ in session.run_program(Program(phases=(Phase(events=1, tasks=(TaskMix(0),)),))):
                pass
        assert refused.value.field == "phases[0].tasks[0].pages"
    assert not demo.node(0).tasks
    demo.check()
