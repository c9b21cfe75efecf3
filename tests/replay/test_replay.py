"""Traces whose outcome is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from replay.traced import PFNS, SPEC, Alloc, Event, Free, Other, render, replay

from numa_service.mm.invariants import check_pgdat
from numa_service.mm.pgdata import PG_HELD
from numa_service.mm.split_page import split_held
from numa_service.procfs import SHOW
from numa_service.sim.replay_samples import MAX_SAMPLES
from numa_service.sim.replay_tally import ReplayReport
from numa_service.sim.trace_replay import Replay
from numa_service.sim.traced import TracedZones
from numa_service.trace.events import TraceError
from numa_service.trace.reader import open_trace


def unmatched(report: ReplayReport) -> dict[str, int]:
    return {reason: n for reason, n in report.unmatched.items() if n}


#: A trace in which nothing happens.
NOTHING: list[Event] = [Other(0, f"mm_page_free_batched: page=0 pfn={PFNS[1]:#x} order=0")]


def sound(report: ReplayReport) -> bool:
    return report.problems == [] and all(zone.conserved for zone in report.zones)


def test_each_event_goes_to_the_node_of_its_cpu(tmp_path: Path) -> None:
    events: list[Event] = [
        Alloc(0, PFNS[0]),
        Alloc(1, PFNS[0] + 8, order=3, gfp="GFP_KERNEL"),
        Alloc(2, PFNS[1]),
        Alloc(2, PFNS[0] + 1),  # the traced kernel went to the other node
        Free(0, PFNS[1]),  # freed by the other node
        *NOTHING,
        Free(1, PFNS[0]),
    ]
    _, report = replay(tmp_path, events)
    assert (report.allocs, report.frees, report.wanted, report.matched) == (4, 2, 6, 6)
    assert unmatched(report) == {}
    assert {(p.nid, p.zone): (p.blocks, p.pages, p.local, p.remote) for p in report.placed if p.blocks} == {
        (0, "DMA32"): (2, 9, 2, 0),
        (1, "DMA32"): (2, 2, 2, 0),
    }
    assert (report.local, report.remote) == (4, 0)
    assert {order: n for order, n in report.by_order.items() if n} == {"0": 3, "3": 1}
    assert report.by_migratetype == {"Unmovable": 1, "Movable": 3, "Reclaimable": 0}
    seen = report.agreement
    assert (seen.compared, seen.same_node, seen.same_zone, seen.unknown_pfn) == (4, 3, 3, 0)
    assert (seen.spilled, seen.spilled_same_node) == (1, 0)
    assert (report.live_blocks, report.live_pages) == (2, 9)
    assert report.numastat["0"] | report.numastat["1"] == {
        "numa_hit": 2,
        "numa_miss": 0,
        "numa_foreign": 0,
        "interleave_hit": 0,
        "local_node": 2,
        "other_node": 0,
    }
    assert report.events["mm_page_free_batched"] == 1
    assert sound(report)


def test_what_cannot_be_matched_is_counted_by_reason(tmp_path: Path) -> None:
    events: list[Event] = [
        Free(0, 0x100000),
        Alloc(0, 0),
        Alloc(0, PFNS[0], order=11),
        Free(0, PFNS[0], order=11),
        Alloc(0, PFNS[0] + 1, gfp="GFP_KERNEL|__GFP_DMA|__GFP_DMA32"),
        Alloc(0, PFNS[0] + 8, order=2),
        Free(0, PFNS[0] + 9),  # a part of it: the block is split
        Free(0, PFNS[0] + 8, order=1),  # more than the part that is left
        Alloc(0, PFNS[0] + 8, order=2),  # the free was not traced
        Alloc(0, 1 << 50),
        Alloc(0, PFNS[0] + 16, gfp="GFP_KERNEL|__GFP_FROM_THE_FUTURE"),
    ]
    _, report = replay(tmp_path, events)
    assert unmatched(report) == {
        "free_of_page_allocated_before_trace": 1,
        "alloc_failed_in_trace": 1,
        "alloc_order_too_large": 1,
        "free_of_page_not_allocated_here": 1,
        "alloc_contradictory_gfp": 1,
        "free_of_part_of_block": 1,
        "missing_free": 1,
    }
    assert report.splits == 1
    assert report.unknown_gfp == {"__GFP_FROM_THE_FUTURE": 1}
    assert report.agreement.unknown_pfn == 1
    assert (report.live_blocks, report.live_pages) == (4, 8)
    assert sound(report)


def test_cpus_that_the_machine_lacks_run_on_others(tmp_path: Path) -> None:
    _, report = replay(tmp_path, [Alloc(5, PFNS[0]), Free(300, PFNS[0]), Alloc(1, PFNS[0])])
    assert report.events_of_moved_cpus == 2
    assert unmatched(report) == {}


def test_a_full_node_spills_then_fails_and_everything_comes_back(tmp_path: Path) -> None:
    room = sum(zone.managed for zone in replay(tmp_path, NOTHING)[1].zones)
    pages = room - 100  # below the MIN watermarks: the last ones are refused
    traced = [1 << 20 | i for i in range(pages)]
    allocs: list[Event] = [Alloc(i % 2, pfn) for i, pfn in enumerate(traced)]
    machine, report = replay(tmp_path, allocs)
    failed = report.unmatched["alloc_failed_here"]
    assert 0 < failed < pages // 8, failed
    assert report.allocs + failed == pages
    by_node = {nid: [p for p in report.placed if p.nid == nid] for nid in PFNS}
    assert all(p.remote == 0 for p in by_node[0])
    assert all(p.local == 0 and p.remote > 0 for p in by_node[1] + by_node[2])
    numastat = report.numastat
    assert numastat["0"]["numa_foreign"] == numastat["1"]["numa_miss"] + numastat["2"]["numa_miss"]
    assert numastat["0"]["numa_foreign"] == report.remote
    assert sound(report)

    frees: list[Event] = [Free(2, pfn) for pfn in traced]
    (tmp_path / "trace").write_text(render(frees))
    with open_trace(tmp_path / "trace") as reader:
        assert machine.run(reader)
    report = machine.tally.report(reader.counts)
    assert report.unmatched["free_of_page_not_allocated_here"] == failed
    assert (report.live_blocks, report.live_pages) == (0, 0)
    assert sound(report)


def test_it_stops_between_two_events_when_told(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(render([Alloc(i % 3, PFNS[0] + i) for i in range(9)]))
    machine = Replay(SPEC)
    answers = iter([False, False, True])
    with open_trace(tmp_path / "trace") as reader:
        assert not machine.run(reader, lambda: next(answers))
    report = machine.tally.report(reader.counts)
    assert report.allocs == report.events["mm_page_alloc"] == 2
    assert sound(report)


# what was in use before


def capture(directory: Path, machine: Replay) -> Path:
    """The machine's own zoneinfo and buddyinfo, as a capture."""
    directory.mkdir()
    snapshot = next(iter(machine.sim.nodes.values())).machine.snapshot()
    for name in ("zoneinfo", "buddyinfo"):
        (directory / f"{name}.txt").write_text(SHOW[name](snapshot))
    return directory


