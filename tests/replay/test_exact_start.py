"""A replay that starts from the captured occupancy, block for block, and follows what the trace betrays."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from groundtruth import GROUNDTRUTH, requires_groundtruth
from replay.traced import PFNS, SPEC, Alloc, Event, Free, OneByOne, Other, digests, render, replay

from numa_service.machine.source import load
from numa_service.mm.invariants import check_pgdat
from numa_service.mm.occupancy import Blocks, ZoneState, split_held, write_occupancy
from numa_service.mm.pgdata import PG_HELD, ZONE_RECLAIM_ACTIVE
from numa_service.procfs import SHOW
from numa_service.sim.replay import Replay
from numa_service.sim.replay_divergence import MAX_SAMPLES, compare_after
from numa_service.sim.replay_start import CapturedStart, read_pagesets
from numa_service.sim.traced import TracedZones
from numa_service.trace.events import EventKind, TraceError
from numa_service.trace.evidence import first_events, read_kswapd
from numa_service.trace.occupancy import read_occupancy
from numa_service.trace.source import open_trace


def locked(cpu: int, pfn: int, order: int = 0, migratetype: int = 1) -> Other:
    """A block off the buddy lists."""
    return Other(
        cpu,
        f"mm_page_alloc_zone_locked: page=0 pfn={pfn:#x} order={order} migratetype={migratetype} "
        "percpu_refill=1",
    )


def capture(directory: Path, machine: Replay) -> Path:
    """The machine's own files, as a capture."""
    directory.mkdir()
    snapshot = next(iter(machine.sim.nodes.values())).machine.snapshot()
    for name in ("zoneinfo", "buddyinfo", "pagetypeinfo"):
        (directory / f"{name}.txt").write_text(SHOW[name](snapshot))
    return directory


def used_machine(path: Path) -> Replay:
    """Fragmented, with all three types, and pages on pagesets."""
    gfps = ("GFP_KERNEL", "GFP_HIGHUSER_MOVABLE", "GFP_NOWAIT|__GFP_RECLAIMABLE")
    events: list[Event] = [Alloc(i % 3, 4096 + 16 * i, i % 4, gfps[i % 3]) for i in range(3000)]
    events += [Free(i % 3, 4096 + 16 * i, i % 4) for i in range(0, 3000, 2)]
    events += [Alloc(cpu, (1 << 20) + cpu) for cpu in range(3)]
    return replay(path, events)[0]


def test_free_lists_pageblocks_and_pagesets_start_exactly_as_captured(tmp_path: Path) -> None:
    before = capture(tmp_path / "before", used_machine(tmp_path))
    in_use = PFNS[0] + 5
    free = PFNS[1] + 64
    (tmp_path / "trace").write_text(render([Free(0, in_use), locked(2, free), Alloc(2, free), Free(2, free)]))
    traced = TracedZones.read(before, SPEC.arch)
    spec, same = traced.fit(SPEC)
    assert same
    start = CapturedStart.read(before, tmp_path / "trace")
    machine = Replay(spec, traced, start)
    again = capture(tmp_path / "again", machine)
    for name in ("buddyinfo.txt", "pagetypeinfo.txt"):
        assert (again / name).read_text() == (before / name).read_text()
    assert read_pagesets(again) == read_pagesets(before)
    assert sum(read_pagesets(before).values()) > 5
    assert machine.sim.check() == []
    pgdat = machine.sim.nodes[0].pgdat
    assert pgdat.pg.flags[in_use - pgdat.base_pfn] & PG_HELD

    with open_trace(tmp_path / "trace") as reader:
        assert machine.run(reader)
        report = machine.tally.report(reader.counts)
    assert (report.allocs, report.frees) == (1, 2)
    assert not any(report.unmatched.values())
    assert sum(zone.held_in_use for zone in report.zones) == sum(h.held for h in report.in_use) - 1
    assert report.problems == []


def test_a_node_named_by_a_policy_is_followed_and_a_spill_is_not(tmp_path: Path) -> None:
    before = capture(tmp_path / "before", Replay(SPEC))
    events: list[Event] = []
    for i in range(20):
        # CPU 0 is on node 0, which is empty; the traced kernel went to node 1
        events += [locked(0, PFNS[1] + i), Alloc(0, PFNS[1] + i)]
    (tmp_path / "trace").write_text(render(events))
    traced = TracedZones.read(before, SPEC.arch)
    spec, _ = traced.fit(SPEC)
    states = []
    for kind in (Replay, OneByOne):
        machine = kind(spec, traced, CapturedStart.read(before, tmp_path / "trace"))
        with open_trace(tmp_path / "trace") as reader:
            assert machine.run(reader)
            report = machine.tally.report(reader.counts)
        assert report.by_policy == report.agreement.same_node == 20
        assert report.numastat["1"]["numa_hit"] == report.numastat["1"]["other_node"] == 20
        assert report.problems == []
        states.append((digests(machine), dataclasses.asdict(report)))
    assert states[0] == states[1]


def test_first_events_tell_free_from_pageset_from_in_use(tmp_path: Path) -> None:
    events: list[Event] = [
        Free(0, 100, 1),
        Alloc(0, 100),
        locked(1, 200, 2),
        Alloc(1, 200, 2),
        Alloc(2, 300),
        Free(2, 200, 2),
    ]
    (tmp_path / "trace").write_text(render(events))
    with open_trace(tmp_path / "trace") as reader:
        first = first_events(reader)
    kinds = dict(zip(first.pfn.tolist(), first.kind.tolist(), strict=True))
    assert {pfn for pfn, kind in kinds.items() if kind == EventKind.MM_PAGE_FREE} == {100, 101}
    taken = {pfn for pfn, kind in kinds.items() if kind == EventKind.MM_PAGE_ALLOC_ZONE_LOCKED}
    assert taken == {200, 201, 202, 203}
    assert kinds[300] == EventKind.MM_PAGE_ALLOC
    assert first.pfn[first.blocks].tolist() == [100, 200, 300]
    assert first.zone_locked
    assert first.between(150, 202).pfn.tolist() == [200, 201]


