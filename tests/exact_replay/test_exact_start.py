"""A replay that starts from the captured occupancy, block for block, and follows what the trace betrays."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from exact_replay.one_by_one import ExactOneByOne
from replay.traced import PFNS, SPEC, Alloc, Event, Free, Other, digests, render, replay

from lab.effects import effects
from lab.evidence import Evidence, KswapdRuns, ZoneStart, gather
from lab.occupancy import Blocks, ZoneState, write_occupancy
from lab.replay import ExactReplay
from lab.start import CapturedStart, read_marks, read_pagesets
from numa_service.mm.pgdata import PG_HELD, ZONE_RECLAIM_ACTIVE
from numa_service.procfs import SHOW
from numa_service.sim.trace_replay import Replay
from numa_service.sim.traced import TracedZones
from numa_service.trace.events import TraceError
from numa_service.trace.reader import open_trace, read_kswapd


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
    machine = ExactReplay(spec, traced, start)
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
    for kind in (ExactReplay, ExactOneByOne):
        machine = kind(spec, traced, CapturedStart.read(before, tmp_path / "trace"))
        with open_trace(tmp_path / "trace") as reader:
            assert machine.run(reader)
            report = machine.tally.report(reader.counts)
        seen = report.agreement
        assert report.by_policy == seen.same_node == seen.by_policy == seen.by_policy_same_node == 20
        assert seen.spilled == 0
        assert report.numastat["1"]["numa_hit"] == report.numastat["1"]["other_node"] == 20
        assert report.problems == []
        states.append((digests(machine), dataclasses.asdict(report)))
    assert states[0] == states[1]


def told(path: Path, events: list[Event], pageset: dict[int, int] | None = None, batch: int = 0) -> Evidence:
    """What a trace of a zone of 4096 pages and three CPUs tells."""
    (path / "trace").write_text(render(events))
    nr_free = [[0] * 11 for _ in range(6)]
    nr_free[1][10] = 2
    zone = ZoneStart(0, 4096, tuple(map(tuple, nr_free)), pageset or {}, batch)
    with open_trace(path / "trace") as reader:
        return gather(reader, [zone], [0, 1, 2])


def batched(cpu: int, pfn: int) -> Other:
    """A page of a batch of frees goes to its pageset."""
    return Other(cpu, f"mm_page_free_batched: page=0 pfn={pfn:#x} order=0")


def drained(cpu: int, pfn: int, migratetype: int = 1, pid: int = 7) -> Other:
    """A page from a pageset to the free lists."""
    return Other(cpu, f"mm_page_pcpu_drain: page=0 pfn={pfn:#x} order=0 migratetype={migratetype}", pid)


def test_first_events_tell_free_from_pageset_from_in_use(tmp_path: Path) -> None:
    events: list[Event] = [
        Free(0, 100, 1),
        Alloc(0, 100),
        locked(1, 200, 2),
        Alloc(1, 200, 2),
        Alloc(2, 300),
        Free(2, 200, 2),
        drained(1, 401, pid=8),
        drained(1, 400, pid=8),
    ]
    evidence = told(tmp_path, events, {1: 2, 2: 1})
    assert list(zip(evidence.in_use.pfn, evidence.in_use.order, strict=True)) == [(100, 1)]
    assert list(zip(evidence.free.pfn, evidence.free.order, strict=True)) == [(200, 2)]
    assert list(zip(evidence.popped.pfn, evidence.popped.cpu, strict=True)) == [(300, 2)]
    assert list(zip(evidence.drained.pfn, evidence.drained.cpu, strict=True)) == [(401, 1), (400, 1)]
    assert evidence.popped.between(150, 302).pfn.tolist() == [300]
    assert evidence.pageblocks == {0: 1}


def test_what_is_taken_in_a_row_tells_the_size_of_the_block_it_came_from(tmp_path: Path) -> None:
    whole = [locked(0, 1024 + i) for i in range(1024)]
    evidence = told(tmp_path, [*whole, locked(0, 2050), locked(0, 2052), Alloc(0, 1024)])
    blocks = list(zip(evidence.free.pfn, evidence.free.order, evidence.free.migratetype, strict=True))
    # 2051 was not taken after 2050, so 2050 was alone; the last one may be one of any size
    assert blocks == [(1024, 10, 1), (2050, 0, 1), (2052, 0, 1)]
    # order 0 had none left when the block of order 10 was split, and one of order 10 was never touched
    assert evidence.untouched[0][1].tolist() == [0] * 10 + [1]


def test_what_lies_above_a_popped_page_was_allocated_without_an_event(tmp_path: Path) -> None:
    refill: list[Event] = [locked(1, 512 + i) for i in range(6)]
    events: list[Event] = [*refill, Alloc(1, 512), Alloc(1, 515), Free(0, 514), Free(0, 513), Alloc(1, 516)]
    evidence = told(tmp_path, events)
    hidden = evidence.allocations
    assert hidden.at.tolist() == [7, 7]
    assert hidden.pfn.tolist() == [513, 514]
    assert (set(hidden.cpu.tolist()), set(hidden.migratetype.tolist()), set(hidden.amount.tolist())) == (
        {1},
        {1},
        {0},
    )


def test_a_refill_takes_one_batch_so_more_of_it_was_for_allocations_without_events(tmp_path: Path) -> None:
    refills: list[Event] = [locked(1, 512 + i) for i in range(6)]
    events: list[Event] = [*refills, Alloc(1, 516)]
    # six pages in batches of three: the first three were gone when the second batch came
    assert told(tmp_path, events, batch=3).allocations.pfn.tolist() == [512, 513, 514, 515]
    assert told(tmp_path, events, batch=3).allocations.at.tolist() == [0, 3, 3, 3]


def test_drains_that_no_free_caused_are_told_from_those_of_frees(tmp_path: Path) -> None:
    events: list[Event] = [
        *(locked(1, 512 + i) for i in range(8)),
        Alloc(1, 512),
        Free(1, 512),
        drained(1, 519),
        drained(1, 518),
        Other(1, "mm_vmscan_direct_reclaim_end: nr_reclaimed=1"),
        drained(1, 517),
        drained(1, 516),
        Alloc(1, 512),
        drained(2, 515, pid=9),
    ]
    drains = told(tmp_path, events).drains
    assert drains.at.tolist() == [13, 16]
    assert drains.cpu.tolist() == [1, 1]  # whose pageset it was, not who drained it
    assert drains.amount.tolist() == [2, 1]


def test_an_event_takes_effect_with_its_refill_its_batch_and_its_drain(tmp_path: Path) -> None:
    events: list[Event] = [
        locked(0, 600),  # 0
        locked(0, 601),
        Alloc(0, 600),  # 2: at 0
        Alloc(0, 601),  # 3
        Free(1, 700),  # 4: at 7
        Free(1, 701),  # 5: at 8, and what it drains at 9
        Alloc(2, 900),  # 6
        batched(1, 700),
        batched(1, 701),
        drained(1, 650),
        Free(1, 702),  # 10: at 11
        drained(1, 651),
    ]
    (tmp_path / "trace").write_text(render(events))
    with open_trace(tmp_path / "trace") as reader:
        (chunk,) = reader
    effect = effects(chunk)
    assert [int(effect[i]) for i in (2, 3, 4, 5, 6, 10)] == [0, 3, 7, 9, 6, 11]


def test_a_drain_at_a_free_of_a_larger_block_shows_that_frees_had_been_many(tmp_path: Path) -> None:
    events: list[Event] = [Alloc(1, 512), Free(1, 600, 1), drained(1, 513), Free(2, 700), drained(2, 514)]
    evidence = told(tmp_path, events, {1: 2, 2: 1})
    assert evidence.free_factors == {(1, 0): 2}


def test_a_trace_without_events_of_the_free_lists_infers_nothing(tmp_path: Path) -> None:
    events: list[Event] = [Free(0, 100), Free(0, 101), Alloc(0, 100), Alloc(0, 101)]
    evidence = told(tmp_path, events)
    assert evidence.allocations.at.tolist() == evidence.popped.pfn.tolist() == []
    assert evidence.in_use.pfn.tolist() == [100, 101]


def test_marks_of_the_captured_boot_replace_the_computed_ones(tmp_path: Path) -> None:
    before = capture(tmp_path / "before", Replay(SPEC))
    marks = {(zone.nid, zone.zone): zone for zone in read_marks(before)}
    assert set(marks) >= {(node.nid, zone.name) for node in SPEC.nodes for zone in node.zones}
    pgdat = Replay(SPEC).sim.nodes[0].pgdat
    zone = pgdat.zone_names.index("DMA32")
    found = marks[0, "DMA32"]
    assert found.watermark == tuple(pgdat.pg.watermark[zone, :3].tolist())
    assert found.protection == tuple(pgdat.pg.lowmem_reserve[zone].tolist())
    assert set(found.pageset_high.values()) == {int(pgdat.pg.pcp_high[zone])}
    assert found.pageset_batch == int(pgdat.pg.pcp_batch[zone])
    dataclasses.replace(found, watermark=(1, 2, 3), boost=4).apply(pgdat, zone)
    assert pgdat.pg.watermark[zone, :3].tolist() == [1, 2, 3]
    assert pgdat.pg.watermark_boost[zone] == 4


@pytest.mark.parametrize(("sleeps_at", "ends_at"), [(0.2, 0.1), (0.05, 0.03)])
def test_a_run_of_kswapd_ended_before_the_kernel_says_that_it_sleeps(
    tmp_path: Path, sleeps_at: float, ends_at: float
) -> None:
    text = [
        (0.0, "mm_vmscan_kswapd_wake: nid=1 order=0"),
        (0.03, "mm_page_free: page=0 pfn=0x64 order=0"),
        (sleeps_at, "mm_vmscan_kswapd_sleep: nid=1"),
        (1.0, "mm_vmscan_kswapd_wake: nid=1 order=0"),
        (2.0, "mm_vmscan_kswapd_wake: nid=1 order=0"),
    ]
    lines = [f"        kswapd1-69       [000] ..... {5 + at:12.6f}: {event}\n" for at, event in text]
    (tmp_path / "trace").write_text("# tracer: nop\n#\n" + "".join(lines))
    runs = KswapdRuns(read_kswapd(tmp_path / "trace"))
    with open_trace(tmp_path / "trace") as reader:
        for chunk in reader:
            runs.seen(chunk)
    times = [(round(change.time_ns / 1e9 - 5, 6), change.awake) for change in runs.changes()]
    assert times == [(0.0, True), (pytest.approx(ends_at, abs=1e-6), False), (1.0, True), (2.0, True)]


def test_a_running_kswapd_keeps_pagesets_small(tmp_path: Path) -> None:
    before = capture(tmp_path / "before", Replay(SPEC))
    events: list[Event] = [Alloc(0, PFNS[0]), Other(0, "mm_vmscan_kswapd_wake: nid=1 order=0")]
    events += [Alloc(0, PFNS[0] + 1), Other(0, "mm_vmscan_kswapd_sleep: nid=1"), Alloc(0, PFNS[0] + 2)]
    (tmp_path / "trace").write_text(render(events))
    changes = read_kswapd(tmp_path / "trace")
    assert [(change.nid, change.awake) for change in changes] == [(1, True), (1, False)]
    with open_trace(tmp_path / "trace") as reader:
        assert sum(map(len, reader)) == len(events)
        assert tuple(reader.kswapd) == changes
    traced = TracedZones.read(before, SPEC.arch)
    machine = ExactReplay(traced.fit(SPEC)[0], traced, CapturedStart.read(before, tmp_path / "trace"))
    flags = machine.sim.nodes[1].pgdat.pg.zone_flags
    seen = []
    with open_trace(tmp_path / "trace") as reader:
        assert machine.run(reader, lambda: bool(seen.append(bool(flags[0] & ZONE_RECLAIM_ACTIVE))))
    assert seen == [*sorted(seen[:-1]), False]
    assert True in seen


def test_an_occupancy_that_does_not_add_up_changes_nothing() -> None:
    pgdat = Replay(SPEC).sim.nodes[0].pgdat
    digest = pgdat.digest()
    nothing = Blocks.of([])
    state = ZoneState(0, Blocks.of([(1024, 10, 1, 0)]), nothing, nothing, np.zeros(0, np.int64), {})
    with pytest.raises(ValueError, match="zone DMA: 1024 pages in blocks, "):
        write_occupancy(pgdat, [state], 1)
    assert pgdat.digest() == digest


def test_a_capture_that_contradicts_the_machine_is_an_error(tmp_path: Path) -> None:
    before = capture(tmp_path / "before", Replay(SPEC))
    text = (before / "pagetypeinfo.txt").read_text().splitlines()
    at = next(i for i, line in enumerate(text) if "zone    DMA32, type      Movable" in line)
    text[at] = text[at][: text[at].index("Movable") + 7] + " 0" * 10 + " 99999"
    (before / "pagetypeinfo.txt").write_text("\n".join(text) + "\n")
    (tmp_path / "trace").write_text(render([Alloc(0, PFNS[0])]))
    start = CapturedStart.read(before, tmp_path / "trace")
    with pytest.raises(TraceError, match="zone DMA32"):
        ExactReplay(SPEC, TracedZones.read(before, SPEC.arch), start)