def test_free_pages_start_as_captured(tmp_path: Path) -> None:
    used: list[Event] = [Alloc(i % 3, 4096 + 16 * i, order=i % 4) for i in range(1000)]
    machine, before = replay(tmp_path, used)
    traced = TracedZones.read(capture(tmp_path / "before", machine), SPEC.arch)
    fitted, same = traced.fit(SPEC)
    assert same
    after, report = replay(tmp_path, NOTHING, traced=traced)
    assert {(z.nid, z.zone): z.free for z in report.zones} == {(z.nid, z.zone): z.free for z in before.zones}
    assert [(h.held, h.wanted) for h in report.in_use] == [(h.wanted,) * 2 for h in report.in_use]
    assert sum(h.held for h in report.in_use) > 0
    assert report.live_pages == 0
    assert set(report.numastat["0"].values()) == {0}
    assert after.spec.nodes[0].ram == fitted.nodes[0].ram
    assert sound(report)


def test_a_machine_that_was_full_serves_nothing(tmp_path: Path) -> None:
    directory = capture(tmp_path / "before", Replay(SPEC))
    text = (directory / "buddyinfo.txt").read_text().splitlines()
    (directory / "buddyinfo.txt").write_text(
        "".join(" ".join([*line.split()[:4], *["0"] * 11]) + "\n" for line in text)
    )
    traced = TracedZones.read(directory, SPEC.arch)
    _, report = replay(tmp_path, [Alloc(0, PFNS[0])], traced=traced)
    assert unmatched(report) == {"alloc_failed_here": 1}
    assert all(zone.free + zone.pageset == 0 for zone in report.zones)
    assert sound(report)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("buddyinfo.txt", None, r"buddyinfo\.txt: No such file or directory"),
        ("buddyinfo.txt", "Node 0, zone DMA 1 2\n", r"before: buddyinfo line 1: 2 orders, not 11"),
        ("buddyinfo.txt", f"Node 0, zone DMA{' 1' * 11}\n", r"before: node 0 zone DMA32 is not in buddyinfo"),
        ("zoneinfo.txt", "Node 0, zone DMA\n", r"zoneinfo\.txt:1: Node 0, zone DMA: no spanned"),
    ],
)
def test_a_bad_capture_is_named(tmp_path: Path, file: str, text: str | None, message: str) -> None:
    directory = capture(tmp_path / "before", Replay(SPEC))
    (directory / file).unlink()
    if text is not None:
        (directory / file).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        TracedZones.read(directory, SPEC.arch)
    assert "\n" not in str(error.value)


def test_a_truncated_trace_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("")
    with pytest.raises(TraceError):
        open_trace(tmp_path / "trace")


def test_the_machine_of_another_capture_keeps_its_own_pages(tmp_path: Path) -> None:
    traced = TracedZones(TracedZones.of(SPEC).zones[:-1], SPEC.arch)
    assert traced.fit(SPEC) == (SPEC, False)


def test_samples_are_spread_over_the_trace_and_never_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("numa_service.sim.trace_replay.SAMPLE_EVENTS", 10)
    events: list[Event] = [Alloc(0, PFNS[0] + i) for i in range(2000)]
    _, report = replay(tmp_path, events)
    assert MAX_SAMPLES // 4 < len(report.samples) <= MAX_SAMPLES
    gaps = {b.events - a.events for a, b in zip(report.samples, report.samples[1:], strict=False)}
    assert len(gaps) == 1
    assert report.samples[-1].events > 1800


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
