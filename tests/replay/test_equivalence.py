"""The kernel's stretches and the generators, event by event, lead to the same state."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

from groundtruth import GROUNDTRUTH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replay.traced import MOVABLE, Alloc, Event, Free, OneByOne, digests, replay

from numa_service.machine.source import load
from numa_service.mm.replay import replay_stretch
from numa_service.sim.direct import compiled_code
from numa_service.sim.replay import Replay
from numa_service.sim.traced import TracedZones
from numa_service.trace.events import TraceEvents
from numa_service.trace.source import open_trace

GFPS = (
    MOVABLE,
    "GFP_KERNEL",
    "GFP_ATOMIC",
    "GFP_NOWAIT|__GFP_RECLAIMABLE",
    "GFP_DMA32",
    "GFP_KERNEL|__GFP_DMA",
    "GFP_TRANSHUGE_LIGHT|__GFP_NORETRY|__GFP_THISNODE",
    "GFP_KERNEL|__GFP_DMA|__GFP_DMA32",
)


@st.composite
def bursts(draw: st.DrawFn) -> list[Event]:
    """Runs of allocations and of frees, enough to fill nodes: what is freed may be old, new or unknown."""
    events: list[Event] = []
    live: dict[int, int] = {}
    fresh = itertools.count(1 << 12, 1 << 10)
    for _ in range(draw(st.integers(1, 12))):
        cpus = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
        length = draw(st.sampled_from((1, 7, 300, 4000)))
        if draw(st.booleans()) or not live:
            order = draw(st.sampled_from((0, 0, 0, 1, 3, 5, 9, 10)))
            gfp = draw(st.sampled_from(GFPS))
            for i in range(max(1, length >> order)):
                pfn = next(fresh)
                live[pfn] = order
                events.append(Alloc(cpus[i % len(cpus)], pfn, order, gfp))
        else:
            newest_first = draw(st.booleans())
            stride = draw(st.integers(1, 3))
            pfns = sorted(live, reverse=newest_first)[: length * stride : stride]
            for i, pfn in enumerate(pfns):
                events.append(Free(cpus[i % len(cpus)], pfn, live.pop(pfn)))
        if draw(st.integers(0, 3)) == 0:
            pfn = draw(st.sampled_from(sorted(live))) if live else 1
            events.append(draw(st.sampled_from((Free(0, pfn + 1), Alloc(0, pfn), Free(1, 77)))))
    return events


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=bursts())
def test_random_traces(tmp_path: Path, events: list[Event]) -> None:
    fast, report = replay(tmp_path, events)
    slow, expected = replay(tmp_path, events, OneByOne)
    assert report.problems == []
    assert dataclasses.asdict(report) == dataclasses.asdict(expected)
    assert digests(fast) == digests(slow)


def test_spills_are_stretches_too(tmp_path: Path) -> None:
    """Two nodes full, frees in between: the long way is left to the few events that wake a kswapd."""
    events: list[Event] = []
    for i in range(45_000):
        events.append(Alloc(0, 4096 + i))
        if i % 5 == 4:
            events.append(Free(i % 3, 4096 + i // 2))
    fast, report = replay(tmp_path, events)
    slow, expected = replay(tmp_path, events, OneByOne)
    assert dataclasses.asdict(report) == dataclasses.asdict(expected)
    assert digests(fast) == digests(slow)
    assert report.remote > 5_000
    # what went the long way is in the nodes' logs
    assert sum(node.log_length for node in fast.sim.nodes.values()) < len(events) // 10
    # one set of types, so that the compiled code is called directly
    assert compiled_code(replay_stretch) is not None


def first(events: int, chunks: Iterator[TraceEvents]) -> Iterator[TraceEvents]:
    for chunk in chunks:
        yield chunk.part(0, events)
        events -= len(chunk)
        if events <= 0:
            return


def test_a_real_trace(tmp_path: Path) -> None:
    """The first 60,000 events, on the machine that was traced, as full as it was."""
    directory = GROUNDTRUTH / "traces/numa-4n-ring/swap"
    spec = load(str(GROUNDTRUTH / "topologies/numa-4n-ring"))
    traced = TracedZones.read(directory / "before", spec.arch)
    spec, same_machine = traced.fit(spec)
    assert same_machine
    states = []
    for kind in (Replay, OneByOne):
        machine = kind(spec, traced)
        with open_trace(directory) as reader:
            assert machine.run(first(60_000, iter(reader)))
        states.append((digests(machine), machine.tally.report(reader.counts)))
    assert states[0] == states[1]
    report = states[0][1]
    assert report.problems == []
    assert sum(report.events.values()) == 60_000
    assert report.allocs == 29_776
    assert report.remote > 0
