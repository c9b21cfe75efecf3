"""Every program of the library on a small machine, from its TOML file to the node."""

from __future__ import annotations

from dataclasses import replace

import pytest
from driven import Driven
from numa_client import Program, SessionInfo, list_programs
from numa_client._program_codec import run_request

from numa_service.rpc.program_messages import program
from numa_service.workload.tally import Result

SESSION = SessionInfo(session=9, lease_seconds=30, node=0, incarnation=1, token=bytes(range(16)))


def run(driven: Driven, name: str) -> Result:
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
        for kind in phase.kinds:
            assert kind.events > 0, (phase.name, kind.name)
            assert kind.pages > 0, (phase.name, kind.name)
    assert result.freed_pages == result.allocated_pages
    assert driven.held() == 0
    assert [problem for node in driven.machine.nodes.values() for problem in node.check()] == []


def test_the_fork_storm_is_ten_times_the_calm() -> None:
    calm, storm = run(Driven(), "fork-storm").phases
    assert storm.events == pytest.approx(10 * calm.events, rel=0.01)


def test_the_scan_does_not_push_out_the_working_set() -> None:
    _, scan = run(Driven(), "page-cache-churn").phases
    working_set, scanned = scan.kinds
    assert working_set.hits / working_set.events > 0.8
    assert scanned.hits == 0


def test_the_cache_holds_about_half_of_the_node() -> None:
    driven = Driven()
    run(driven, "key-value-cache")
    managed = sum(extent.managed for extent in driven.node.pgdat.extents)
    serving = [p.live_pages / managed for p in driven.progress if p.phase == 1 and 0.2 < p.fraction < 1]
    assert min(serving) > 0.4
    assert max(serving) < 0.6


def test_most_huge_pages_fail_after_fragmentation() -> None:
    driven = Driven()
    (huge,) = run(driven, "fragmentation").phases[-1].kinds
    assert huge.failures > huge.events / 2


def test_stream_finds_the_latencies_of_the_machine() -> None:
    driven = Driven(unloaded=True)
    result, loaded = run(driven, "stream"), run(Driven(), "stream")
    spec = driven.spec
    for nid in (0, 1, 2):
        phase = next(p for p in result.phases if p.name == f"triad, node {nid}")
        near = spec.latency.read_latency_ns(0, nid, spec.distance(0, nid))
        # c and a were faulted in by b's pass or copy's: what is left is the access
        assert all(set(kind.pages_by_node) == {nid} for kind in phase.kinds)
        assert phase.kinds[-1].latency.percentile_ns(50) == pytest.approx(near, rel=1 / 16)
        # STREAM is there to saturate: with the machine's own bandwidth it queues
        queued = next(p for p in loaded.phases if p.name == phase.name).kinds[-1]
        assert queued.latency.percentile_ns(50) > near
