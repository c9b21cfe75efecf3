"""Loads against a peer on real gRPC servers. A number of operations ends them: speed does not matter."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import pytest
from numa_client import InvalidRequest, Policy
from numa_loadgen import WORKLOADS, LoadPlan, LoadProgress, PlanError, Step, run_load
from numa_loadgen.report import Recorder
from reference_peer import ReferenceMachine


def plan(peer: ReferenceMachine, target: int = 0, **settings: object) -> LoadPlan:
    defaults = {"workload": "alloc-free", "clients": 1, "count": 16, "duration_seconds": 600.0}
    return LoadPlan(peer.addresses[target], **(defaults | settings))


@pytest.mark.parametrize("workload", list(WORKLOADS))
async def test_every_workload_accounts_for_every_page(peer: ReferenceMachine, workload: str) -> None:
    report = await run_load(plan(peer, workload=workload, clients=3, operations=300, region_pages=500))
    assert report.operations + sum(report.errors.values()) == 300
    assert set(report.errors) <= {"RESOURCE_EXHAUSTED"}
    assert (
        report.wall.operations
        == sum(kind.operations for kind in report.wall_by_kind.values())
        == 300 - sum(report.errors.values())
    )
    assert report.local_pages + report.remote_pages == report.allocated_pages + report.touched_pages
    assert sum(report.pages_by_node.values()) == report.local_pages + report.remote_pages
    assert report.allocated_pages + report.fault_pages == report.freed_pages + report.released_pages
    assert not peer.owner.any()
    assert peer.sessions == set()


async def test_fill_takes_all_and_gives_all_back(peer: ReferenceMachine) -> None:
    report = await run_load(plan(peer, workload="fill", count=512, operations=9))
    assert report.pages_by_node == {0: 1024, 1: 1024}
    assert report.errors == {"RESOURCE_EXHAUSTED": 1}
    assert (report.allocated_pages, report.freed_pages, report.released_pages) == (2048, 2048, 0)
    assert (report.local_pages, report.remote_pages, report.remote_lookups) == (1024, 1024, 2)
    assert report.virtual_ns_per_page_mean == 100


async def test_policy_and_order_reach_the_service(peer: ReferenceMachine) -> None:
    report = await run_load(plan(peer, policy=Policy.bind(1), order=2, gfp="GFP_USER", cpu=1, operations=2))
    (request,) = peer.calls["AllocPages"]
    assert (request.order, request.count, request.gfp_flags, request.cpu) == (2, 16, "GFP_USER", 1)
    assert report.pages_by_node == {1: 64}
    assert report.local_pages == 0


async def test_clients_go_round_the_cpus(peer: ReferenceMachine) -> None:
    await run_load(plan(peer, clients=4, operations=40))
    assert len(peer.calls["OpenSession"]) == 4
    assert {request.cpu for request in peer.calls["AllocPages"]} == {0, 1}


async def test_same_seed_same_requests() -> None:
    async def requests(seed: int) -> list[object]:
        peer = ReferenceMachine(pages_per_node=1024)
        await peer.start()
        await run_load(plan(peer, workload="mixed", seed=seed, operations=100))
        await peer.stop()
        return [
            *((call.count, call.order) for call in peer.calls["AllocPages"]),
            *((call.first_page, call.write) for call in peer.calls["TouchRegion"]),
            *((call.pages[0].node, call.pages[0].pfns) for call in peer.calls["FreePages"]),
        ]

    first = await requests(1)
    assert first == await requests(1)
    assert first != await requests(2)


async def test_an_open_loop_counts_the_waiting(peer: ReferenceMachine) -> None:
    report = await run_load(plan(peer, rate=1e6, operations=60))
    assert report.open_loop
    # All were due at once and went one by one: the last waited for all the others.
    assert report.wall.max_ms >= report.elapsed_seconds * 1000 / 2


async def test_an_open_loop_keeps_to_its_rate(peer: ReferenceMachine) -> None:
    report = await run_load(plan(peer, rate=0.001, clients=2, duration_seconds=0.2))
    assert report.operations == 1, "the first of the two is due at once, the other after 1000 s"
    assert not report.interrupted


async def test_a_session_that_ends_is_opened_again(peer: ReferenceMachine) -> None:
    stop = asyncio.Event()
    load = asyncio.create_task(run_load(plan(peer, workload="fill", count=1), stop=stop))
    await peer.wait_for_calls("AllocPages", 5)
    for session in sorted(peer.sessions):
        peer.end_session(session)
    await peer.wait_for_calls("OpenSession", 2)
    done = len(peer.calls["AllocPages"])
    await peer.wait_for_calls("AllocPages", done + 5)
    stop.set()
    report = await load
    assert report.reopened_sessions == 1
    assert report.errors["NOT_FOUND"] >= 1
    assert report.interrupted
    assert not peer.owner.any()


async def test_a_load_says_what_happened_to_its_node(peer: ReferenceMachine) -> None:
    stop = asyncio.Event()
    load = asyncio.create_task(run_load(plan(peer, target=1, workload="fill", count=1), stop=stop))
    await peer.wait_for_calls("AllocPages", 5)
    await peer.take_away(0)
    peer.lineages[0] = 2
    await peer.bring_back(0)
    await peer.wait_for_calls("OpenSession", 2)
    stop.set()
    report = await load
    assert report.errors == {"NOT_FOUND": 1}
    assert "the session was lost in the restart of node 0" in report.first_errors["NOT_FOUND"]


async def test_stop_ends_a_load_that_waits(peer: ReferenceMachine) -> None:
    stop = asyncio.Event()
    load = asyncio.create_task(run_load(plan(peer, rate=0.001, clients=2), stop=stop))
    await peer.wait_for_calls("AllocPages", 1)
    stop.set()
    report = await asyncio.wait_for(load, 30)
    assert report.interrupted
    assert peer.sessions == set()


async def test_an_invalid_request_ends_the_load(peer: ReferenceMachine) -> None:
    with pytest.raises(InvalidRequest, match="unknown gfp flag 'BOGUS'"):
        await run_load(plan(peer, gfp="BOGUS", clients=3))
    assert len(peer.calls["CloseSession"]) == 3
    assert peer.sessions == set()


async def test_progress_ends_with_the_totals(peer: ReferenceMachine) -> None:
    looks: list[LoadProgress] = []
    report = await run_load(plan(peer, operations=101), looks.append, progress_seconds=0.001)
    assert len(looks) > 1
    assert [look.operations for look in looks] == sorted(look.operations for look in looks)
    assert looks[-1].operations == report.operations == 101
    assert looks[-1].held_pages == 0, "sessions are closed by then"
    assert looks[-1].pages_by_node == report.pages_by_node


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"node": 1}, "node 1 has no CPUs"),
        ({"node": 7}, "no node 7 in machine 'reference'"),
        ({"cpu": 9}, "no CPU 9 in machine 'reference': it has 2"),
        ({"workload": "nonsense"}, "unknown workload 'nonsense': choose from alloc-free"),
    ],
)
async def test_plans_that_do_not_fit(
    peer: ReferenceMachine, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        await run_load(plan(peer, **settings))
    assert not peer.calls["OpenSession"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clients": 0}, "clients must be a number above 0, not 0"),
        ({"duration_seconds": float("nan")}, "duration_seconds must be a number above 0, not nan"),
        ({"rate": -1.0}, "rate must be a number above 0"),
        ({"order": 11}, "order must be 0 to 10, not 11"),
        ({"count": 65537}, "count must be at most 65536"),
    ],
)
def test_plans_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        LoadPlan("host:1", **settings)


def test_recorder_separates_wall_and_virtual_time() -> None:
    recorder = Recorder()
    recorder.step(Step("alloc", pages={0: 3, 1: 1}, latency_ns=800), wall_seconds=0.002, home=0)
    recorder.step(Step("touch", pages={1: 4}, latency_ns=4000, fault_pages=4), wall_seconds=0.004, home=1)
    recorder.step(Step("free", freed_pages=4), wall_seconds=0.001, home=0)
    recorder.error("UNAVAILABLE", "node 0 restarts")
    look = recorder.progress(2.0, 10.0)
    assert (look.operations_per_second, look.pages_per_second, look.held_pages) == (1.5, 6.0, 0)
    assert recorder.progress(3.0, 10.0).operations_per_second == 0
    report = recorder.report(workload="w", clients=1, elapsed_seconds=2.0, interrupted=False, open_loop=False)
    assert (report.local_pages, report.remote_pages, report.pages_by_node) == (7, 1, {0: 3, 1: 5})
    assert report.virtual_ns_per_page_mean == 600
    assert report.virtual_ns_per_page_p99 == 1000
    assert report.wall.max_ms == pytest.approx(4, rel=1e-2)
    assert report.wall.p50_ms == pytest.approx(2, rel=1e-2)
    assert list(report.wall_by_kind) == ["alloc", "free", "touch"]
    assert report.errors == {"UNAVAILABLE": 1}
    assert report.first_errors == {"UNAVAILABLE": "node 0 restarts"}
    assert report.to_dict() == asdict(report)
