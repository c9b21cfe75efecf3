"""Every program of the library on a small machine, from its TOML file to the node."""

from __future__ import annotations

from dataclasses import replace

import pytest
from driven import Driven, kinds_of
from numa_client import Program, ProgramResult, SessionInfo, list_programs
from numa_client._program_codec import run_request

from numa_service.machine.tlb import WALK_NS
from numa_service.rpc.program_messages import program

SESSION = SessionInfo(session=9, lease_seconds=30, node=0, lineage=1, token=bytes(range(16)))


def run(driven: Driven, name: str) -> ProgramResult:
    return driven.run(program(run_request(SESSION, "id", name, 0).program))


@pytest.mark.parametrize("name", list_programs())
def test_a_node_gets_what_is_in_the_file(name: str) -> None:
    sent = Program.load(name)
    message = run_request(SESSION, "id", sent, 0).program
    assert program(message) == replace(sent, summary=""), "which is for people"


@pytest.mark.parametrize("name", list_programs())
def test_it_runs_and_leaves_nothing(name: str) -> None:
    driven = Driven()
    result = run(driven, name)
    for phase in result.phases:
        for kind in kinds_of(phase):
            assert kind.events > 0, (phase.name, kind.name)
            assert kind.pages > 0, (phase.name, kind.name)
    assert result.freed_pages == result.allocated_pages
    assert driven.held() == 0
    assert [problem for node in driven.machine.nodes.values() for problem in node.check()] == []


def test_the_fork_storm_is_ten_times_the_calm() -> None:
    calm, storm = run(Driven(), "fork-storm").phases
    calm_events, storm_events = (sum(kind.events for kind in kinds_of(phase)) for phase in (calm, storm))
    assert storm_events == pytest.approx(10 * calm_events, rel=0.01)


def test_the_scan_does_not_push_out_the_working_set() -> None:
    _, scan = run(Driven(), "page-cache-churn").phases
    working_set, scanned = kinds_of(scan)
    assert working_set.hit_pages / working_set.events > 0.8
    assert scanned.hit_pages == 0


def test_the_cache_holds_about_half_of_the_node() -> None:
    driven = Driven()
    run(driven, "key-value-cache")
    managed = sum(extent.managed for extent in driven.node.pgdat.extents)
    serving = [p.live_pages / managed for p in driven.progress if p.phase == 1 and 0.2 < p.fraction < 1]
    assert min(serving) > 0.4
    assert max(serving) < 0.6


def test_most_huge_pages_fail_after_fragmentation() -> None:
    driven = Driven()
    (huge,) = kinds_of(run(driven, "fragmentation").phases[-1])
    assert huge.failures > huge.events / 2


def test_stream_finds_the_latencies_of_the_machine() -> None:
    driven = Driven(unloaded=True)
    result, loaded = run(driven, "stream"), run(Driven(), "stream")
    spec = driven.spec
    for nid in (0, 1, 2):
        phase = next(p for p in result.phases if p.name == f"triad, node {nid}")
        near = spec.latency.read_latency_ns(0, nid, spec.distance(0, nid))
        # earlier kernels have faulted all pages in: an access takes the read latency and a page walk
        assert all(set(kind.placement) == {nid} for kind in kinds_of(phase))
        assert kinds_of(phase)[-1].latency.p50_ns == pytest.approx(near + WALK_NS, rel=1 / 16)
        # STREAM saturates the memory: with the machine's own bandwidth its accesses queue
        queued = kinds_of(next(p for p in loaded.phases if p.name == phase.name))[-1]
        assert queued.latency.p50_ns > near
