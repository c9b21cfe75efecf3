"""Captured traces on the machine that was traced: the same as each time, and near the capture made after."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from exact_replay.one_by_one import ExactOneByOne
from groundtruth import GROUNDTRUTH
from replay.traced import digests

from lab.divergence import compare_after
from lab.pagetypeinfo import read_occupancy
from lab.replay import ExactReplay
from lab.start import CapturedStart
from numa_service.machine.source import load
from numa_service.sim.traced import TracedZones
from numa_service.trace.events import TraceEvents
from numa_service.trace.reader import open_trace


def first(events: int, chunks: Iterator[TraceEvents]) -> Iterator[TraceEvents]:
    for chunk in chunks:
        yield chunk.part(0, events)
        events -= len(chunk)
        if events <= 0:
            return


@pytest.mark.parametrize(
    ("topology", "name", "allocs", "spilled", "same_pfn"),
    [
        ("numa-2n-big", "forkmix", 22_347, 0, 15_844),
        ("numa-4n-ring", "swap", 29_776, 8_946, 29_774),
        ("numa-4n-ring", "pressure", 29_246, 0, 29_246),
    ],
)
def test_a_real_trace(topology: str, name: str, allocs: int, spilled: int, same_pfn: int) -> None:
    """The first 60,000 events. Agreement is what was measured: a replay is the same each time."""
    directory = GROUNDTRUTH / "traces" / topology / name
    spec = load(str(GROUNDTRUTH / "topologies" / topology))
    traced = TracedZones.read(directory / "before", spec.arch)
    spec, same_machine = traced.fit(spec)
    assert same_machine
    states = []
    for kind in (ExactReplay, ExactOneByOne):
        machine = kind(spec, traced, CapturedStart.read(directory / "before", directory))
        with open_trace(directory) as reader:
            assert machine.run(first(60_000, iter(reader)))
        states.append((digests(machine), machine.tally.report(reader.counts)))
    assert states[0] == states[1]
    report = states[0][1]
    assert sum(report.events.values()) == 60_000
    assert report.problems == []
    assert all(zone.conserved for zone in report.zones)
    assert report.matched == report.wanted
    seen = report.agreement
    assert report.allocs == seen.compared == seen.same_node == seen.same_zone == allocs
    # all computed: no policy was followed
    assert (seen.by_policy, seen.spilled, seen.spilled_same_node) == (0, spilled, spilled)
    assert seen.same_pfn >= same_pfn


def test_a_real_trace_ends_near_its_capture() -> None:
    directory = GROUNDTRUTH / "traces/numa-2n-big/forkmix"
    spec = load(str(GROUNDTRUTH / "topologies/numa-2n-big"))
    traced = TracedZones.read(directory / "before", spec.arch)
    spec, _ = traced.fit(spec)
    machine = ExactReplay(spec, traced, CapturedStart.read(directory / "before", directory))
    snapshots = next(iter(machine.sim.nodes.values())).machine.snapshot().nodes
    zones = {(zone.nid, zone.name): zone for node in snapshots for zone in node.zones}
    for captured in read_occupancy(directory / "before"):
        zone = zones[captured.nid, captured.zone]
        off = np.abs(np.array(zone.nr_free_by_type) - np.array(captured.nr_free)).sum(axis=0)
        # the trace begins a little after the capture, and shows what changed in between: 63 pages, measured
        assert int((off << np.arange(len(off))).sum()) <= (63 if captured.nid == 1 else 0)
        assert zone.pageblocks == captured.pageblocks
    with open_trace(directory) as reader:
        assert machine.run(reader)
        report = machine.tally.report(reader.counts)
    assert report.problems == []
    # as measured, a little rounded: a replay is the same each time
    seen = report.agreement
    assert seen.same_zone == seen.compared == 93_145
    assert seen.by_policy == 0
    assert seen.same_pfn >= 53_000
    assert abs(report.refilled - report.traced_refilled) <= 250
    assert abs(report.drained - report.traced_drained) <= 290
    assert report.steals == report.traced_steals == 2
    for compared in compare_after(machine.sim, directory / "after", machine.tally.traced_free()):
        assert compared.then_percent is not None
        assert max(compared.then_percent, compared.free_percent) < 0.05
        assert compared.order_percent < (1.7 if (compared.nid, compared.zone) == (0, "Normal") else 0.02)
