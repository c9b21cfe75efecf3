"""The kernel's stretches and the generators, event by event, lead to the same state."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from groundtruth import GROUNDTRUTH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replay.traced import MOVABLE, Alloc, Event, Free, OneByOne, digests, replay

from numa_service.machine.source import load
from numa_service.mm.replay import replay_stretch
from numa_service.sim.direct import compiled_code
from numa_service.sim.trace_replay import Replay
from numa_service.sim.traced import TracedZones
from numa_service.trace.events import TraceEvents
from numa_service.trace.reader import open_trace

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


class Burst(NamedTuple):
    """A run of allocations (`order` and `gfp`) or of frees (`order` -1), then perhaps one odd event."""

    cpus: tuple[int, ...]
    pages: int
    order: int
    gfp: str
    newest_first: bool
    stride: int
    odd: str


BURSTS = st.lists(
    st.builds(
        Burst,
        cpus=st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple),
        pages=st.sampled_from((1, 7, 300, 4000)),
        order=st.sampled_from((0, 0, 0, 1, 3, 5, 9, 10, -1, -1, -1, -1, -1, -1, -1, -1)),
        gfp=st.sampled_from(GFPS),
        newest_first=st.booleans(),
        stride=st.integers(1, 3),
        odd=st.sampled_from(("", "", "", "", "", "", "", "", "", "part", "again", "unknown")),
    ),
    min_size=1,
    max_size=12,
)


def events_of(bursts: list[Burst]) -> list[Event]:
    """Enough to fill nodes: what is freed may be old, new or unknown."""
    events: list[Event] = [Alloc(0, 77)]  # a trace without an allocation is refused
    live: dict[int, int] = {77: 0}
    fresh = itertools.count(1 << 12, 1 << 10)
    for burst in bursts:
        if burst.order >= 0:
            for i in range(max(1, burst.pages >> burst.order)):
                pfn = next(fresh)
                live[pfn] = burst.order
                events.append(Alloc(burst.cpus[i % len(burst.cpus)], pfn, burst.order, burst.gfp))
        else:
            pfns = sorted(live, reverse=burst.newest_first)[: burst.pages * burst.stride : burst.stride]
            for i, pfn in enumerate(pfns):
                events.append(Free(burst.cpus[i % len(burst.cpus)], pfn, live.pop(pfn)))
        first_live = min(live, default=1)
        odd = {"part": Free(0, first_live + 1), "again": Alloc(0, first_live), "unknown": Free(1, 99)}
        if burst.odd:
            events.append(odd[burst.odd])
    return events


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bursts=BURSTS)
def test_random_traces(tmp_path: Path, bursts: list[Burst]) -> None:
    events = events_of(bursts)
    fast, report = replay(tmp_path, events)
    slow, expected = replay(tmp_path, events, OneByOne)
    assert report.problems == []
    assert dataclasses.asdict(report) == dataclasses.asdict(expected)
    assert digests(fast) == digests(slow)


def test_a_stretch_that_mixes_migratetypes_wakes_kswapd(tmp_path: Path) -> None:
    """The DMA zone is too small for its marks to be left alone: its last blocks boost them."""
    events: list[Event] = [Alloc(0, 4096 + 1024 * i, 5, "GFP_KERNEL|__GFP_DMA") for i in range(125)]
    fast, _ = replay(tmp_path, events)
    slow, _ = replay(tmp_path, events, OneByOne)
    assert fast.kswapd_wakeups > 0
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
