"""Captured traces, replayed here from the captured occupancy, beside the capture made after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fidelity.compare import Field

from numa_service.machine.source import load
from numa_service.sim.replay import Replay
from numa_service.sim.replay_divergence import ZoneDivergence, compare_after
from numa_service.sim.replay_start import CapturedStart
from numa_service.sim.replay_tally import ReplayReport
from numa_service.sim.traced import TracedZones
from numa_service.trace.source import open_trace

#: Goals, in percent of managed pages.
FREE_PERCENT = 1
ORDER_PERCENT = 2

UNTRACED = "allocated between the two captures and not traced, or placed in another zone here"
PAGESETS = "the same, and what pagesets hold: here fewer pages than there, so that more are on free lists"
LAYOUT = (
    "no bound follows from a mechanism: what the trace never touches is captured only as counts, and what "
    "came after it not at all; a guard of 5 %"
)

#: The guard, in percent of managed, and in pages of small zones.
_LAYOUT_PERCENT = 5
_LAYOUT_PAGES = 1024


@dataclass(frozen=True, slots=True)
class TraceResult:
    """One trace."""

    name: str
    report: ReplayReport
    zones: list[ZoneDivergence]
    #: Pages that the captured kernel allocated between the captures beyond those traced.
    untraced: int


def replay_trace(directory: Path) -> TraceResult | None:
    """Replay on the machine of the same name; None if that was not captured, or the trace has no captures."""
    topology = directory.parents[2] / "topologies" / directory.parent.name
    if not all((directory / part / "pagetypeinfo.txt").is_file() for part in ("before", "after")):
        return None
    if not (topology / "zoneinfo.txt").is_file():
        return None
    spec = load(str(topology))
    traced = TracedZones.read(directory / "before", spec.arch)
    spec, same_machine = traced.fit(spec)
    start = CapturedStart.read(directory / "before", directory) if same_machine else None
    replay = Replay(spec, traced, start)
    with open_trace(directory) as reader:
        replay.run(reader)
        report = replay.tally.report(reader.counts)
    name = f"{directory.parent.name}/{directory.name}"
    untraced = max(0, _allocated(directory) - _pages(report.by_order))
    return TraceResult(
        name, report, compare_after(replay.sim, directory / "after", replay.tally.traced_free()), untraced
    )


def _pages(by_order: dict[str, int]) -> int:
    return sum(blocks << int(order) for order, blocks in by_order.items())


def _allocated(directory: Path) -> int:
    """Pages allocated between the captures before and after (pgalloc_*)."""
    was, now = (
        dict(line.split() for line in (directory / part / "vmstat.txt").read_text().splitlines())
        for part in ("before", "after")
    )
    return sum(int(now[name]) - int(was[name]) for name in now if name.startswith("pgalloc_"))


def trace_fields(result: TraceResult) -> Iterator[Field]:
    """Free pages and their distribution over the orders, zone by zone, and that nothing was lost.

    What is free or on a pageset is a matter of which zone served what; how it is shared out between the two
    is one of when the kernel's workers drained them.
    """
    name, seen = result.name, result.report.agreement
    yield Field(name, "trace", "invariants violated", "machine", 0, len(result.report.problems))
    off = result.untraced + seen.compared - seen.same_zone
    for zone in result.zones:
        where = f"{zone.nid}:{zone.zone}"
        here, there = zone.free + zone.pageset, zone.traced_free + zone.traced_pageset
        yield Field(name, "trace", "free and on pagesets after trace", where, there, here, off, UNTRACED)
        slack = off + abs(zone.traced_pageset - (here - zone.settled_free))
        yield Field(
            name, "trace", "free after trace", where, zone.traced_free, zone.settled_free, slack, PAGESETS
        )
        pairs = enumerate(zip(zone.nr_free, zone.traced_nr_free, strict=True))
        orders = sum(abs(here - there) << order for order, (here, there) in pairs)
        slack = max(zone.managed * _LAYOUT_PERCENT // 100, _LAYOUT_PAGES)
        yield Field(name, "trace", "orders after trace", where, 0, orders, slack, LAYOUT)


def _or_dash(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def trace_rows(result: TraceResult) -> str:
    """Rows of the table of traces."""
    text = ""
    report = result.report
    for zone in result.zones:
        met = zone.free_percent <= FREE_PERCENT and zone.order_percent <= ORDER_PERCENT
        met &= zone.then_percent is None or zone.then_percent <= FREE_PERCENT
        text += (
            f"| {result.name} | {zone.nid}:{zone.zone} | {zone.managed} | {zone.free} | "
            f"{_or_dash(zone.traced_free_then)} | {_or_dash(zone.then_percent)} | "
            f"{zone.settled_free} | {zone.traced_free} | "
            f"{zone.free_percent:.2f} | {zone.order_percent:.2f} | "
            f"{'yes' if met else 'no'} |\n"
        )
    seen = report.agreement
    same = {"node": seen.same_node, "zone": seen.same_zone, "page": seen.same_pfn}
    shares = " | ".join(f"same {what} {100 * n / max(1, seen.compared):.2f} %" for what, n in same.items())
    return text + (
        f"| {result.name} | events here / traced | extfrag {report.steals} / {report.traced_steals} | "
        f"drained {report.drained} / {report.traced_drained} | refilled {report.refilled} / "
        f"{report.traced_refilled} | {shares} | inferred {report.inferred_allocs} allocations, "
        f"{report.inferred_drained_pages} pages drained | | | |\n"
    )
