"""What the emulator emits, replay reads back: to the page, on the machine that emitted it."""

from __future__ import annotations

from pathlib import Path

import pytest

from numa_service.machine.presets import load_preset
from numa_service.mm import tracepoints as tp
from numa_service.mm.gfp import GFP_KERNEL, parse_gfp
from numa_service.node import ops
from numa_service.node.free_pages import free_pages
from numa_service.node.mempolicy import Policy
from numa_service.node.page_alloc import alloc_pages
from numa_service.node.prepare import AllocRequest
from numa_service.sim.replay_tally import ReplayReport
from numa_service.sim.simulation import Simulation
from numa_service.sim.trace_replay import Replay
from numa_service.trace.reader import open_trace
from numa_service.trace.tracepoint_formats import Event, Printer, trace_header

SPEC = load_preset("demo")


def replayed(path: Path) -> tuple[Replay, ReplayReport]:
    machine = Replay(SPEC)
    with open_trace(path) as reader:
        machine.run(reader)
        return machine, machine.tally.report(reader.counts)


def run() -> tuple[Simulation, list[Event]]:
    """Blocks of several orders and types come and go on node 0, more than it has at one time."""
    sim = Simulation(SPEC)
    node = sim.nodes[0]
    listeners = [n.tracepoints.listen(ring_events=1 << 19) for n in sim.nodes.values()]
    session = node.apply(ops.OpenSession("emit", 1 << 62, 0))
    held = []
    for turn in range(30):
        for order, gfp in ((0, GFP_KERNEL), (0, parse_gfp("GFP_HIGHUSER_MOVABLE")), (3, GFP_KERNEL)):
            request = AllocRequest(session, gfp, order, 700 >> order, turn % 2, Policy())
            held.append((order, sim.call(0, alloc_pages(node, request)).pages))
        if turn % 3 == 2:
            order, pages = held.pop(turn // 3)
            sim.call(0, free_pages(node, session, order, pages, turn % 2))
    sim.run()
    told: list[Event] = []
    for listener in listeners:
        while listener.waiting:
            told += listener.take()
        assert listener.dropped == 0
    return sim, sorted(told, key=lambda event: event.time_ns)


@pytest.mark.parametrize("dialect", ["trace_line", "perf_line"])
def test_what_is_emitted_is_replayed(dialect: str, tmp_path: Path) -> None:
    sim, told = run()
    line = getattr(Printer(SPEC.profile), dialect)
    path = tmp_path / "trace"
    path.write_text(trace_header(4) + "".join(f"{line(event)}\n" for event in told))
    machine, report = replayed(path)
    allocs = sum(event.kind == tp.MM_PAGE_ALLOC for event in told)
    frees = sum(event.kind == tp.MM_PAGE_FREE for event in told)
    assert (report.allocs, report.frees) == (allocs, frees)
    assert report.matched == report.wanted == allocs + frees
    assert {reason: n for reason, n in report.unmatched.items() if n} == {}
    seen = report.agreement
    assert (seen.compared, seen.same_node, seen.same_zone) == (allocs, allocs, allocs)
    assert {name: n for name, n in report.events.items() if n} == {
        name: sum(event.name == name for event in told) for name in {event.name for event in told}
    }
    for nid, node in sim.nodes.items():
        emitted, again = node.pgdat.snapshot(), machine.sim.nodes[nid].pgdat.snapshot()
        assert emitted.numastat == again.numastat
        assert [zone.nr_free_by_type for zone in emitted.zones] == [
            zone.nr_free_by_type for zone in again.zones
        ]
        assert [zone.pagesets for zone in emitted.zones] == [zone.pagesets for zone in again.zones]
    assert report.problems == []