def test_a_running_kswapd_keeps_pagesets_small(tmp_path: Path) -> None:
    before = capture(tmp_path / "before", Replay(SPEC))
    events: list[Event] = [Alloc(0, PFNS[0]), Other(0, "mm_vmscan_kswapd_wake: nid=1 order=0")]
    events += [Alloc(0, PFNS[0] + 1), Other(0, "mm_vmscan_kswapd_sleep: nid=1"), Alloc(0, PFNS[0] + 2)]
    (tmp_path / "trace").write_text(render(events))
    changes = read_kswapd(tmp_path / "trace")
    assert [(change.nid, change.awake) for change in changes] == [(1, True), (1, False)]
    traced = TracedZones.read(before, SPEC.arch)
    machine = Replay(traced.fit(SPEC)[0], traced, CapturedStart.read(before, tmp_path / "trace"))
    flags = machine.sim.nodes[1].pgdat.pg.zone_flags
    seen = []
    with open_trace(tmp_path / "trace") as reader:
        assert machine.run(reader, lambda: bool(seen.append(bool(flags[0] & ZONE_RECLAIM_ACTIVE))))
    assert seen == [*sorted(seen[:-1]), False]
    assert True in seen


def test_parts_of_a_held_block_are_split_off() -> None:
    machine = Replay(SPEC)
    pgdat = machine.sim.nodes[0].pgdat
    pg = pgdat.pg
    zone = pgdat.zone_names.index("DMA32")
    pfns = pgdat.alloc((zone,), 0, 4, 1, 1, zone, 0x04, 3, 9)
    idx = int(pfns[0]) - pgdat.base_pfn
    assert not split_held(pg, idx, 4, idx + 1, 1)  # not aligned
    assert not split_held(pg, idx, 4, idx + 16, 0)  # outside
    assert not split_held(pg, idx, 3, idx, 0)  # of another order
    assert split_held(pg, idx, 4, idx + 6, 1)
    heads = np.flatnonzero(pg.flags & PG_HELD)
    assert [(int(h) - idx, int(pg.order[h])) for h in heads] == [(0, 2), (4, 1), (6, 1), (8, 3)]
    assert check_pgdat(pgdat) == []


def test_an_occupancy_that_does_not_add_up_changes_nothing() -> None:
    pgdat = Replay(SPEC).sim.nodes[0].pgdat
    digest = pgdat.digest()
    nothing = Blocks.of([])
    state = ZoneState(0, Blocks.of([(1024, 10, 1, 0)]), nothing, nothing, np.zeros(0, np.int64), {})
    with pytest.raises(ValueError, match="zone DMA: 1024 pages in blocks, "):
        write_occupancy(pgdat, [state], 1)
    assert pgdat.digest() == digest


def test_samples_are_spread_over_the_trace_and_never_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("numa_service.sim.replay.SAMPLE_EVENTS", 10)
    events: list[Event] = [Alloc(0, PFNS[0] + i) for i in range(2000)]
    _, report = replay(tmp_path, events)
    assert MAX_SAMPLES // 4 < len(report.samples) <= MAX_SAMPLES
    gaps = {b.events - a.events for a, b in zip(report.samples, report.samples[1:], strict=False)}
    assert len(gaps) == 1
    assert report.samples[-1].events > 1800


def test_a_capture_that_contradicts_the_machine_is_an_error(tmp_path: Path) -> None:
    before = capture(tmp_path / "before", Replay(SPEC))
    text = (before / "pagetypeinfo.txt").read_text().splitlines()
    at = next(i for i, line in enumerate(text) if "zone    DMA32, type      Movable" in line)
    text[at] = text[at][: text[at].index("Movable") + 7] + " 0" * 10 + " 99999"
    (before / "pagetypeinfo.txt").write_text("\n".join(text) + "\n")
    (tmp_path / "trace").write_text(render([Alloc(0, PFNS[0])]))
    start = CapturedStart.read(before, tmp_path / "trace")
    with pytest.raises(TraceError, match="zone DMA32"):
        Replay(SPEC, TracedZones.read(before, SPEC.arch), start)


@requires_groundtruth
def test_a_real_trace_ends_near_its_capture() -> None:
    directory = GROUNDTRUTH / "traces/numa-2n-big/forkmix"
    spec = load(str(GROUNDTRUTH / "topologies/numa-2n-big"))
    traced = TracedZones.read(directory / "before", spec.arch)
    spec, _ = traced.fit(spec)
    machine = Replay(spec, traced, CapturedStart.read(directory / "before", directory))
    snapshots = next(iter(machine.sim.nodes.values())).machine.snapshot().nodes
    zones = {(zone.nid, zone.name): zone for node in snapshots for zone in node.zones}
    for captured in read_occupancy(directory / "before"):
        assert zones[captured.nid, captured.zone].nr_free_by_type == captured.nr_free
        assert zones[captured.nid, captured.zone].pageblocks == captured.pageblocks
    with open_trace(directory) as reader:
        assert machine.run(reader)
        report = machine.tally.report(reader.counts)
    assert report.problems == []
    assert report.agreement.same_zone == report.agreement.compared
    assert abs(report.refilled - report.traced_refilled) < report.traced_refilled // 5
    assert max(zone.free_percent for zone in compare_after(machine.sim, directory / "after")) <= 1
